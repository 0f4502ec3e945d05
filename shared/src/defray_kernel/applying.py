"""Applying a batch of records to the database: fast when all goes well, event by event when one of them fails."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar, assert_never
from uuid import UUID

from defray_kernel import inbox, parking, rounds
from defray_kernel.clock import Clock
from defray_kernel.contracts import envelope
from defray_kernel.contracts.envelope import Event, EventData, Unreadable
from defray_kernel.db import WriteTx, is_transient
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.parking import Parking, Record, parking_key

D = TypeVar("D", bound=EventData)
K = TypeVar("K")

_TRIES: Final = 3
_RETRY_AFTER_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Subscription(Generic[D]):
    """One event type a service listens to, and what it does about it.

    `handle(events, tx, clock)` gets events of this type, no two with the same key, and the transaction they share. It
    raises RetryLater or Poison for what only one event can be blamed for.
    """

    event: type[D]
    handle: Callable[[Sequence[Event[D]], WriteTx, Clock], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An event of a type nobody subscribed to; its sequence still counts for a guard."""

    topic: str
    type: str
    subject: str
    key: str
    sequence: int


Lock = Callable[[Sequence[Event[Any]], WriteTx], Awaitable[None]]
OnSkipped = Callable[[Sequence[Skipped], WriteTx], Awaitable[None]]
OnUnreadable = Callable[[Record, Exception, WriteTx], Awaitable[None]]


class Take(Protocol):
    """Applies batches whole, for topics that strangers write to: it answers for each record itself, and parks none.

    Raises faults of infrastructure; anything else makes it be called again `slowly`, when one record can be blamed.
    """

    async def __call__(self, tx: WriteTx, records: Sequence[Record], *, slowly: bool) -> Applied: ...


@dataclass(slots=True, eq=False)
class _Item:
    index: int
    record: Record
    key: bytes
    content: Event[Any] | Skipped | Unreadable

    @property
    def kind(self) -> str:
        """What is handled together: events of one type, or all skipped, or all unreadable ones."""
        return self.content.type if isinstance(self.content, Event) else f"/{type(self.content).__name__}"


@dataclass(slots=True)
class Applied:
    """What became of a batch: how many records were applied or skipped, which keys failed, how many records queued."""

    keys: int = 0
    applied: int = 0
    skipped: int = 0
    parked: int = 0
    failures: list[parking.Failure] = field(default_factory=list)

    @property
    def broken_keys(self) -> set[bytes]:
        """Keys newly parked for an error, not merely because the world is not ready."""
        return {failure.key for failure in self.failures if not failure.waiting}


