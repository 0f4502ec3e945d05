"""The relay: carries each lane's outbox rows to Kafka in id order, exactly the acknowledged ones leave the outbox."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.partitioner import murmur2

from defray_kernel import kafka as kafka_clients
from defray_kernel import metrics, outbox, wakeup
from defray_kernel.crash import crash_point
from defray_kernel.db import CommitUnknown, Connection, Database, backoff_s, begin, is_transient
from defray_kernel.held import Held
from defray_kernel.kafka import Kafka
from defray_kernel.sql import queries
from defray_kernel.timers import wait_for_stop

Q = queries(__file__)
_log = structlog.get_logger()

_POLL_S: Final = 0.25
_APART_S: Final = 0.01
"""A lane's cycles begin at least so far apart: the first event goes at once, under load they gather."""
_MEASURE_EVERY_S: Final = 5.0
_START_WITHIN_S: Final = 5.0
_ROWS_MAX: Final = 1_000
_BYTES_MAX: Final = 8 * 1024 * 1024
_STALLED_S: Final = 60.0
_METADATA_WITHIN_S: Final = 5.0
_BLOCK_S: Final = 60.0
_BLOCKED_KEYS_MAX: Final = 100

_RECORD_REFUSED: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTimestampError,
    kafka_errors.PolicyViolationError,
    # What the client has no name for, such as INVALID_RECORD (a compacted topic without a key).
    kafka_errors.UnknownError,
)
_TOPIC_REFUSED: Final = (kafka_errors.TopicAuthorizationFailedError, kafka_errors.InvalidTopicError)


class RelayBroken(Exception):
    """Kafka's answer left in doubt what is in the log. This process must end (exit code 75) and be started again.

    A producer that failed keeps a gap in its sequence numbers or may still send; only a new one may go on.
    """


class _Did(enum.StrEnum):
    SENT = "sent"
    MORE = "more"
    NOTHING = "nothing"
    BUSY = "busy"


@dataclass(slots=True, eq=False)
class _Producer:
    """The producer in use; `spoiled` after a refusal, when it must be replaced before anything else is sent."""

    client: AIOKafkaProducer
    spoiled: bool = False


@dataclass(slots=True)
class _Cycle:
    """What one cycle has come to: ids that Kafka acknowledged, and why the relay cannot go on."""

    acknowledged: list[int] = field(default_factory=list)
    broken: RelayBroken | None = None


