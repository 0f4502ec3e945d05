"""Keeps many attempts in flight at once, bounded in all and per endpoint, so that a slow endpoint delays only itself."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import structlog

from defray_kernel import metrics
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.crypto import CannotOpen
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.ids import show
from defray_notifier.delivery.client import Answer, WebhookClient
from defray_notifier.delivery.signing import Secrets, sign
from defray_notifier.domain import retry_schedule
from defray_notifier.domain.delivery import Attempt, Claimed, Result, result_of

_STOP_WITHIN_S: Final = 5.0
_log = structlog.get_logger()

Record = Callable[[Attempt], Awaitable[object]]


class Dispatcher:
    """Makes the attempts it is given and hands each outcome to `record`; `wake` is set when there is room again."""

    def __init__(
        self,
        client: WebhookClient,
        secrets: Secrets,
        record: Record,
        clock: Clock,
        *,
        in_flight_max: int,
        endpoint_in_flight_max: int,
        wake: asyncio.Event,
    ) -> None:
        self._client, self._secrets, self._record, self._clock, self._wake = client, secrets, record, clock, wake
        self._in_flight_max, self.endpoint_in_flight_max = in_flight_max, endpoint_in_flight_max
        self._in_flight: Counter[UUID] = Counter()
        self._total = 0
        self._limited: set[UUID] = set()
        self._starved = False
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[None]] = set()

    def room(self) -> int:
        """How many attempts may begin now; 0 when not running."""
        return self._in_flight_max - self._total if self._tasks is not None else 0

    def rooms(self) -> dict[UUID, int]:
        """What is left to each endpoint that has attempts in flight; to every other one, the whole limit."""
        return {endpoint: max(0, self.endpoint_in_flight_max - count) for endpoint, count in self._in_flight.items()}

    def take(self, claimed: Sequence[Claimed], *, room: int) -> None:
        """Begin these attempts. `room` is what was asked for: a claim that filled it is worth asking again."""
        tasks = self._tasks
        if tasks is None:
            return  # Stopped meanwhile; the leases run out and others take over.
        for each in claimed:
            self._in_flight[each.endpoint_id] += 1
            self._total += 1
            task = tasks.create_task(self._attempt(each))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        self._starved = len(claimed) >= room
        self._limited |= {e for e, count in self._in_flight.items() if count >= self.endpoint_in_flight_max}

    async def run(self, stopping: asyncio.Event) -> None:
        """Until told to stop; what is in flight then gets a moment, after which its lease runs out."""
        async with asyncio.TaskGroup() as owner:
            self._tasks = owner
            self._wake.set()
            await stopping.wait()
            self._tasks = None
            if self._running:
                _, cut_short = await asyncio.wait(self._running, timeout=_STOP_WITHIN_S)
                for task in cut_short:
                    task.cancel()

    async def _attempt(self, claimed: Claimed) -> None:
        try:
            attempt = await self._made(claimed)
            metrics.count("deliveries", outcome=attempt.result)
            crash_point("deliver.before_record")
            await self._record(attempt)
        except (Overloaded, Unavailable, OutcomeUnknown) as error:
            # Not recorded: the lease runs out and the same message, with the same id, is sent again.
            _log.warning("attempt_not_recorded", error=type(error).__name__)
        finally:
            self._freed(claimed.endpoint_id)

    async def _made(self, claimed: Claimed) -> Attempt:
        at = self._clock.real()
        if not claimed.enabled:
            answer = _not_tried("endpoint_disabled")
            result = Result.ENDPOINT_DISABLED
        else:
            answer = await self._sent(claimed)
            result = result_of(answer.status)
        return Attempt(
            claimed=claimed,
            result=result,
            at=at,
            duration_ms=answer.duration_ms,
            status=answer.status,
            error=answer.error,
            reply=answer.reply,
            retry_after=retry_schedule.retry_after(answer.retry_after, at),
            jitter_permille=random.randint(-retry_schedule.JITTER_PERMILLE, retry_schedule.JITTER_PERMILLE),  # noqa: S311 - spreads retries, guards nothing
        )

    async def _sent(self, claimed: Claimed) -> Answer:
        try:
            keys = self._secrets.open(claimed.endpoint_id, claimed.sealed)
        except CannotOpen:
            _log.critical("endpoint_secret_does_not_open", endpoint=show("end", claimed.endpoint_id))
            return _not_tried("secret_unreadable")
        headers = sign(keys, show("msg", claimed.message_id), self._clock.real(), claimed.payload)
        return await self._client.post(claimed.url, headers, claimed.payload)

    def _freed(self, endpoint_id: UUID) -> None:
        self._total -= 1
        self._in_flight[endpoint_id] -= 1
        left = self._in_flight[endpoint_id]
        if left == 0:
            del self._in_flight[endpoint_id]
        # Half empty, so that claims stay batches.
        if endpoint_id in self._limited and left <= self.endpoint_in_flight_max // 2:
            self._limited.discard(endpoint_id)
            self._wake.set()
        if self._starved and self._total <= self._in_flight_max // 2:
            self._starved = False
            self._wake.set()


def _not_tried(error: str) -> Answer:
    return Answer(status=None, error=error, retry_after=None, reply=b"", duration_ms=0)
