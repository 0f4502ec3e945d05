"""Payment tokens: the order service's word on one order, which alone authorises paying, reading and closing its payments."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec

from defray_kernel import ids
from defray_kernel.clock import Clock
from defray_kernel.errors import ConfigInvalid
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import MINOR_MAX, Money
from defray_payment.domain.payable import OrderTerms

ISSUER: Final = "defray-order"
AUDIENCE: Final = "defray-payment"
REMEMBERED_MAX: Final = 20_000
_TOKEN_CHARACTERS_MAX: Final = 2_048
_CORRELATION_ID_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentToken:
    """A verified token: the order's terms, and until when (real time) it is good."""

    terms: OrderTerms
    good_until: dt.datetime


class PaymentTokens:
    """Verifies tokens (JWT, EdDSA) against the order service's mounted public keys.

    What was verified once is remembered, at most `remembered_max` of them: an Ed25519 check costs 111 µs.
    """

    def __init__(self, key_set: bytes, clock: Clock, *, remembered_max: int = REMEMBERED_MAX) -> None:
        self._clock, self._remembered_max = clock, remembered_max
        self._verified: OrderedDict[str, PaymentToken] = OrderedDict()
        try:
            documents = msgspec.json.decode(key_set)["keys"]
            self._keys = {d["kid"]: jwt.PyJWK(d, algorithm="EdDSA") for d in documents}
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError, jwt.PyJWTError):
            raise ConfigInvalid("the order token key set is not a JWKS of Ed25519 keys with kid") from None
        if not self._keys:
            raise ConfigInvalid("the order token key set is empty")

    @classmethod
    def from_file(cls, path: Path, clock: Clock) -> PaymentTokens:
        """Read the mounted key set. Raises ConfigInvalid."""
        try:
            return cls(path.read_bytes(), clock)
        except OSError:
            raise ConfigInvalid("the order token key set cannot be read") from None

    def __call__(self, token: str) -> PaymentToken | None:
        """The token's terms; None for one that is forged, over, or not for us, whatever the reason."""
        if len(token) > _TOKEN_CHARACTERS_MAX:
            return None
        found = self._verified.get(token) or self._remembered(token)
        return found if found is not None and self._clock.real() < found.good_until else None

    def _remembered(self, token: str) -> PaymentToken | None:
        verified = self._verify(token)
        if verified is not None:
            if len(self._verified) >= self._remembered_max:
                self._verified.popitem(last=False)
            self._verified[token] = verified
        return verified

    def _verify(self, token: str) -> PaymentToken | None:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                # Its end is checked against our clock at every use, also when the signature is not checked again.
                options={"require": ["exp", "sub", "iss", "aud"], "verify_exp": False, "verify_iat": False},
            )
            return _read(claims)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
            return None


def _read(claims: dict[str, Any]) -> PaymentToken:
    amount, expires_at, cid = claims["amt"], dt.datetime.fromisoformat(claims["oxp"]), claims["cid"]
    if type(amount) is not int or not 0 <= amount <= MINOR_MAX or expires_at.tzinfo is None:
        raise ValueError("amt or oxp")
    if not isinstance(cid, str) or not 0 < len(cid) <= _CORRELATION_ID_MAX:
        raise ValueError("cid")
    terms = OrderTerms(
        order_id=OrderId(ids.parse("ord", claims["sub"])),
        merchant_id=MerchantId(ids.parse("mer", claims["mid"])),
        amount=Money(minor=amount, currency=claims["cur"]),
        expires_at=expires_at,
        correlation_id=cid,
    )
    return PaymentToken(terms=terms, good_until=dt.datetime.fromtimestamp(claims["exp"], dt.UTC))