class Applying:
    """How one consumer applies records; used for what Kafka brings and for what was parked alike."""

    def __init__(
        self,
        parking_: Parking,
        subscriptions: Sequence[Subscription[Any]],
        clock: Clock,
        *,
        lock: Lock | None = None,
        dedupe_by_id: bool = False,
        on_skipped: OnSkipped | None = None,
        on_unreadable: OnUnreadable | None = None,
    ) -> None:
        self._parking, self._clock, self._lock = parking_, clock, lock
        self._dedupe_by_id, self._on_skipped, self._on_unreadable = dedupe_by_id, on_skipped, on_unreadable
        self._subscriptions = {each.event.TYPE: each for each in subscriptions}
        self._by_raw_type = {type_.encode(): each for type_, each in self._subscriptions.items()}
        if len(self._subscriptions) != len(subscriptions):
            raise ValueError("an event type is subscribed to twice")

    async def apply(self, tx: WriteTx, records: Sequence[Record], *, slowly: bool = False) -> Applied:
        """Apply one batch in its transaction, in rounds in which no key comes twice.

        Fast, any handler's exception is the caller's: roll back and come again `slowly`, when each event that fails
        is found in a savepoint and its key parked from there on. Faults of infrastructure are always raised.
        """
        keys = {parking_key(record) for record in records}
        parked = await self._parking.parked_among(tx, keys)
        failures: dict[bytes, parking.Failure] = {}
        items = [
            item
            for index, record in enumerate(records)
            if (item := self._read(index, record, parked, failures)) is not None
        ]
        items = await self._never_seen(tx, items)
        await self._lock_all(tx, items)
        for round_ in rounds.cut(items, lambda item: (item.key.decode("latin-1"),)):
            await self._round(tx, round_, failures, slowly=slowly)
        applied = sum(isinstance(item.content, Event) and not _behind(item.key, item.index, failures) for item in items)
        return await self._settle(tx, records, parked, failures, Applied(keys=len(keys), applied=applied))

    async def apply_alone(self, tx: WriteTx, record: Record) -> Exception | None:
        """Apply one parked record in a savepoint; returns why it failed. Raises faults of infrastructure."""
        failures: dict[bytes, parking.Failure] = {}
        item = self._read(0, record, set(), failures)
        if item is None:
            return failures[parking_key(record)].error if failures else None

        async def work() -> None:
            for each in await self._never_seen(tx, [item]):
                await self._lock_all(tx, [each])
                await self._handle(tx, [each])

        return await self._in_savepoint(tx, work)

    def _read(
        self, index: int, record: Record, parked: set[bytes], failures: dict[bytes, parking.Failure]
    ) -> _Item | None:
        """The record as something to handle; None when it queues behind its key, failed to parse, or is of no interest."""
        key = parking_key(record)
        if key in parked or key in failures:
            return None
        try:
            raw_type = next((value for name, value in record.headers if name == "ce_type"), None)
            if raw_type is None:
                raise Unreadable("ce_type", "is missing")
            subscription = self._by_raw_type.get(raw_type)
            attributes = envelope.header_text(record.headers)
            if subscription is not None:
                return _Item(index, record, key, envelope.decode(attributes, record.value, subscription.event))
            return None if self._on_skipped is None else _Item(index, record, key, _skipped(record, attributes))
        except Unreadable as error:
            if self._on_unreadable is not None:
                return _Item(index, record, key, error)
            failures[key] = parking.Failure(index=index, key=key, record=record, error=error, waiting=False, attempts=1)
            return None

    async def _never_seen(self, tx: WriteTx, items: list[_Item]) -> list[_Item]:
        if not self._dedupe_by_id:
            return items
        ids = [item.content.id for item in items if isinstance(item.content, Event)]
        fresh = await inbox.first_deliveries(tx, self._parking.consumer, ids) if ids else set[UUID]()
        # A relay's re-send may stand twice in one batch: the first counts.
        kept = []
        for item in items:
            if isinstance(item.content, Event):
                if item.content.id not in fresh:
                    continue
                fresh.discard(item.content.id)
            kept.append(item)
        return kept

    async def _lock_all(self, tx: WriteTx, items: Iterable[_Item]) -> None:
        events = [item.content for item in items if isinstance(item.content, Event)]
        if self._lock is not None and events:
            await self._lock(events, tx)

    async def _round(
        self, tx: WriteTx, round_: list[_Item], failures: dict[bytes, parking.Failure], *, slowly: bool
    ) -> None:
        by_type: dict[str, list[_Item]] = {}
        for item in round_:
            if not _behind(item.key, item.index, failures):  # What stands before an unreadable one is applied.
                by_type.setdefault(item.kind, []).append(item)
        for group in by_type.values():
            if not slowly:
                await self._handle(tx, group)
            elif await self._in_savepoint(tx, functools.partial(self._handle, tx, group)) is not None:
                for item in group:
                    await self._one_by_one(tx, item, failures)

    async def _one_by_one(self, tx: WriteTx, item: _Item, failures: dict[bytes, parking.Failure]) -> None:
        for attempt in range(1, _TRIES + 1):
            error = await self._in_savepoint(tx, functools.partial(self._handle, tx, [item]))
            if error is None:
                return
            if isinstance(error, (Poison, RetryLater)) or attempt == _TRIES:
                if self._on_unreadable is not None:
                    await self._on_unreadable(item.record, error, tx)
                    return
                waiting = isinstance(error, RetryLater)
                failures[item.key] = parking.Failure(
                    index=item.index, key=item.key, record=item.record, error=error, waiting=waiting, attempts=attempt
                )
                # More would only confirm it: see `Parking.refuse_to_hide_an_outage`.
                self._parking.refuse_to_hide_an_outage({f.key for f in failures.values() if not f.waiting})
                return
            await asyncio.sleep(_RETRY_AFTER_S * attempt)

    async def _handle(self, tx: WriteTx, group: Sequence[_Item]) -> None:
        match group[0].content:
            case Event() as first:
                await self._subscriptions[first.type].handle(_contents(group, Event), tx, self._clock)
            case Skipped():
                assert self._on_skipped is not None
                await self._on_skipped(_contents(group, Skipped), tx)
            case Unreadable():
                assert self._on_unreadable is not None
                for item in group:
                    await self._on_unreadable(item.record, _contents([item], Unreadable)[0], tx)
            case never:
                assert_never(never)

    async def _in_savepoint(self, tx: WriteTx, work: Callable[[], Awaitable[None]]) -> Exception | None:
        try:
            async with tx.transaction():
                await work()
                # What is checked at COMMIT (a ledger entry's sum) has to fail here, where one event can be blamed.
                await tx.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        except Exception as error:
            if is_transient(error):
                raise
            return error
        return None

    async def _settle(
        self,
        tx: WriteTx,
        records: Sequence[Record],
        parked: set[bytes],
        failures: dict[bytes, parking.Failure],
        result: Applied,
    ) -> Applied:
        """Park what failed and everything that stands behind it."""
        behind = [
            (key, record)
            for index, record in enumerate(records)
            if (key := parking_key(record)) in parked or _behind(key, index, failures)
        ]
        result.failures = list(failures.values())
        self._parking.refuse_to_hide_an_outage(result.broken_keys, of_keys=result.keys)
        if behind:
            await self._parking.park(tx, result.failures, behind)
        result.parked, result.skipped = len(behind), len(records) - len(behind) - result.applied
        return result


def _behind(key: bytes, index: int, failures: dict[bytes, parking.Failure]) -> bool:
    return key in failures and index >= failures[key].index


def _contents(group: Sequence[_Item], kind: type[K]) -> list[K]:
    return [item.content for item in group if isinstance(item.content, kind)]


def _skipped(record: Record, attributes: dict[str, str]) -> Skipped:
    try:
        return Skipped(
            topic=record.topic,
            type=attributes["ce_type"],
            subject=attributes["ce_subject"],
            key=attributes["ce_partitionkey"],
            sequence=int(attributes["ce_sequence"]),
        )
    except (KeyError, ValueError) as error:
        raise Unreadable("headers", f"{type(error).__name__} {error}") from None
