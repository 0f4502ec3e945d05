"""Requests of strangers: which were used, which wait for their merchant, which were rejected; every statement takes a batch."""

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record as Row

from defray_kernel import outbox, strict_json
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId
from defray_kernel.parking import ParkedRecord, Record
from defray_kernel.sql import queries

Q = queries(__file__)

KEY_BYTES_MAX: Final = 1024
HEADERS_BYTES_MAX: Final = 128 * 1024


class KnownMerchant(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant of the projection; `state` is None when it could not be read."""

    merchant_id: MerchantId
    state: MerchantState | None


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be used: a stable code, the field that was wrong, and our own words."""

    rejected_id: UUID
    record: Record
    reason: str
    field: str
    detail: str
    withheld: bool = False
    """Whether parts of the record were left out because they held a card number."""


class RejectedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A rejected record as it is kept; `sealed` is its content, only where one is looked at. `timestamp` in ms."""

    rejected_id: UUID
    topic: str
    partition: int
    offset: int
    timestamp: int
    sealed: bytes | None
    value_bytes: int
    value_digest: bytes | None
    truncated: bool
    reason: str
    field: str
    detail: str
    state: str
    rejected_at: dt.datetime
    tries: int
    ended_at: dt.datetime | None
    ended_by: str | None


async def merchants(conn: ReadConn, merchant_ids: Sequence[MerchantId]) -> dict[MerchantId, KnownMerchant]:
    """The merchants there are of those asked for."""
    return {
        MerchantId(row["merchant_id"]): KnownMerchant(
            merchant_id=MerchantId(row["merchant_id"]),
            state=None if row["status"] == "UNREADABLE" else msgspec.json.decode(row["state"], type=MerchantState),
        )
        for row in await conn.fetch(Q.merchants, merchant_ids)
    }


async def waiting_among(tx: WriteTx, keys: Sequence[bytes]) -> set[bytes]:
    """Which of these keys have something waiting; it stays until the transaction ends."""
    return {row["key"] for row in await tx.fetch(Q.waiting_among, keys)}


async def count_waiting(conn: ReadConn, *, at_most: int) -> int:
    """How many records wait, counted no further than asked."""
    found: int = await conn.fetchval(Q.count_waiting, at_most)
    return found


async def wait(tx: WriteTx, records: Sequence[tuple[MerchantId, Record]], *, give_up_at: dt.datetime) -> None:
    """Let readable records wait for their merchant, in the order given."""
    each = [record for _, record in records]
    await tx.execute(Q.wait, [merchant_id for merchant_id, _ in records], *_columns(each), give_up_at)


async def due(tx: WriteTx, *, now: dt.datetime, limit: int) -> list[tuple[int, ParkedRecord]]:
    """Lock what has waited long enough, or whose merchant is known by now; oldest first."""
    return [(row["id"], _record(row)) for row in await tx.fetch(Q.due, now, limit)]


async def stop_waiting(tx: WriteTx, ids: Sequence[int]) -> None:
    """Take records off the waiting list."""
    await tx.execute(Q.stop_waiting, ids)


async def first_seen(tx: WriteTx, requests: Sequence[tuple[bytes, bytes]], at: dt.datetime) -> dict[bytes, bytes]:
    """Remember requests (digest, content hash); returns the hash under which each digest was seen before, if it was.

    A twin's open transaction is waited for.
    """
    digests = [digest for digest, _ in requests]
    new = {row["digest"] for row in await tx.fetch(Q.first_seen, digests, [hash_ for _, hash_ in requests], at)}
    old = [digest for digest in digests if digest not in new]
    return {row["digest"]: row["content_hash"] for row in await tx.fetch(Q.seen, old)} if old else {}


async def forget(tx: WriteTx, digests: Sequence[bytes]) -> None:
    """Forget requests that were rejected: corrected, they may come again under the same id."""
    await tx.execute(Q.forget, digests)


async def reject(
    tx: WriteTx, rejected: Sequence[Rejected], sealed: Sequence[tuple[bytes, bytes]], at: dt.datetime
) -> None:
    """Keep records that could not be used, each with its sealed content (see `cut`) and its value's digest."""
    records = [each.record for each in rejected]
    await tx.execute(
        Q.reject,
        [each.rejected_id for each in rejected],
        *_places(records),
        [content for content, _ in sealed],
        [len(record.value or b"") for record in records],
        [digest for _, digest in sealed],
        [each.withheld or _is_long(each.record) for each in rejected],
        [each.reason for each in rejected],
        [each.field for each in rejected],
        [each.detail for each in rejected],
        at,
    )


async def list_rejected(
    conn: ReadConn, *, after: UUID, state: str | None, reason: str | None, limit: int
) -> list[RejectedRow]:
    """Rejected records without their content, oldest first, from behind `after`."""
    return [_row(row, None) for row in await conn.fetch(Q.list_rejected, after, state, reason, limit)]


async def rejected(conn: ReadConn, rejected_id: UUID) -> RejectedRow | None:
    """One rejected record, whole."""
    row = await conn.fetchrow(Q.rejected, rejected_id)
    return None if row is None else _row(row, row["record_sealed"])


async def lock_open(tx: WriteTx, rejected_id: UUID) -> RejectedRow | None:
    """Lock one that is open, and read it whole."""
    row = await tx.fetchrow(Q.lock_open, rejected_id)
    return None if row is None else _row(row, row["record_sealed"])


async def refused_again(tx: WriteTx, rejected_id: UUID, *, reason: str, field: str, detail: str) -> None:
    """Keep why it was refused this time."""
    await tx.execute(Q.refused_again, rejected_id, reason, field, detail)


async def end_rejected(tx: WriteTx, rejected_id: UUID, *, state: str, at: dt.datetime, by: str) -> None:
    """REDRIVEN or DISMISSED."""
    await tx.execute(Q.end_rejected, rejected_id, state, at, by)


async def purge(tx: WriteTx, *, seen_before: dt.datetime, rejected_before: UUID, limit: int) -> int:
    """Forget what is older than it need be; returns how many rows."""
    seen = await tx.fetch(Q.purge_seen, seen_before, limit)
    return len(seen) + len(await tx.fetch(Q.purge_rejected, rejected_before, limit))


def _places(records: Sequence[Record]) -> list[list[object]]:
    return [
        [record.topic for record in records],
        [record.partition for record in records],
        [record.offset for record in records],
        [record.timestamp for record in records],
    ]


def _columns(records: Sequence[Record]) -> list[list[object]]:
    return [
        *_places(records),
        [record.key for record in records],
        [outbox.pack_headers(list(record.headers)) for record in records],
        [record.value for record in records],
    ]


def _is_long(record: Record) -> bool:
    return (
        len(record.value or b"") > strict_json.BYTES_MAX
        or len(record.key or b"") > KEY_BYTES_MAX
        or len(outbox.pack_headers(list(record.headers))) > HEADERS_BYTES_MAX
    )


def cut(record: Record) -> ParkedRecord:
    """A record no longer than is kept; what is longer than anything usable is cut, and its row marked."""
    headers = list(record.headers)
    return ParkedRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=None if record.key is None else record.key[:KEY_BYTES_MAX],
        value=None if record.value is None else record.value[: strict_json.BYTES_MAX],
        headers=headers if len(outbox.pack_headers(headers)) <= HEADERS_BYTES_MAX else [],
    )


def _record(row: Row) -> ParkedRecord:
    return ParkedRecord(
        topic=row["topic"],
        partition=row["part"],
        offset=row["part_offset"],
        timestamp=row["recorded_ms"],
        key=row["key"],
        value=row["payload"],
        headers=outbox.unpack_headers(row["headers"]),
    )


def _row(row: Row, sealed: bytes | None) -> RejectedRow:
    return RejectedRow(
        rejected_id=row["rejected_id"],
        topic=row["topic"],
        partition=row["part"],
        offset=row["part_offset"],
        timestamp=row["recorded_ms"],
        sealed=sealed,
        value_bytes=row["value_bytes"],
        value_digest=row["value_digest"],
        truncated=row["truncated"],
        reason=row["reason"],
        field=row["field"],
        detail=row["detail"],
        state=row["state"],
        rejected_at=row["rejected_at"],
        tries=row["tries"],
        ended_at=row["ended_at"],
        ended_by=row["ended_by"],
    )
