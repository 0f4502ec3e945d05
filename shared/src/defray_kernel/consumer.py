"""A consumer: Kafka brings records, Postgres decides which of them still count, and each is applied once and in order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors

from defray_kernel import inbox, lag, metrics, outbox, parking, raw_log, topics
from defray_kernel import kafka as kafka_clients
from defray_kernel.applying import Applied, Applying, Lock, OnSkipped, OnUnreadable, Subscription, Take
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.db import CommitUnknown, Database, backoff_s, begin, is_transient
from defray_kernel.errors import StartRefused, Unavailable
from defray_kernel.held import Held
from defray_kernel.inbox import Fenced, Partition, Position, Reader
from defray_kernel.kafka import Kafka
from defray_kernel.sql import queries
from defray_kernel.timers import wait_for_stop

__all__ = ["Consumer", "Subscription"]

Q = queries(__file__)
_log = structlog.get_logger()

_POLL_MS: Final = 250
_APART_S: Final = 0.01  # Batches begin so far apart: the first event is applied at once, under load they gather.
_START_WITHIN_S: Final = 5.0
_HOLD_S: Final = 5.0
_RETRY_MAX_S: Final = 5.0
_REDRIVE_EVERY_S: Final = 0.25
_MEASURE_EVERY_S: Final = 5.0
_STOP_WITHIN_S: Final = 10.0
_STALLED_S: Final = 60.0

Batch = dict[Partition, list[Any]]


class Consumer:
    """Reads topics as a member of `group` (`<service>.<name>`) and applies what it reads, one transaction per poll.

    `name` is this consumer in the database, unique in its schema. `lock(events, tx)` locks the rows of a whole batch
    once, in the one lock order, before its first round. `dedupe_by_id` is for handlers with neither a sequence guard
    nor a natural key. `on_skipped(skipped, tx)` moves a sequence guard over types nobody subscribed to.
    `on_unreadable` is "park" or a hook `(record, error, tx)` called instead of parking. `take` gets each batch whole, in
    place of subscriptions. `start` is where a partition that was never read begins.
    """

    def __init__(  # noqa: PLR0913 - one place says all there is to say about a consumer
        self,
        name: str,
        group: str,
        topic_names: Sequence[str],
        subscriptions: Sequence[Subscription[Any]],
        database: Database,
        kafka: Kafka,
        clock: Clock,
        *,
        lock: Lock | None = None,
        dedupe_by_id: bool = False,
        batch_max: int = 500,
        start: Literal["earliest", "latest"] = "earliest",
        on_unreadable: Literal["park"] | OnUnreadable = "park",
        on_skipped: OnSkipped | None = None,
        take: Take | None = None,
        after_commit: Callable[[], None] | None = None,
        lanes: int = outbox.LANES,
        version: str = "",
    ) -> None:
        self.name, self.group, self.topics = name, group, tuple(topic_names)
        self._database, self._begin, self._batch_max = database, start, batch_max
        self._kafka = dataclasses.replace(kafka, start_within_s=_START_WITHIN_S)
        self._poke, self._take = after_commit or (lambda: None), take
        parks = on_unreadable == "park"
        self._parking = parking.Parking(
            name, dead_letter_topic=f"dlq.{group}" if parks else None, version=version, lanes=lanes
        )
        self._applying = Applying(
            self._parking,
            subscriptions,
            clock,
            lock=lock,
            dedupe_by_id=dedupe_by_id,
            on_skipped=on_skipped,
            on_unreadable=None if isinstance(on_unreadable, str) else on_unreadable,
        )
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._positions: dict[Partition, Position] = {}
        self._to_take_over: dict[Partition, float] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._held_because: str | None = None
        self._polled_at = time.monotonic()
        # A frozen owner's open transaction is ended by the server, so that the next owner need not wait for long.
        self._held = Held(database, setup=Q.end_frozen_transactions)
        self._cluster_id = ""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop; the batch in flight is finished.

        Raises StartRefused when the log is not the one that the stored offsets belong to, and whatever keeps offsets
        from being loaded: the process must not go on without them.
        """
        consumer = await self._start(stopping)
        if consumer is None:
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(consumer, stopping))
                tasks.create_task(self._redrive(stopping))
                tasks.create_task(lag.tell_kafka(self.name, consumer, self._positions, stopping))
                tasks.create_task(_cancel_late(reading, stopping))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            await kafka_clients.stop(consumer)
            self._held.drop()

    async def _start(self, stopping: asyncio.Event) -> AIOKafkaConsumer | None:
        """Join the group, however long Kafka takes to be there; None when told to stop before that."""
        while not stopping.is_set():
            try:
                self._cluster_id = await topics.cluster_id(self._kafka)
                listener = functools.partial(_Listener, self)
                return await self._kafka.consumer(self.group, self.topics, listener, batch_max=self._batch_max)
            except Unavailable as error:
                _log.warning("consumer_waits", consumer=self.name, error=str(error))
                await wait_for_stop(stopping, 1.0)
        return None

    def trouble(self) -> str | None:
        """What an operator should know (for liveness and paging), or None."""
        if self._held_because is not None:
            return f"holds: {self._held_because}"
        if time.monotonic() - self._polled_at > _STALLED_S:
            return "has not polled Kafka for a minute"
        return None

    # -- ownership ---------------------------------------------------------------------------------------------------

    def assigned(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
        """Called by the client's own task, before which fetching has begun: only stop it; the reading loop takes over.

        An exception here would be logged and swallowed, and the listener's time counts against the session.
        """
        consumer.pause(*partitions)
        self._to_take_over = {(tp.topic, tp.partition): 0.0 for tp in partitions}

    async def revoked(self) -> None:
        """Forget all positions; give the batch in flight a moment, so that it need not be fenced."""
        self._positions.clear()
        self._to_take_over.clear()
        try:
            async with asyncio.timeout(3.0):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("batch_in_flight_at_rebalance", consumer=self.name)

    async def _take_over_due(self, consumer: AIOKafkaConsumer) -> None:
        """Load offsets of newly assigned partitions, seek there, let them flow."""
        for partition, not_before in list(self._to_take_over.items()):
            if time.monotonic() < not_before or partition not in self._to_take_over:
                continue
            tp = TopicPartition(*partition)
            parts = len(consumer.partitions_for_topic(tp.topic) or ())
            reader = Reader(consumer=self.name, owner=self._owner, cluster_id=self._cluster_id)
            connection = await self._held.get()
            start = functools.partial(self._begin_at, consumer, tp)
            position = await inbox.take_over(connection, reader, partition, parts, start)
            if self._to_take_over.pop(partition, None) is None or tp not in consumer.assignment():
                continue  # Reassigned while we waited for the old owner; the new one bumps the epoch once more.
            consumer.seek(tp, position.next_offset)
            self._positions[partition] = position
            consumer.resume(tp)

    async def _begin_at(self, consumer: AIOKafkaConsumer, tp: TopicPartition) -> int:
        ends = consumer.beginning_offsets if self._begin == "earliest" else consumer.end_offsets
        return int((await ends([tp]))[tp])  # type: ignore[no-untyped-call]  # the library gives no types

    def _forget(self, consumer: AIOKafkaConsumer, partitions: Iterable[Partition], *, for_s: float) -> None:
        """Stop reading there; what is still assigned to us after some heartbeats is ours and is taken over again."""
        not_before = time.monotonic() + for_s
        for partition in partitions:
            self._positions.pop(partition, None)
            tp = TopicPartition(*partition)
            if tp in consumer.assignment():
                consumer.pause(tp)
                self._to_take_over[partition] = not_before

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _read(self, consumer: AIOKafkaConsumer, stopping: asyncio.Event) -> None:
        failures = 0
        while not stopping.is_set():
            try:
                if self._to_take_over:
                    await self._take_over_due(consumer)
                batch = await self._poll(consumer)
                failures = 0
            except Exception as error:
                if not _may_pass(error):
                    raise
                self._held.drop()
                failures += 1
                _log.warning("consumer_waits", consumer=self.name, error=type(error).__name__)
                await wait_for_stop(stopping, backoff_s(failures, base_s=0.05, cap_s=_RETRY_MAX_S))
                continue
            if batch:
                await self._finish(consumer, batch, stopping)
                if sum(map(len, batch.values())) < self._batch_max:
                    await asyncio.sleep(max(0.0, self._polled_at + _APART_S - time.monotonic()))

    async def _poll(self, consumer: AIOKafkaConsumer) -> Batch:
        """Records of our partitions from their positions on. The call is never cancelled while the group lives."""
        try:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=self._batch_max)
        except kafka_errors.NoOffsetForPartitionError:
            return {}  # Asked before our seek: Kafka's own offsets are not ours.
        except UnicodeDecodeError:
            return await self._read_past(consumer)
        except kafka_errors.OffsetOutOfRangeError as error:
            raise StartRefused(
                f"{self.name}: the log no longer holds the stored offset ({error}): records were lost or the topic was"
                " made anew; re-publish what is missing, then delete this consumer's rows of consumer_offset"
            ) from error
        self._polled_at = time.monotonic()
        batch: Batch = {}
        for tp, records in fetched.items():
            position = self._positions.get((tp.topic, tp.partition))
            if position is None:
                continue
            fresh = [record for record in records if record.offset >= position.next_offset]
            if fresh:
                batch[tp.topic, tp.partition] = fresh
        return batch

    async def _read_past(self, consumer: AIOKafkaConsumer) -> Batch:
        """Records of all our partitions, read by ourselves: in one of them is what the client stumbles over.

        It tells neither where, nor what else was in its hands, so that it is set to our own positions everywhere.
        """
        self._polled_at = time.monotonic()
        places = {where: position.next_offset for where, position in self._positions.items()}
        batch: Batch = {**await raw_log.read(self._kafka, places, at_most=self._batch_max)}
        places |= {where: records[-1].offset + 1 for where, records in batch.items()}
        for where, offset in places.items():
            if where in self._positions:
                consumer.seek(TopicPartition(*where), offset)
        _log.warning("client_cannot_decode", consumer=self.name, records=sum(map(len, batch.values())))
        return batch

    async def _finish(self, consumer: AIOKafkaConsumer, batch: Batch, stopping: asyncio.Event) -> None:
        """Apply one poll's records, for as long as it takes; only losing the partitions or stopping ends it early."""
        failures, slowly = 0, False
        while not stopping.is_set():
            batch = {partition: records for partition, records in batch.items() if partition in self._positions}
            pause_s = 0.0
            try:
                await self._apply(batch, slowly=slowly)
                break
            except Fenced as fenced:
                _log.warning("consumer_fenced", consumer=self.name, partitions=sorted(fenced.partitions))
                self._forget(consumer, fenced.partitions, for_s=self._kafka.session_timeout_ms / 1000)
            except CommitUnknown:
                # Applied or not: only the stored offsets tell.
                self._held.drop()
                self._forget(consumer, list(batch), for_s=0.0)
            except Exception as error:  # noqa: BLE001 - nothing is lost: the batch is tried again
                self._held.drop()
                if not (slowly or _may_pass(error) or isinstance(error, parking.Outage)):
                    slowly = True
                    continue
                failures += 1
                pause_s = self._hold(error, failures)
            if pause_s:
                await self._stay(consumer, stopping, pause_s)
        self._held_because = None
        for tp in consumer.paused():
            if (tp.topic, tp.partition) in self._positions:
                consumer.resume(tp)

    def _hold(self, error: Exception, failures: int) -> float:
        """Say why the batch cannot be applied now; returns how long to wait, in seconds."""
        if _may_pass(error):
            _log.warning("consumer_waits", consumer=self.name, error=type(error).__name__)
            return backoff_s(failures, base_s=0.05, cap_s=_RETRY_MAX_S)
        self._held_because = f"{type(error).__name__}: {error}"
        # The traceback once, and none for an outage, which names no single cause; the page repeats.
        traceback = error if failures == 1 and not isinstance(error, parking.Outage) else None
        _log.critical("consumer_holds", consumer=self.name, reason=self._held_because, exc_info=traceback)
        return min(_HOLD_S, 0.5 * failures)

    async def _apply(self, batch: Batch, *, slowly: bool) -> None:
        if not batch:
            return
        connection = await self._held.get()
        moves = [(where, self._positions[where], records[-1].offset + 1) for where, records in batch.items()]
        records = [record for each in batch.values() for record in each]
        self._idle.clear()
        try:
            async with begin(connection) as tx:
                await inbox.advance(tx, self.name, moves)
                applied = await (self._take or self._applying.apply)(tx, records, slowly=slowly)
                crash_point("consumer.before_commit")
            crash_point("consumer.after_commit")
            for where, position, after in moves:
                # A rebalance meanwhile has cleared the position, or set one of a younger epoch.
                if self._positions.get(where) == position:
                    self._positions[where] = Position(after, position.epoch)
        finally:
            self._idle.set()
        self._committed(applied, len(records))

    def _committed(self, applied: Applied, records: int) -> None:
        self._poke()
        self._parking.committed(applied.failures, applied.parked)
        metrics.observe("consumer_batch", records, consumer=self.name)
        metrics.count("events_applied", applied.applied, consumer=self.name)
        if applied.skipped:
            metrics.count("events_skipped", applied.skipped, consumer=self.name)

    async def _stay(self, consumer: AIOKafkaConsumer, stopping: asyncio.Event, for_s: float) -> None:
        """Wait with all partitions paused, polling on: a member that does not poll is put out of its group."""
        until = time.monotonic() + for_s
        while not stopping.is_set():
            consumer.pause(*consumer.assignment())
            with contextlib.suppress(kafka_errors.KafkaError):
                await consumer.getmany(timeout_ms=0)
            self._polled_at = time.monotonic()
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            await wait_for_stop(stopping, min(left_s, 0.25))

    async def _redrive(self, stopping: asyncio.Event) -> None:
        measure_at = 0.0
        with Held(self._database, setup=Q.end_frozen_transactions) as held:
            while not stopping.is_set():
                pause_s = _REDRIVE_EVERY_S
                try:
                    if await self._parking.redrive(await held.get(), self._applying.apply_alone) is not None:
                        pause_s = 0.0
                        self._poke()
                    elif time.monotonic() > measure_at:
                        measure_at = time.monotonic() + _MEASURE_EVERY_S
                        await self._parking.measure(await held.get())
                except Exception as error:
                    if not _may_pass(error):
                        raise
                    held.drop()
                    pause_s = 1.0
                await wait_for_stop(stopping, pause_s)


class _Listener(ConsumerRebalanceListener):
    """Passes the client's call-backs on."""

    def __init__(self, owner: Consumer, consumer: AIOKafkaConsumer) -> None:
        self._owner, self._consumer = owner, consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - the client's call
        await self._owner.revoked()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._owner.assigned(self._consumer, assigned)


async def _cancel_late(reading: asyncio.Task[None], stopping: asyncio.Event) -> None:
    """A poll waits for ever while the group cannot be joined; when stopping there is nothing left to protect."""
    await stopping.wait()
    done, _ = await asyncio.wait([reading], timeout=_STOP_WITHIN_S)
    if not done:
        reading.cancel()


def _may_pass(error: Exception) -> bool:
    """Faults of infrastructure: waited out for ever, because no event is to blame."""
    if isinstance(error, kafka_errors.KafkaError):
        return not isinstance(
            error, (kafka_errors.TopicAuthorizationFailedError, kafka_errors.GroupAuthorizationFailedError)
        )
    return is_transient(error) or isinstance(error, CommitUnknown)
