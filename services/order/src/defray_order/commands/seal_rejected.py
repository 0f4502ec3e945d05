"""Seal what strangers sent and nobody could use: it may hold a buyer's data, and only whoever repairs it need see it."""

from typing import Final
from uuid import UUID

import msgspec

from defray_kernel import outbox
from defray_kernel.crypto import Envelope, hmac_sha256
from defray_kernel.db import Database
from defray_kernel.parking import Record
from defray_order.commands.make_key import MadeKey
from defray_order.domain.seals import rejected_context

_DIGESTS: Final = "inbound_digest"


class SealedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record's content sealed, and what tells two values apart without telling anything of them."""

    sealed: bytes
    value_digest: bytes


class RecordContent(msgspec.Struct, frozen=True, array_like=True):
    """What a stranger wrote."""

    key: bytes | None
    headers: outbox.Headers
    value: bytes | None


class RejectedVault:
    """Seals and opens."""

    def __init__(self, database: Database, envelope: Envelope) -> None:
        self._envelope, self._digest_key = envelope, MadeKey(database, envelope, _DIGESTS)

    async def seal(self, rejected_id: UUID, record: Record) -> SealedRecord:
        """For its row. The digest is keyed: of a plain one the few unknown digits in a value could be guessed."""
        content = RecordContent(record.key, list(record.headers), record.value)
        return SealedRecord(
            sealed=self._envelope.seal(msgspec.msgpack.encode(content), rejected_context(rejected_id)),
            value_digest=hmac_sha256(await self._digest_key.get(), record.value or b""),
        )

    def open(self, rejected_id: UUID, sealed: bytes) -> RecordContent:
        """The content. Raises CannotOpen when its key is not in the ring."""
        return msgspec.msgpack.decode(self._envelope.open(sealed, rejected_context(rejected_id)), type=RecordContent)
