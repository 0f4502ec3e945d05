"""Payment tokens: what lets a payer's cashier create, read and close the payments of one order, without an API key."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jwt
from jwt.algorithms import OKPAlgorithm

from defray_kernel import crypto
from defray_kernel.errors import ConfigInvalid
from defray_kernel.ids import parse
from defray_order.announce import OrderShown

ISSUER: Final = "defray-order"
AUDIENCE: Final = "defray-payment"
READABLE_FOR_S: Final = 24 * 3600
"""How long after the order's lifetime a token still reads results."""


class PaymentTokens:
    """Signs tokens (JWT, EdDSA) and publishes the key that they are verified with."""

    def __init__(self, private_key_pem: bytes, key_id: str) -> None:
        self._key, self._key_id = crypto.load_ed25519_private(private_key_pem), key_id

    @classmethod
    def from_file(cls, path: Path, key_id: str) -> "PaymentTokens":
        """Read the key from a mounted file. Raises ConfigInvalid."""
        try:
            return cls(path.read_bytes(), key_id)
        except OSError:
            raise ConfigInvalid("config_invalid: the token's private key file cannot be read") from None

    def sign(self, order: OrderShown) -> str:
        """The order's one token: Ed25519 is deterministic and so is every claim, so that a replay gets the same text.

        `iat` is the real time at which the order id (UUIDv7) was made, not business time, which a sandbox may move.
        """
        issued_at = parse("ord", order.order_id).int >> 80
        lifetime = order.expires_at - order.placed_at
        claims: Mapping[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": order.order_id,
            "mid": order.merchant_id,
            "amt": order.amount_minor,
            "cur": order.currency,
            "oxp": _rfc3339(order.expires_at),
            "iat": issued_at // 1000,
            "exp": issued_at // 1000 + int(lifetime.total_seconds()) + READABLE_FOR_S,
            "cid": order.correlation_id,
        }
        return jwt.encode(dict(claims), self._key, algorithm="EdDSA", headers={"kid": self._key_id})

    def key_set(self) -> dict[str, object]:
        """The public key as a JWKS (RFC 7517)."""
        key = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": self._key_id, "use": "sig", "alg": "EdDSA"}]}


def _rfc3339(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
