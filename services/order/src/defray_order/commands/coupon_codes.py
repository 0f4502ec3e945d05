"""Coupon codes: made from the grant's id with a key that this service made for itself, found by digest, kept nowhere."""

import hashlib
from typing import Final

from defray_kernel.crypto import Envelope, hmac_sha256
from defray_kernel.db import Database
from defray_order.commands.make_key import MadeKey
from defray_order.domain.coupon import read_code, show_code
from defray_order.domain.grant import GrantId

_NAME: Final = "coupon_code"


class CouponCodes:
    """The code of each coupon: 100 bits that nobody can guess, and the same whenever it is asked for."""

    def __init__(self, database: Database, envelope: Envelope) -> None:
        self._key = MadeKey(database, envelope, _NAME)

    async def code(self, grant_id: GrantId) -> str:
        """The code of this coupon, as it is shown."""
        return show_code(hmac_sha256(await self._key.get(), grant_id.bytes))


def digest(code: str) -> bytes | None:
    """What a coupon is found by; None for what cannot be a code. Codes are random: no key is needed to hide them."""
    plain = read_code(code)
    return None if plain is None else hashlib.sha256(f"coupon {plain}".encode()).digest()
