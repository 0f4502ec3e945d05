"""What the messaging proofs share: an event, writers that announce it, and a handler that checks every sequence number."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.consumer import Consumer, Subscription
from defray_kernel.contracts.envelope import Cause, Event, EventData
from defray_kernel.db import Connection, Database, WriteTx, begin
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.kafka import Kafka
from defray_kernel.outbox import OutboxEvent
from defray_kernel.testing.eventually import eventually
from defray_kernel.wakeup import Wakeup

SCHEMA = Path(__file__).with_name("schema.sql")


class Moved(EventData, frozen=True, kw_only=True):
    """An event of the proofs; its topic is each test's own."""

    TYPE: ClassVar[str] = "harness.moved.v1"
    TOPIC: ClassVar[str] = "harness.moved.v1"

    note: str = ""


class Unheard(EventData, frozen=True, kw_only=True):
    """An event nobody subscribes to."""

    TYPE: ClassVar[str] = "harness.unheard.v1"
    TOPIC: ClassVar[str] = "harness.moved.v1"

    note: str = ""


def announcement(topic: str, key: str, sequence: int, data: EventData | None = None) -> OutboxEvent:
    """One event of the thing that the key names."""
    data = data or Moved()
    return OutboxEvent(
        topic=topic,
        key=key,
        type=data.TYPE,
        aggregate_id=key,
        sequence=sequence,
        data=data,
        cause=Cause(correlation_id="corr"),
        occurred_at=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    )


async def announce(tx: WriteTx, topic: str, keys: Sequence[str], data: EventData | None = None) -> None:
    """Move each thing under its row lock and announce it, as every writer must."""
    events = []
    for key in sorted(set(keys)):
        sequence = await tx.fetchval(
            "INSERT INTO thing (key, event_seq) VALUES ($1, 1)"
            " ON CONFLICT (key) DO UPDATE SET event_seq = thing.event_seq + 1 RETURNING event_seq",
            key,
        )
        events.append(announcement(topic, key, sequence, data))
    await outbox.append(tx, events)


class RolledBack(Exception):
    """A writer changed its mind."""


async def write_once(connection: Connection, topic: str, keys: Sequence[str], rng: random.Random) -> int:
    """One business transaction: 30 % take their transaction id early, 10 % roll back. Returns events committed."""
    chosen = rng.sample(keys, rng.choice((1, 1, 1, 2, 3)))
    try:
        async with begin(connection) as tx:
            if rng.random() < 0.3:
                await tx.execute("INSERT INTO noise DEFAULT VALUES")
            await announce(tx, topic, chosen)
            if rng.random() < 0.1:
                raise RolledBack
    except RolledBack:
        return 0
    return len(chosen)


class Writers:
    """Concurrent writers on connections of their own, and how many events they have committed."""

    def __init__(self, database: Database, wakeup: Wakeup, topic: str, *, pause_s: float = 0.0) -> None:
        self._database, self._wakeup, self._topic, self._pause_s = database, wakeup, topic, pause_s
        self.committed = 0

    async def write(self, seed: int, keys: Sequence[str], go_on: Callable[[], bool]) -> None:
        """One writer; runs while `go_on()`."""
        rng = random.Random(seed)
        connection = await self._database.connect()
        try:
            while go_on():
                events = await write_once(connection, self._topic, keys, rng)
                self.committed += events
                self._wakeup.poke()
                await asyncio.sleep(self._pause_s)
        finally:
            await connection.close()


class Checked:
    """A handler that applies an event to `seen` and writes every gap or disorder to `wrong`.

    A relay may send an event twice; the sequence guard skips what it has seen, like every projection's. What `poison`
    names fails: `poison`, `bug`, `later` (the world is not ready) or `late` (only at COMMIT).
    """

    def __init__(self, reader: str) -> None:
        self.reader = reader

    async def __call__(self, events: Sequence[Event[Moved]], tx: WriteTx, _clock: Clock) -> None:
        subjects = [event.subject for event in events]
        sequences = [event.sequence for event in events]
        assert len({event.key for event in events}) == len(events), "a round holds a key twice"
        bad = await tx.fetchrow("SELECT kind FROM poison WHERE subject = ANY($1) ORDER BY subject LIMIT 1", subjects)
        if bad is not None and bad["kind"] == "late":
            await tx.execute("INSERT INTO checked_late VALUES ('nothing of this name')")
        elif bad is not None:
            raise {"poison": Poison("told to"), "later": RetryLater("told to")}.get(bad["kind"], ValueError("a bug"))
        await tx.execute(
            """
            WITH event AS (SELECT * FROM unnest($2::text[], $3::bigint[]) AS e (subject, seq)),
            before AS (
              SELECT e.subject, e.seq, coalesce(s.last_seq, 0) AS last_seq
              FROM event e LEFT JOIN seen s ON s.reader = $1 AND s.subject = e.subject),
            gap AS (INSERT INTO wrong SELECT $1, subject, last_seq + 1, seq FROM before WHERE seq > last_seq + 1)
            INSERT INTO seen (reader, subject, last_seq, applied)
            SELECT $1, subject, seq, 1 FROM before WHERE seq > last_seq ORDER BY subject
            ON CONFLICT (reader, subject) DO UPDATE SET last_seq = excluded.last_seq, applied = seen.applied + 1
            """,
            self.reader,
            subjects,
            sequences,
        )


