"""Parking: a key whose event cannot be applied waits in Postgres with all that comes behind it, until it is redriven."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncpg
import structlog

from defray_kernel import audit, metrics, outbox
from defray_kernel.clock import Clock
from defray_kernel.db import Connection, ReadConn, WriteTx, begin
from defray_kernel.errors import RetryLater
from defray_kernel.ids import uuid7
from defray_kernel.sql import queries

Q = queries(__file__)
_log = structlog.get_logger()

_KEY_BYTES_MAX: Final = 512
_EVENTS_PER_KEY_MAX: Final = 10_000
_EVENTS_MAX: Final = 100_000
_REDRIVE_BATCH: Final = 100
_OUTAGE_KEYS: Final = 5
_OUTAGE_WITHIN_S: Final = 10.0
_OUTAGE_SHARE: Final = 0.2
_OUTAGE_SHARE_FROM_KEYS: Final = 20
_FIRST_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 3_600.0
_WAITING_RETRY_MAX_S: Final = 30.0


class Record(Protocol):
    """A Kafka record, whether it came just now or was parked."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRecord:
    """A record as it was parked; `timestamp` in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The first event of a key that could not be applied, at `index` of its batch; `waiting` = RetryLater."""

    index: int
    key: bytes
    record: Record
    error: Exception
    waiting: bool
    attempts: int


class Outage(Exception):
    """So many keys fail that parking them would hide an outage: nothing was parked, the consumer holds."""


def parking_key(record: Record) -> bytes:
    """What is parked together: the Kafka key; a long key by its hash; a record without a key stands alone."""
    if record.key is None:
        return f"/{record.topic}/{record.partition}/{record.offset}".encode()
    if len(record.key) > _KEY_BYTES_MAX:
        return b"/sha256/" + hashlib.sha256(record.key).digest()
    return record.key


