"""The transactional outbox: what a service announces is written with the work itself and carried to Kafka by the relay."""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from defray_kernel.contracts import envelope
from defray_kernel.contracts.envelope import Cause, EventData
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.errors import StartRefused
from defray_kernel.ids import uuid7
from defray_kernel.sql import queries

Q = queries(__file__)

LANES: Final = 4
PAYLOAD_BYTES_MAX: Final = 768 * 1024
"""Below the topics' max.message.bytes (1 MiB) with room for key and headers; the table repeats it as a CHECK."""

Headers = list[tuple[str, bytes]]
_unpack: Final = msgspec.msgpack.Decoder(Headers).decode


class EventTooLarge(Exception):
    """The event's JSON is larger than a topic takes; nothing was written."""


class OutboxEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One announcement. `sequence` is the aggregate's gap-free `event_seq`, drawn under the aggregate's row lock."""

    topic: str
    key: str
    type: str
    aggregate_id: str
    sequence: int
    data: EventData
    cause: Cause
    occurred_at: dt.datetime
    id: UUID = msgspec.field(default_factory=uuid7)


class OutboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One row in final form: bytes and headers as they go to Kafka."""

    event_id: UUID
    topic: str
    key: bytes
    type: str
    aggregate_id: str
    sequence: int
    payload: bytes
    headers: Headers
    occurred_at: dt.datetime


def event(data: EventData, *, key: str, aggregate_id: str, sequence: int, cause: Cause, at: dt.datetime) -> OutboxEvent:
    """An announcement of `data` on its contract's topic; `at` is business time, `key` keeps its order in Kafka."""
    return OutboxEvent(
        topic=data.TOPIC,
        key=key,
        type=data.TYPE,
        aggregate_id=aggregate_id,
        sequence=sequence,
        data=data,
        cause=cause,
        occurred_at=at,
    )


def lane_of(key: bytes, lanes: int) -> int:
    """The lane that carries this key; all of a key's records share one."""
    return zlib.crc32(key) % lanes


def pack_headers(headers: Headers) -> bytes:
    """Headers as one opaque column: MessagePack, because values may hold any byte and a header may repeat."""
    return msgspec.msgpack.encode(headers)


def unpack_headers(packed: bytes) -> Headers:
    """The headers that `pack_headers` packed."""
    return _unpack(packed)


async def append(tx: WriteTx, events: Sequence[OutboxEvent], lanes: int = LANES) -> None:
    """Write announcements in the order given, in one statement.

    The caller holds the row lock of what each key names since before this call: only then is id order commit order.
    Raises EventTooLarge before anything is written.
    """
    await append_records(tx, [_record(each) for each in events], lanes)


async def append_records(tx: WriteTx, records: Sequence[OutboxRecord], lanes: int = LANES) -> None:
    """Write records that are already in final form, such as dead letters. See `append`."""
    if not records:
        return
    for record in records:
        if len(record.payload) > PAYLOAD_BYTES_MAX:
            raise EventTooLarge(f"{record.type} of {record.aggregate_id}: {len(record.payload)} bytes")
    await tx.execute(
        Q.append,
        [lane_of(record.key, lanes) for record in records],
        [record.event_id for record in records],
        [record.topic for record in records],
        [record.key for record in records],
        [record.type for record in records],
        [record.aggregate_id for record in records],
        [record.sequence for record in records],
        [record.payload for record in records],
        [pack_headers(record.headers) for record in records],
        [record.occurred_at for record in records],
    )


async def check_lanes(connection: ReadConn, lanes: int) -> None:
    """Refuse another number of lanes than the schema holds. Raises StartRefused.

    With another number a key's next event could travel in another lane than its last, and overtake it.
    """
    stored = await connection.fetchval(Q.stored_lanes)
    if stored != str(lanes):
        raise StartRefused(f"this schema's outbox has {stored} lanes, the settings say {lanes}")


def _record(announced: OutboxEvent) -> OutboxRecord:
    headers = envelope.headers(
        event_id=announced.id,
        source="/" + announced.topic.partition(".")[0],
        type_=announced.type,
        subject=announced.aggregate_id,
        key=announced.key,
        sequence=announced.sequence,
        time=announced.occurred_at,
        cause=announced.cause,
    )
    return OutboxRecord(
        event_id=announced.id,
        topic=announced.topic,
        key=announced.key.encode(),
        type=announced.type,
        aggregate_id=announced.aggregate_id,
        sequence=announced.sequence,
        payload=msgspec.json.encode(announced.data),
        headers=[(name, value.encode()) for name, value in headers.items()],
        occurred_at=announced.occurred_at,
    )