def consumer(name: str, topic: str, database: Database, kafka: Kafka, clock: Clock, **options: Any) -> Consumer:  # noqa: ANN401
    """A consumer of the proofs, in a group of its own topic and name."""
    subscriptions = options.pop("subscriptions", (Subscription(Moved, Checked(name)),))
    return Consumer(name, f"{topic}.{name}", (topic,), subscriptions, database, kafka, clock, **options)


async def prepare(owner_dsn: str, runtime_role: str) -> None:
    """The tables of the proofs, beside the kernel's."""
    connection = await asyncpg.connect(owner_dsn)
    try:
        await connection.execute(SCHEMA.read_text().replace("__RUNTIME__", runtime_role))
    finally:
        await connection.close()


async def read_topic(kafka: Kafka, topic: str) -> list[tuple[str, int]]:
    """Everything in a topic as (subject, sequence), partition by partition in log order."""
    reader = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    await reader.start()
    try:
        partitions = sorted(reader.assignment())
        ends = await reader.end_offsets(partitions)
        by_partition: dict[TopicPartition, list[tuple[str, int]]] = {tp: [] for tp in partitions}
        while [tp for tp in partitions if await reader.position(tp) < ends[tp]]:
            for tp, records in (await reader.getmany(timeout_ms=500, max_records=5_000)).items():
                headers = [dict(record.headers) for record in records]
                by_partition[tp] += [(h["ce_subject"].decode(), int(h["ce_sequence"])) for h in headers]
        return [each for records in by_partition.values() for each in records]
    finally:
        await reader.stop()


def first_occurrences(records: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Each subject's sequence numbers in the order in which a reader that drops repeats sees them."""
    result: dict[str, dict[int, None]] = {}
    for subject, sequence in records:
        result.setdefault(subject, {}).setdefault(sequence)
    return {subject: list(sequences) for subject, sequences in result.items()}


async def drained(database: Database, *, within_s: float = 40.0) -> None:
    """Wait until everything committed was applied and no key is parked."""

    async def nothing_left() -> bool:
        async with database.read() as connection:
            left = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM outbox) AS unsent, (SELECT count(*) FROM parked_key) AS parked,"
                " (SELECT count(*) FROM thing t LEFT JOIN seen s ON s.subject = t.key"
                "  WHERE t.event_seq IS DISTINCT FROM s.last_seq) AS behind"
            )
            if left is not None and left["parked"]:
                # Whoever cures a key tells it to try now, as `defray parked retry` does.
                await connection.execute("UPDATE parked_key SET next_attempt_at = now()")
            return left is not None and not any(left.values())

    await eventually(nothing_left, within_s=within_s, every_s=0.3, what="all events applied and no key parked")


async def assert_exact(database: Database, topic: str, committed: int) -> None:
    """Committed = sent = applied; no gap, no disorder, nothing twice, nothing parked."""
    async with database.read() as connection:
        assert await connection.fetch("SELECT * FROM wrong") == []
        assert await connection.fetchval("SELECT sum(event_seq) FROM thing") == committed
        differences = await connection.fetch(
            "SELECT t.key, t.event_seq, s.last_seq, s.applied FROM thing t LEFT JOIN seen s ON s.subject = t.key"
            " WHERE (t.event_seq, t.event_seq) IS DISTINCT FROM (s.last_seq, s.applied)"
        )
        assert differences == []
        assert await connection.fetchval("SELECT count(*) FROM event_log WHERE topic = $1", topic) == committed
        assert await connection.fetchval("SELECT count(*) FROM parked_event") == 0
