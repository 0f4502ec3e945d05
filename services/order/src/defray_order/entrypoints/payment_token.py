"""Payment tokens: what lets a payer's cashier create, read and close the payments of one order, without an API key."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from defray_kernel import crypto
from defray_kernel.clock import Clock
from defray_kernel.errors import ConfigInvalid
from defray_kernel.http import TokenVerifier
from defray_kernel.ids import MerchantId, OrderId, parse
from defray_order.announce import OrderShown

ISSUER: Final = "defray-order"
AUDIENCE: Final = "defray-payment"
_CHARACTERS_MAX: Final = 2_048
READABLE_FOR_S: Final = 24 * 3600
"""How long after the order's lifetime a token still reads results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBearer:
    """Who shows a valid token: the customer of one order."""

    order_id: OrderId
    merchant_id: MerchantId


class PaymentTokens:
    """Signs tokens (JWT, EdDSA), verifies them, and publishes the keys that they are verified with.

    Two keys can be live: the one that signs, and another whose tokens are still or soon about (`also`: kid and public key).
    """

    def __init__(self, private_key_pem: bytes, key_id: str, *, also: tuple[str, bytes] | None = None) -> None:
        self._key, self._key_id = crypto.load_ed25519_private(private_key_pem), key_id
        self._public: dict[str, Ed25519PublicKey] = {key_id: self._key.public_key()}
        if also is not None:
            other_id, other_pem = also
            if other_id == key_id:
                raise ConfigInvalid("config_invalid: the two token keys have one key id")
            self._public[other_id] = crypto.load_ed25519_public(other_pem)

    @classmethod
    def from_files(cls, path: Path, key_id: str, other_path: Path | None, other_id: str | None) -> "PaymentTokens":
        """Read the keys from mounted files. Raises ConfigInvalid."""
        if (other_path is None) != (other_id is None):
            raise ConfigInvalid("config_invalid: the other token key needs its file and its key id")
        try:
            other = None if other_path is None or other_id is None else (other_id, other_path.read_bytes())
            return cls(path.read_bytes(), key_id, also=other)
        except OSError:
            raise ConfigInvalid("config_invalid: a token key file cannot be read") from None

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

    def verify(self, token: str, now: dt.datetime) -> TokenBearer | None:
        """Whose token this is at this real time; None for one that is forged, over, or not ours, whatever the reason."""
        if len(token) > _CHARACTERS_MAX:
            return None
        try:
            claims = jwt.decode(
                token,
                self._public[jwt.get_unverified_header(token)["kid"]],
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                # Its end is checked against our clock, which tests can set.
                options={"require": ["exp", "sub", "iss", "aud"], "verify_exp": False, "verify_iat": False},
            )
            if now.timestamp() >= claims["exp"]:
                return None
            return TokenBearer(
                order_id=OrderId(parse("ord", claims["sub"])), merchant_id=MerchantId(parse("mer", claims["mid"]))
            )
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
            return None

    def verifier(self, clock: Clock) -> TokenVerifier:
        """What an edge checks tokens with."""

        def verify(token: str) -> TokenBearer | None:
            return self.verify(token, clock.real())

        return verify

    def key_set(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JWKS (RFC 7517), the signing one first."""
        return {
            "keys": [
                {**OKPAlgorithm.to_jwk(key, as_dict=True), "kid": key_id, "use": "sig", "alg": "EdDSA"}
                for key_id, key in self._public.items()
            ]
        }


def _rfc3339(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
