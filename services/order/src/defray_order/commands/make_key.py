"""Make a key for this service's own use: once for the schema, by whichever process needs it first, sealed with the data key."""

import os
from typing import Final

from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_order.domain.seals import made_key_context
from defray_order.store import buyers

_KEY_BYTES: Final = 32


class MadeKey:
    """One such key, by its name; it never changes, and a rotation of the data key only seals it anew."""

    def __init__(self, database: Database, envelope: Envelope, name: str) -> None:
        self._database, self._envelope, self._name = database, envelope, name
        self._key: bytes | None = None

    async def get(self) -> bytes:
        """The key. Raises CannotOpen when the data key that sealed it is not in the ring."""
        if self._key is None:
            context = made_key_context(self._name)
            # In a transaction of its own: what was made with a key that then rolls back would be found by nobody.
            async with self._database.transaction() as tx:
                if await buyers.made_key(tx, self._name) is None:
                    await buyers.make_key(tx, self._name, self._envelope.seal(os.urandom(_KEY_BYTES), context))
                sealed = await buyers.made_key(tx, self._name)
            assert sealed is not None
            self._key = self._envelope.open(sealed, context)
        return self._key
