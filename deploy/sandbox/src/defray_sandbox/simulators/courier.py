"""Brings callbacks to merchants: rounds of deliveries, and the channel's own schedule of repeats."""

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, cast
from urllib.parse import urlsplit

import aiohttp

from defray_sandbox.simulators.faults import CallbackPlan, FaultPlan

_logger = logging.getLogger(__name__)

GENUINE = "genuine"
ROUND_KINDS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One callback as it goes over the wire."""

    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One or more callbacks of one order, sent in turn or all at once; `overrides` make the channel lie.

    `refund` is the refund's number when they tell of a refund, `topic` is the channel's own word for what they tell.
    """

    out_trade_no: str
    refund: str = ""
    topic: str = ""
    kinds: Sequence[str] = (GENUINE,)
    concurrent: bool = False
    overrides: Mapping[str, object] = field(default_factory=dict)
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one callback; `status` is None when the merchant could not be reached or did not answer."""

    kind: str
    status: int | None
    taken: bool = False


class Messages(Protocol):
    """What one channel sends, and what it takes for an acknowledgement."""

    schedule_s: Sequence[float]
    answer_within_s: float
    true_kinds: frozenset[str]

    def pending(self) -> Iterable[Round]:
        """What a former process could not deliver."""

    def address(self, task: Round) -> str | None:
        """Where a round goes; None when there is nothing to send any more."""

    async def prepare(self, task: Round) -> list[tuple[str, Notice]]:
        """Make and sign the callbacks of a round without sending them."""

    def taken(self, status: int, body: bytes) -> bool:
        """Whether this answer acknowledges a callback."""

    def delivered(self, task: Round) -> None:
        """Keep in the ledger that a round was taken."""


class Courier:
    """Holds the rounds that are due, and sends them with bounded concurrency over kept connections."""

    def __init__(
        self, messages: Messages, plan: FaultPlan, *, scale: float, in_flight_max: int, plain_hosts: frozenset[str]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._messages = messages
        self._plan = plan
        self._scale = scale
        self._slots = asyncio.Semaphore(in_flight_max)
        self._connections_max = max(in_flight_max, ROUND_KINDS_MAX)
        self._plain_hosts = plain_hosts
        self._due: list[tuple[float, int, Round]] = []
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    @property
    def waiting(self) -> int:
        """How many rounds wait for their time."""
        return len(self._due)

    def post(self, task: Round, delay_s: float = 0.0) -> None:
        """Send a round after so many seconds."""
        due_at_s = asyncio.get_running_loop().time() + delay_s
        heapq.heappush(self._due, (due_at_s, next(self._numbers), task))
        self._wake.set()

    def forget(self) -> None:
        """Drop everything that waits."""
        self._due.clear()

    async def announce(self, task: Round, *, wait: bool = False) -> list[Delivery]:
        """Send a round as its plan says; `wait` tells what the merchant answered."""
        plan = self._plan.callbacks_of(task.refund or task.out_trade_no, before_answer=False)
        if plan is None:
            return await self._send_or_post(task, 0.0, wait=wait)
        if plan.never:
            return []
        task = planned(task, plan)
        if plan.reorder:
            plan.held.append(task)
            if len(plan.held) < plan.reorder:
                return []
            turned = cast("list[Round]", plan.held[::-1])
            plan.held.clear()
            return [delivery for held in turned for delivery in await self.send(held)]
        return await self._send_or_post(task, plan.delay_s, wait=wait)

    async def run(self) -> None:
        """Send what is due, for ever; first of all what a former process could not finish."""
        for task in self._messages.pending():
            self.post(task)
        connector = aiohttp.TCPConnector(limit=self._connections_max, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=self._messages.answer_within_s)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as self._session,
            asyncio.TaskGroup() as group,
        ):
            while True:
                task = await self._next()
                await self._slots.acquire()
                group.create_task(self._send_and_release(task))

    async def send(self, task: Round) -> list[Delivery]:
        """Send a round now and tell what the merchant answered; repeats are planned if no genuine one was taken."""
        url = self._messages.address(task)
        if url is None:
            return []
        notices = await self._messages.prepare(task)
        if task.concurrent:
            deliveries = list(await asyncio.gather(*(self._deliver(url, *pair) for pair in notices)))
        else:
            deliveries = [await self._deliver(url, *pair) for pair in notices]
        genuine = [delivery for delivery in deliveries if delivery.kind in self._messages.true_kinds]
        if any(delivery.taken for delivery in genuine) and not task.overrides:
            self._messages.delivered(task)
        elif genuine and task.attempt < len(self._messages.schedule_s):
            later = replace(task, kinds=(GENUINE,), concurrent=False, attempt=task.attempt + 1)
            self.post(later, self._messages.schedule_s[task.attempt] * self._scale)
        return deliveries

    async def _send_or_post(self, task: Round, delay_s: float, *, wait: bool) -> list[Delivery]:
        if wait and not delay_s:
            return await self.send(task)
        self.post(task, delay_s)
        return []

    async def _next(self) -> Round:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            pause_s = self._due[0][0] - loop.time() if self._due else None
            if pause_s is not None and pause_s <= 0:
                return heapq.heappop(self._due)[2]
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _send_and_release(self, task: Round) -> None:
        try:
            await self.send(task)
        finally:
            self._slots.release()

    async def _deliver(self, url: str, kind: str, notice: Notice) -> Delivery:
        status, taken = None, False
        if urlsplit(url).hostname not in self._plain_hosts:
            # The simulator must never post to the internet, whatever a test orders.
            self.counts["callbacks_not_deliverable"] += 1
            return Delivery(kind=kind, status=None)
        assert self._session is not None
        try:
            async with self._session.post(
                url, data=notice.body, headers=notice.headers, allow_redirects=False
            ) as answer:
                status = answer.status
                taken = self._messages.taken(status, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            status = None
            _logger.warning("callback to %s: %s", url, type(error).__name__)
        self.counts["callbacks_sent"] += 1
        self.counts["callbacks_taken" if taken else "callbacks_refused"] += 1
        return Delivery(kind=kind, status=status, taken=taken)


def planned(task: Round, plan: CallbackPlan) -> Round:
    """The round as its plan wants it; duplicates asked for with the payment itself win over the plan's."""
    kinds = task.kinds if len(task.kinds) > 1 else plan.kinds
    return replace(task, kinds=tuple(kinds), concurrent=task.concurrent or plan.concurrent)


def duplicates(count: int) -> tuple[str, ...]:
    """So many genuine callbacks of one happening."""
    return (GENUINE,) * count
