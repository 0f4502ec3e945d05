"""The inbound door: batches that strangers published, taken whole; the consumer never stops for one of them and parks none."""

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

import structlog

from defray_kernel import metrics
from defray_kernel.applying import Applied
from defray_kernel.clock import Clock
from defray_kernel.contracts.inbound import Unusable
from defray_kernel.db import Database, WriteTx, is_transient
from defray_kernel.parking import ParkedRecord, Record
from defray_kernel.timers import Timer
from defray_order.commands import reject_inbound, take_inbound
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.commands.take_inbound import Taken
from defray_order.store import inbound
from defray_order.store.inbound import Rejected

CONSUMER: Final = "inbound"
_SEEN_KEPT: Final = dt.timedelta(days=30)
_REJECTED_KEPT: Final = dt.timedelta(days=90)
_TIMESTAMP_MAX: Final = 4_102_444_800_000
_LONG_AGO: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_BATCH: Final = 200
_log = structlog.get_logger()

CaughtUp = Callable[[], Awaitable[bool]]


class InboundDoor:
    """What the consumer does with each batch. `committed` counts and logs what was rejected, once it is.

    `waits_s` is how long an unknown merchant is waited for, in real time: a sandbox clock that is moved by a day makes
    no merchant known.
    """

    def __init__(self, clock: Clock, vault: RejectedVault, poke: Callable[[], None], *, waits_s: float) -> None:
        self._clock, self._vault, self._poke = clock, vault, poke
        self._waits = dt.timedelta(seconds=waits_s)
        self._rejected: list[Rejected] = []

    async def take(self, tx: WriteTx, records: Sequence[Record], *, slowly: bool) -> Applied:
        """Use, set aside or reject each record of a batch."""
        self._rejected = []
        plain = [_plain(record) for record in records]
        taken = await (
            self._singly(tx, plain) if slowly else take_inbound.handle(plain, tx, self._clock, may_wait=True)
        )
        if taken.waiting:
            await inbound.wait(tx, taken.waiting, give_up_at=self._clock.real() + self._waits)
        await reject_inbound.handle(taken.rejected, tx, self._clock, self._vault)
        self._rejected = taken.rejected
        return Applied(keys=len(records), applied=taken.used, skipped=len(records) - taken.used)

    def committed(self) -> None:
        """Called after each commit of the consumer."""
        told, self._rejected = self._rejected, []
        tell(told)
        self._poke()

    async def _singly(self, tx: WriteTx, records: Sequence[Record]) -> Taken:
        """After a batch failed by something that is nobody's fault in particular: find the record, reject it."""
        whole = Taken()
        for record in records:
            one = await self._in_savepoint(tx, record)
            whole.used += one.used
            whole.waiting += one.waiting
            whole.rejected += one.rejected
            if one.waiting:
                await inbound.wait(tx, one.waiting, give_up_at=self._clock.real() + self._waits)
        whole.waiting = []
        return whole

    async def _in_savepoint(self, tx: WriteTx, record: Record) -> Taken:
        try:
            async with tx.transaction():
                one = await take_inbound.handle([record], tx, self._clock, may_wait=True)
                # What is checked at COMMIT has to fail here, where one record can be blamed.
                await tx.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
                return one
        except Exception as error:
            if is_transient(error):
                raise
            # A fault of ours, whatever the record: it pages, and once it is mended all of them are redriven.
            _log.critical("inbound_record_fails", offset=record.offset, partition=record.partition, exc_info=error)
            unusable = Unusable("internal", "value", f"{type(error).__name__} on our side")
            return Taken(rejected=[take_inbound.rejected(record, unusable)])


def waiting_timer(
    database: Database, clock: Clock, vault: RejectedVault, caught_up: Callable[[], CaughtUp], poke: Callable[[], None]
) -> Timer:
    """The timer that takes what waited once its merchant is known, and gives up on it after a while.

    It gives up only when the registry's topic has been read to its end as of now: a projection that is behind, or a
    Kafka that is away, says nothing about a merchant.
    """

    async def look(tx: WriteTx, _now: dt.datetime, limit: int) -> Sequence[Any]:
        return await inbound.due(tx, now=clock.real(), limit=limit)

    async def take(_looked_at: Sequence[Any]) -> None:
        if not await take_due(_LONG_AGO) and await caught_up()():
            await take_due(clock.real())

    async def take_due(now: dt.datetime) -> int:
        async with database.transaction() as tx:
            # Looked at again, under the locks that its effects need.
            due = await inbound.due(tx, now=now, limit=_BATCH)
            taken = await take_inbound.handle([record for _, record in due], tx, clock, may_wait=False)
            await inbound.stop_waiting(tx, [row_id for row_id, _ in due])
            await reject_inbound.handle(taken.rejected, tx, clock, vault)
        tell(taken.rejected)
        poke()
        return len(due)

    return Timer(name="inbound_waiting", claim=look, apply=take, every_s=0.5, batch_max=_BATCH)


def purge_timer(clock: Clock) -> Timer:
    """The timer that forgets ids after 30 days and rejected records after 90, as the dead-letter topic does."""

    async def purge(tx: WriteTx, _now: dt.datetime, limit: int) -> Sequence[object]:
        now = clock.real()
        rejected_before = UUID(int=int((now - _REJECTED_KEPT).timestamp() * 1000) << 80)
        purged = await inbound.purge(tx, seen_before=now - _SEEN_KEPT, rejected_before=rejected_before, limit=limit)
        return range(purged)

    async def nothing(_rows: Sequence[object]) -> None:
        """The delete was the work."""

    return Timer(name="inbound_purge", claim=purge, apply=nothing, every_s=60.0)


def tell(rejected: Sequence[Rejected]) -> None:
    """Count and log what was rejected; never what it held."""
    for each in rejected:
        metrics.count("events_rejected", consumer=CONSUMER, reason=each.reason)
        record = each.record
        where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        _log.warning("inbound_rejected", reason=each.reason, field=each.field, **where)


def _plain(record: Record) -> ParkedRecord:
    """The record with what a stranger may set and our tables cannot hold made harmless: null headers, wild time stamps."""
    return ParkedRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=min(max(record.timestamp, 0), _TIMESTAMP_MAX),
        key=record.key,
        value=record.value,
        headers=[(name, value or b"") for name, value in record.headers],
    )