class Relay:
    """Sends one schema's outbox. Any number may run: a lane is worked by whoever holds its transaction-scoped lock.

    A page that Kafka has not acknowledged within `send_within_s` seconds breaks the relay.
    """

    def __init__(
        self, database: Database, kafka: Kafka, *, lanes: int = outbox.LANES, send_within_s: float = 15.0
    ) -> None:
        self._database, self._lanes, self._send_within_s = database, lanes, send_within_s
        # Tried again and again by the lanes, so that being told to stop is noticed in between.
        self._kafka = dataclasses.replace(kafka, start_within_s=_START_WITHIN_S)
        self._due = [asyncio.Event() for _ in range(lanes)]
        self._look = asyncio.Event()
        self._producer: _Producer | None = None
        self._replacing = asyncio.Lock()
        # Refused: (topic, key) or (topic, None) for all of a topic -> until when it is left out of the reads.
        self._blocked: dict[tuple[str, bytes | None], float] = {}
        # Partitions whose records go one by one, until when: one of them was refused and has to be told apart.
        self._singly: dict[tuple[str, int], float] = {}
        # Whose turn it is to queue a batch: lanes that wait inside aiokafka for one partition wake each other up, and its
        # deadline shrinks with every wake-up (10 s are gone within one), which ended the process under load.
        self._turns: dict[tuple[str, int], asyncio.Lock] = {}
        self._looked_at = self._measure_at = time.monotonic()

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop; finishes the cycles under way.

        Raises RelayBroken (leave the process) and StartRefused when the schema's lane count is another.
        """
        async with self._database.read() as connection:
            await outbox.check_lanes(connection, self._lanes)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(stopping))
                for lane in range(self._lanes):
                    tasks.create_task(self._serve(lane, stopping))
        except ExceptionGroup as group:
            raise (group.subgroup(RelayBroken) or group).exceptions[0] from group
        finally:
            if self._producer is not None:
                await kafka_clients.stop(self._producer.client)

    def trouble(self) -> str | None:
        """What an operator should know (for readiness and paging), or None."""
        if time.monotonic() - self._looked_at > _STALLED_S:
            return "has not looked at the outbox for long"
        refused = [f"{topic} {key!r}" for (topic, key), until in self._blocked.items() if until > time.monotonic()]
        return f"refused by Kafka: {', '.join(refused[:10])}" if refused else None

    async def _watch(self, stopping: asyncio.Event) -> None:
        """Wake the lanes that have rows: at once when poked, else every 250 ms (a lost notification costs no more)."""
        failures = 0
        with Held(self._database) as held:
            while not stopping.is_set():
                try:
                    connection = await held.get()
                    await connection.add_listener(await wakeup.channel(connection), self._poked)
                    while not stopping.is_set():
                        self._look.clear()
                        for row in await connection.fetch(Q.lanes_with_rows, self._lanes):
                            self._due[row["lane"]].set()
                        failures = 0
                        await self._measure(connection)
                        await wait_for_stop(self._look, _POLL_S)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    held.drop()
                    failures += 1
                    await asyncio.sleep(backoff_s(failures, base_s=0.1, cap_s=5.0))

    async def _measure(self, connection: Connection) -> None:
        self._looked_at = time.monotonic()
        if self._looked_at > self._measure_at:
            self._measure_at = self._looked_at + _MEASURE_EVERY_S
            row = await connection.fetchrow(Q.backlog)
            assert row is not None
            metrics.gauge("outbox_unsent", row["unsent"])
            metrics.gauge("outbox_oldest_s", row["oldest_s"])

    def _poked(self, *_: object) -> None:
        self._look.set()

    async def _serve(self, lane: int, stopping: asyncio.Event) -> None:
        failures = 0
        with Held(self._database) as held:
            while not stopping.is_set():
                await wait_for_stop(self._due[lane], _POLL_S)
                if not self._due[lane].is_set() or stopping.is_set():
                    continue
                self._due[lane].clear()
                again_at = time.monotonic() + _APART_S
                try:
                    did = await self.cycle(await held.get(), lane)
                    failures = 0
                except Exception as error:
                    if not (is_transient(error) or isinstance(error, CommitUnknown)):
                        raise
                    held.drop()
                    did, failures = _Did.MORE, failures + 1
                    _log.warning("relay_waits", lane=lane, error=type(error).__name__)
                    await asyncio.sleep(backoff_s(failures, base_s=0.1, cap_s=5.0))
                if did is _Did.BUSY:
                    await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - spreads relays, guards nothing
                if did in {_Did.BUSY, _Did.MORE}:
                    self._due[lane].set()
                elif did is _Did.SENT:
                    await asyncio.sleep(max(0.0, again_at - time.monotonic()))

    async def cycle(self, connection: Connection, lane: int) -> _Did:
        """Lock the lane, then read (a second statement: its snapshot is younger than the lock), send, move, commit."""
        producer = await self._current_producer()
        started = time.monotonic()
        async with begin(connection) as tx:
            if not await tx.fetchval(Q.lock_lane, lane):
                return _Did.BUSY
            rows = await self._unsent(connection, lane)
            crash_point("relay.after_read")
            if not rows:
                return _Did.NOTHING
            cycle = await self._send(producer, rows)
            crash_point("relay.after_send")
            if cycle.acknowledged:
                await tx.execute(Q.move_to_log, lane, cycle.acknowledged)
            crash_point("relay.before_commit")
        metrics.count("outbox_published", len(cycle.acknowledged), lane=str(lane))
        metrics.observe("relay_seconds", time.monotonic() - started)
        if cycle.broken is not None:
            raise cycle.broken
        if not cycle.acknowledged:
            return _Did.NOTHING
        # What was committed since the read has its own poke; only a read cut short, by count or size, knows of more.
        all_read = len(rows) < _ROWS_MAX and sum(len(row["payload"]) for row in rows) < _BYTES_MAX
        return _Did.SENT if all_read and len(cycle.acknowledged) == len(rows) else _Did.MORE

    async def _unsent(self, connection: Connection, lane: int) -> list[asyncpg.Record]:
        now = time.monotonic()
        self._blocked = {what: until for what, until in self._blocked.items() if until > now}
        if not self._blocked:
            return await connection.fetch(Q.unsent, lane, _ROWS_MAX, _BYTES_MAX)
        topics, keys = [topic for topic, _ in self._blocked], [key for _, key in self._blocked]
        return await connection.fetch(Q.unsent_but_blocked, lane, _ROWS_MAX, _BYTES_MAX, topics, keys)

    async def _send(self, producer: _Producer, rows: Sequence[asyncpg.Record]) -> _Cycle:
        cycle = _Cycle()
        chains: dict[tuple[str, int], list[asyncpg.Record]] = {}
        counts: dict[str, int | None] = {}
        for row in rows:
            topic = row["topic"]
            if topic not in counts:
                counts[topic] = await self._partition_count(producer.client, topic)
            count = counts[topic]
            if count is not None:
                chains.setdefault((topic, _hash(row["part_key"]) % count), []).append(row)
        try:
            async with asyncio.timeout(self._send_within_s):
                await asyncio.gather(*(self._chain(cycle, producer, *where, rows) for where, rows in chains.items()))
        except TimeoutError:
            # The batch may be in the log, or get there later: an idempotent producer never gives up. A spoiled one is
            # stopped before anything else is sent, so that what it may have sent comes first.
            if not producer.spoiled:
                cycle.broken = cycle.broken or RelayBroken(f"no acknowledgement within {self._send_within_s:.0f} s")
        return cycle

    async def _chain(
        self, cycle: _Cycle, producer: _Producer, topic: str, partition: int, rows: list[asyncpg.Record]
    ) -> None:
        """Send one partition's rows batch after batch, the next only after the last one's acknowledgement."""
        singly = self._singly.get((topic, partition), 0.0) > time.monotonic()
        for builder, members in _batches(producer.client, rows, 1 if singly else _ROWS_MAX):
            try:
                async with self._turns.setdefault((topic, partition), asyncio.Lock()):
                    if producer.spoiled:
                        return  # It may be stopped by now, and a stopped client takes batches that it never sends.
                    sent = await producer.client.send_batch(builder, topic, partition=partition)
                await sent
            except (*_RECORD_REFUSED, *_TOPIC_REFUSED) as error:
                self._refused(producer, topic, partition, members, error)
                return
            except (kafka_errors.KafkaError, kafka_errors.IllegalOperation) as error:
                # On a spoiled producer an error was to be expected; its rows go with the next one.
                if not producer.spoiled:
                    cycle.broken = RelayBroken(f"{topic}/{partition}: {type(error).__name__}")
                return
            cycle.acknowledged.extend(row["id"] for row in members)

    def _refused(
        self, producer: _Producer, topic: str, partition: int, members: list[asyncpg.Record], error: Exception
    ) -> None:
        """Block the key of a refused record (the topic, if it is the topic), and page; the rest of the lane goes on."""
        producer.spoiled = True
        until = time.monotonic() + _BLOCK_S
        if isinstance(error, _TOPIC_REFUSED):
            self._blocked[topic, None] = until
        elif len(members) > 1:
            self._singly[topic, partition] = until
            return
        else:
            self._blocked[topic, members[0]["part_key"]] = until
            if sum(blocked == topic for blocked, _ in self._blocked) > _BLOCKED_KEYS_MAX:
                self._blocked[topic, None] = until
        metrics.count("outbox_blocked_keys")
        _log.error(
            "relay_record_refused",
            topic=topic,
            outbox_id=members[0]["id"],
            error=type(error).__name__,
        )

    async def _current_producer(self) -> _Producer:
        async with self._replacing:
            if self._producer is not None and self._producer.spoiled:
                # The refused batch's sequence numbers are lost: whatever this producer sent next would be refused too.
                if not await kafka_clients.stop(self._producer.client):
                    raise RelayBroken("a spoiled producer did not stop")
                self._producer = None
            if self._producer is None:
                self._producer = _Producer(await self._kafka.producer())
            return self._producer

    async def _partition_count(self, client: AIOKafkaProducer, topic: str) -> int | None:
        """How many partitions, or None (the topic is blocked) when Kafka does not know it."""
        known = client.client.cluster.partitions_for_topic(topic)
        try:
            if not known:
                async with asyncio.timeout(_METADATA_WITHIN_S):
                    known = await client.partitions_for(topic)
            return len(known)
        except (TimeoutError, kafka_errors.KafkaError) as error:
            self._blocked[topic, None] = time.monotonic() + _BLOCK_S
            _log.error("relay_topic_unknown", topic=topic, error=type(error).__name__)
            return None


def _batches(
    client: AIOKafkaProducer, rows: Sequence[asyncpg.Record], at_most: int
) -> Iterator[tuple[Any, list[asyncpg.Record]]]:
    """Closed batches in order; an empty builder takes any record, so each batch has at least one."""
    builder = client.create_batch()
    members: list[asyncpg.Record] = []
    for row in rows:
        record = {"key": row["part_key"], "value": row["payload"], "headers": outbox.unpack_headers(row["headers"])}
        # No time stamp of ours: records carry real time, which the sandbox clock is not.
        if len(members) == at_most or builder.append(timestamp=None, **record) is None:
            builder.close()
            yield builder, members
            builder, members = client.create_batch(), []
            builder.append(timestamp=None, **record)
        members.append(row)
    builder.close()
    yield builder, members


@functools.lru_cache(maxsize=65_536)
def _hash(key: bytes) -> int:
    """The default partitioner's hash; pure Python and dear (6 µs), and a key comes several times in a short while."""
    return int(murmur2(key) & 0x7FFF_FFFF)
