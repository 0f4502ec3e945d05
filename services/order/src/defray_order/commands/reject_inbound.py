"""Reject records that cannot be used: a sealed row that an operator can redrive, and a dead letter that tells of it."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec

from defray_kernel import outbox, redaction
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import show, uuid7
from defray_kernel.outbox import OutboxRecord
from defray_kernel.parking import ParkedRecord
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.store import inbound
from defray_order.store.inbound import Rejected

DEAD_LETTERS: Final = "dlq.order.inbound"


async def handle(rejected: Sequence[Rejected], tx: WriteTx, clock: Clock, vault: RejectedVault) -> None:
    """Keep them, and tell of them through the outbox, in the caller's transaction."""
    if rejected:
        # Their ids follow the log, so that whoever redrives them in that order keeps each key's.
        in_order = sorted(rejected, key=lambda each: (each.record.topic, each.record.partition, each.record.offset))
        ids = sorted(uuid7() for _ in rejected)
        kept = [
            _without_cards(msgspec.structs.replace(each, rejected_id=rejected_id))
            for each, rejected_id in zip(in_order, ids, strict=True)
        ]
        sealed = [await vault.seal(each.rejected_id, inbound.cut(each.record)) for each in kept]
        await inbound.reject(tx, kept, [(each.sealed, each.value_digest) for each in sealed], clock.real())
        letters = [_dead_letter(each, of.value_digest) for each, of in zip(kept, sealed, strict=True)]
        await outbox.append_records(tx, letters)


def _without_cards(rejected: Rejected) -> Rejected:
    """Card numbers are never stored, whoever sent them: what holds one is left out."""
    record = rejected.record
    key, value = (None if _holds_card(part) else part for part in (record.key, record.value))
    headers = [(name, text) for name, text in record.headers if not _holds_card(text)]
    if (key, value, len(headers)) == (record.key, record.value, len(record.headers)):
        return rejected
    bare = ParkedRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=key,
        value=value,
        headers=headers,
    )
    return msgspec.structs.replace(rejected, record=bare, withheld=True)


def _holds_card(part: bytes | None) -> bool:
    return part is not None and redaction.has_card_number(part.decode("latin-1"))


def _dead_letter(rejected: Rejected, value_digest: bytes) -> OutboxRecord:
    """Where it stood and which field was wrong. Nothing that a stranger wrote: a topic cannot forget."""
    record = rejected.record
    place = f"{record.topic}/{record.partition}/{record.offset}"
    about = {
        "x-origin-topic": record.topic,
        "x-origin-partition": str(record.partition),
        "x-origin-offset": str(record.offset),
        "x-origin-timestamp": str(record.timestamp),
        "x-reason": rejected.reason,
        "x-field": rejected.field,
        "x-detail": rejected.detail,
        "x-rejected-id": show("rej", rejected.rejected_id),
        "x-value-digest": value_digest.hex(),
    }
    return OutboxRecord(
        event_id=rejected.rejected_id,
        topic=DEAD_LETTERS,
        key=place.encode(),
        type="dead_letter",
        aggregate_id=f"{DEAD_LETTERS}/{record.topic}/{record.partition}",
        sequence=record.offset,
        payload=b"",
        headers=[(name, text.encode()) for name, text in about.items()],
        occurred_at=dt.datetime.fromtimestamp(record.timestamp / 1000, dt.UTC),
    )
