"""Brings callbacks to merchants: rounds of deliveries, and the channel's own schedule of repeats."""

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp

from defray_sandbox.simulators.wechat.clock import ChannelClock
from defray_sandbox.simulators.wechat.faults import CallbackKind
from defray_sandbox.simulators.wechat.keys import ChannelKeys
from defray_sandbox.simulators.wechat.ledger import Ledger
from defray_sandbox.simulators.wechat.notices import Notice, sign_notice, success_body

_logger = logging.getLogger(__name__)

# Seconds after each refused or lost callback, as the channel publishes them (sum 24 h 4 min).
SCHEDULE_S = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
_ANSWER_WITHIN_S = 5.0
_TAKEN = (200, 204)
_TRUE_KINDS = (CallbackKind.GENUINE, CallbackKind.SECOND_GENERATION)
ROUND_KINDS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One or more callbacks of one order, sent in turn or all at once; `overrides` make the channel lie."""

    out_trade_no: str
    kinds: Sequence[CallbackKind] = (CallbackKind.GENUINE,)
    concurrent: bool = False
    overrides: Mapping[str, object] = field(default_factory=dict)
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one callback; `status` is None when the merchant could not be reached or did not answer."""

    kind: CallbackKind
    status: int | None


class Courier:
    """Holds the rounds that are due, and sends them with bounded concurrency over kept connections."""

    def __init__(self, *, keys: ChannelKeys, ledger: Ledger, clock: ChannelClock, signers: Executor,
                 scale: float, in_flight_max: int, plain_hosts: frozenset[str]) -> None:  # fmt: skip
        self.generation = 0
        self.counts: Counter[str] = Counter()
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._signers = signers
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

    async def run(self) -> None:
        """Send what is due, for ever; first of all what a former process could not finish."""
        for order in self._ledger:
            if order.paid_at_s and not order.notified:
                self.post(Round(out_trade_no=order.out_trade_no))
        connector = aiohttp.TCPConnector(limit=self._connections_max, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=_ANSWER_WITHIN_S)
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
        order = self._ledger.find(task.out_trade_no)
        if order is None:
            return []
        notices = await self.prepare(task)
        if task.concurrent:
            deliveries = await asyncio.gather(*(self._deliver(order.notify_url, *pair) for pair in notices))
        else:
            deliveries = [await self._deliver(order.notify_url, *pair) for pair in notices]
        genuine = [delivery for delivery in deliveries if delivery.kind in _TRUE_KINDS]
        if any(delivery.status in _TAKEN for delivery in genuine) and not task.overrides:
            self._ledger.notified(order)
        elif genuine and task.attempt < len(SCHEDULE_S):
            later = replace(task, kinds=(CallbackKind.GENUINE,), concurrent=False, attempt=task.attempt + 1)
            self.post(later, SCHEDULE_S[task.attempt] * self._scale)
        return list(deliveries)

    async def prepare(self, task: Round) -> list[tuple[CallbackKind, Notice]]:
        """Seal and sign the callbacks of a round without sending them.

        Kinds that are signed alike have the same body, as true duplicates have.
        """
        order = self._ledger.find(task.out_trade_no)
        assert order is not None
        loop = asyncio.get_running_loop()
        genuine_body = success_body(self._keys, order, task.overrides, CallbackKind.GENUINE)
        prepared = []
        for kind in task.kinds[:ROUND_KINDS_MAX]:
            body = genuine_body
            if kind is CallbackKind.WRONG_APIV3_KEY:
                body = success_body(self._keys, order, task.overrides, kind)
            notice = await loop.run_in_executor(
                self._signers, sign_notice, self._keys, self.generation, self._clock.real_s(), body, kind
            )
            prepared.append((kind, notice))
        return prepared

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

    async def _deliver(self, url: str, kind: CallbackKind, notice: Notice) -> Delivery:
        status = None
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
                await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            _logger.warning("callback to %s: %s", url, type(error).__name__)
        self.counts["callbacks_sent"] += 1
        self.counts["callbacks_taken" if status in _TAKEN else "callbacks_refused"] += 1
        return Delivery(kind=kind, status=status)