class Parking:
    """One consumer's parked keys. `dead_letter_topic` gets a copy of each key's first failing record, for eyes only."""

    def __init__(
        self, consumer: str, *, dead_letter_topic: str | None, version: str = "", lanes: int = outbox.LANES
    ) -> None:
        self.consumer = consumer
        self._dead_letter_topic, self._version, self._lanes = dead_letter_topic, version, lanes
        self._recent: deque[tuple[float, bytes]] = deque()

    async def parked_among(self, tx: WriteTx, keys: set[bytes]) -> set[bytes]:
        """Which of these keys are parked; they stay so until the transaction ends (a redrive waits, and is waited for)."""
        return {row["part_key"] for row in await tx.fetch(Q.parked_among, self.consumer, list(keys))}

    async def park(self, tx: WriteTx, failures: Sequence[Failure], behind: Sequence[tuple[bytes, Record]]) -> None:
        """Park keys and, in order, their records. Raises Outage when a limit is reached: 10,000 per key, 100,000 in all."""
        if failures:
            await tx.execute(
                Q.park_keys,
                self.consumer,
                [failure.key for failure in failures],
                [failure.waiting for failure in failures],
                [type(failure.error).__name__[:200] for failure in failures],
                [_text(failure.error) for failure in failures],
            )
            await self._send_dead_letters(tx, [failure for failure in failures if not failure.waiting])
        await tx.execute(
            Q.park_events,
            self.consumer,
            [key for key, _ in behind],
            [record.topic for _, record in behind],
            [record.partition for _, record in behind],
            [record.offset for _, record in behind],
            [record.timestamp for _, record in behind],
            [record.key for _, record in behind],
            [record.value for _, record in behind],
            [outbox.pack_headers(list(record.headers)) for _, record in behind],
        )
        if await tx.fetchval(Q.events_of_consumer, self.consumer, _EVENTS_MAX + 1) > _EVENTS_MAX:
            raise Outage(f"more than {_EVENTS_MAX} events are parked")
        keys = list({key for key, _ in behind})
        if await tx.fetchval(Q.fullest_key, self.consumer, keys, _EVENTS_PER_KEY_MAX + 1) > _EVENTS_PER_KEY_MAX:
            raise Outage(f"more than {_EVENTS_PER_KEY_MAX} events of one key are parked")

    def refuse_to_hide_an_outage(self, broken: set[bytes], *, of_keys: int = 0) -> None:
        """Raises Outage when more than 5 keys broke within 10 s, or more than a fifth of a batch of 20 keys or more."""
        since = time.monotonic() - _OUTAGE_WITHIN_S
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()
        lately = {key for _, key in self._recent} | broken
        if broken and len(lately) > _OUTAGE_KEYS:
            raise Outage(f"{len(lately)} keys failed within {_OUTAGE_WITHIN_S:.0f} s")
        if of_keys >= _OUTAGE_SHARE_FROM_KEYS and len(broken) > _OUTAGE_SHARE * of_keys:
            raise Outage(f"{len(broken)} of {of_keys} keys of one batch failed")

    def committed(self, failures: Sequence[Failure], parked: int) -> None:
        """Count and tell what was parked, once it is."""
        now = time.monotonic()
        self._recent.extend((now, failure.key) for failure in failures if not failure.waiting)
        if parked:
            metrics.count("events_parked", parked, consumer=self.consumer)
        for failure in failures:
            _log.log(
                30 if failure.waiting else 40,
                "key_parked",
                consumer=self.consumer,
                part_key=show_key(failure.key),
                topic=failure.record.topic,
                offset=failure.record.offset,
                error_class=type(failure.error).__name__,
            )

    async def redrive(
        self, connection: Connection, apply: Callable[[WriteTx, Record], Awaitable[Exception | None]]
    ) -> int | None:
        """Apply one due key's events in order until one fails; returns how many were applied, None when none is due.

        Holding the key's row, it is waited for by the consumer, which sees the key free afterwards: nothing slips past.
        """
        async with begin(connection) as tx:
            claimed = await tx.fetchrow(Q.claim_due, self.consumer)
            if claimed is None:
                return None
            key = claimed["part_key"]
            rows = await tx.fetch(Q.next_events, self.consumer, key, 0, _REDRIVE_BATCH)
            done: list[int] = []
            error: Exception | None = None
            for row in rows:
                error = await apply(tx, _record(row))
                if error is not None:
                    break
                done.append(row["id"])
            if done:
                await tx.execute(Q.delete_events, done)
            if await tx.fetchval(Q.free_key, self.consumer, key) is None:
                await self._put_off(tx, claimed, error, progress=bool(done))
            if error is not None and claimed["waiting"] and not isinstance(error, RetryLater):
                # It waited for the world, and now it turns out to be broken: tell it as one that was broken at once.
                record = _record(rows[len(done)])
                failure = Failure(index=0, key=key, record=record, error=error, waiting=False, attempts=1)
                await self._send_dead_letters(tx, [failure])
                self.committed([failure], 0)
        if done:
            metrics.count("events_redriven", len(done), consumer=self.consumer)
            _log.info(
                "key_redriven", consumer=self.consumer, part_key=show_key(key), events=len(done), free=error is None
            )
        return len(done)

    async def measure(self, connection: Connection) -> None:
        """Set the gauge of parked keys."""
        metrics.gauge("parked_keys", await connection.fetchval(Q.count_keys, self.consumer), consumer=self.consumer)

    async def _put_off(self, tx: WriteTx, claimed: asyncpg.Record, error: Exception | None, *, progress: bool) -> None:
        attempts = 0 if progress else claimed["attempts"] + 1
        waiting = isinstance(error, RetryLater)
        delay_s = 0.0
        if error is not None:
            cap_s = _WAITING_RETRY_MAX_S if waiting else _RETRY_MAX_S
            delay_s = min(cap_s, _FIRST_RETRY_S * 2.0 ** min(attempts, 20))
        name, text = ("", "") if error is None else (type(error).__name__[:200], _text(error))
        await tx.execute(Q.put_off, self.consumer, claimed["part_key"], attempts, delay_s, waiting, name, text)

    async def _send_dead_letters(self, tx: WriteTx, failures: Sequence[Failure]) -> None:
        if self._dead_letter_topic is not None:
            topic, version = self._dead_letter_topic, self._version
            await outbox.append_records(tx, [_dead_letter(topic, version, each) for each in failures], self._lanes)


