"""Coupon codes: made from the grant's id with a key that this service made for itself, found by digest, kept nowhere."""

import hashlib
import os
from typing import Final

from defray_kernel.crypto import Envelope, hmac_sha256
from defray_kernel.db import Database
from defray_order.domain.coupon import read_code, show_code
from defray_order.domain.grant import GrantId
from defray_order.domain.seals import made_key_context
from defray_order.store import buyers

_NAME: Final = "coupon_code"
_KEY_BYTES: Final = 32


class CouponCodes:
    """The code of each coupon: 100 bits that nobody can guess, and the same whenever it is asked for.

    The key is made once for the schema, by whichever process needs it first.
    """

    def __init__(self, database: Database, envelope: Envelope) -> None:
        self._database, self._envelope = database, envelope
        self._key: bytes | None = None

    async def code(self, grant_id: GrantId) -> str:
        """The code of this coupon, as it is shown."""
        return show_code(hmac_sha256(await self._made(), grant_id.bytes))

    async def _made(self) -> bytes:
        if self._key is None:
            context = made_key_context(_NAME)
            # In a transaction of its own: codes made with a key that was rolled back would be found by nobody.
            async with self._database.transaction() as tx:
                if await buyers.made_key(tx, _NAME) is None:
                    await buyers.make_key(tx, _NAME, self._envelope.seal(os.urandom(_KEY_BYTES), context))
                sealed = await buyers.made_key(tx, _NAME)
            assert sealed is not None
            self._key = self._envelope.open(sealed, context)
        return self._key


def digest(code: str) -> bytes | None:
    """What a coupon is found by; None for what cannot be a code. Codes are random: no key is needed to hide them."""
    plain = read_code(code)
    return None if plain is None else hashlib.sha256(f"coupon {plain}".encode()).digest()