def _dead_letter(topic: str, version: str, failure: Failure) -> outbox.OutboxRecord:
    """A copy with its origin in `x-` headers. Its aggregate is the partition it came from, which no other event has."""
    record = failure.record
    value = record.value or b""
    moment = dt.datetime.fromtimestamp(record.timestamp / 1000, dt.UTC)
    about = {
        "x-origin-topic": record.topic,
        "x-origin-partition": str(record.partition),
        "x-origin-offset": str(record.offset),
        "x-origin-timestamp": str(record.timestamp),
        "x-error-class": type(failure.error).__name__,
        "x-error": _text(failure.error),
        "x-attempts": str(failure.attempts),
        "x-service-version": version,
        "x-truncated": "true" if len(value) > outbox.PAYLOAD_BYTES_MAX else "false",
    }
    kept = list(record.headers)
    if sum(len(name) + len(text) for name, text in kept) > 64 * 1024:
        kept = []
    return outbox.OutboxRecord(
        event_id=uuid7(),
        topic=topic,
        key=(record.key or b"")[:1024],
        type="dead_letter",
        aggregate_id=f"{topic}/{record.topic}/{record.partition}",
        sequence=record.offset,
        payload=value[: outbox.PAYLOAD_BYTES_MAX],
        headers=[*kept, *((name, text.encode()) for name, text in about.items())],
        occurred_at=moment,
    )


def _record(row: asyncpg.Record) -> ParkedRecord:
    return ParkedRecord(
        topic=row["topic"],
        partition=row["part"],
        offset=row["part_offset"],
        timestamp=row["recorded_ms"],
        key=row["key"],
        value=row["payload"],
        headers=outbox.unpack_headers(row["headers"]),
    )


def _text(error: Exception) -> str:
    return str(error).encode("utf-8", "replace").decode().replace("\x00", "")[:1000]


def show_key(key: bytes) -> str:
    """A parked key as an operator sees and types it: text where it is plain text, else `hex:` and its bytes."""
    text = key.decode("ascii", "replace")
    return text if text.isprintable() and "\ufffd" not in text and not text.startswith("hex:") else f"hex:{key.hex()}"


def read_key(shown: str) -> bytes:
    """The key that `show_key` showed. Raises ValueError."""
    return bytes.fromhex(shown[4:]) if shown.startswith("hex:") else shown.encode("ascii")


async def list_keys(connection: ReadConn, consumer: str | None = None, *, limit: int = 100) -> list[dict[str, Any]]:
    """Parked keys, oldest first, with their error and how many events wait (at most 10,001 are counted)."""
    rows = await connection.fetch(Q.list_keys, consumer, limit)
    return [dict(row) | {"part_key": show_key(row["part_key"])} for row in rows]


async def retry(tx: WriteTx, consumer: str, key: bytes, *, actor: str, clock: Clock) -> bool:
    """Make a parked key due now; False when it is not parked. Audited."""
    if await tx.fetchval(Q.due_now, consumer, key) is None:
        return False
    await audit.append(tx, actor=actor, action="parked.retry", subject=f"{consumer} {show_key(key)}", clock=clock)
    return True


async def skip(tx: WriteTx, consumer: str, key: bytes, *, actor: str, reason: str, clock: Clock) -> bool:
    """Give up the first event of a parked key, so that those behind it are tried; False when it is not parked. Audited.

    What the event would have done stays undone: the audit row names topic, partition and offset, and the dead-letter
    topic holds its bytes.
    """
    if await tx.fetchval(Q.lock_key, consumer, key) is None:
        return False
    row = await tx.fetchrow(Q.next_events, consumer, key, 0, 1)
    detail: dict[str, object] = {"reason": reason[:500]}
    if row is not None:
        detail |= {"topic": row["topic"], "partition": row["part"], "offset": row["part_offset"]}
        await tx.execute(Q.delete_events, [row["id"]])
    if await tx.fetchval(Q.free_key, consumer, key) is None:
        await tx.fetchval(Q.due_now, consumer, key)
    await audit.append(
        tx, actor=actor, action="parked.skip", subject=f"{consumer} {show_key(key)}", clock=clock, detail=detail
    )
    return True
