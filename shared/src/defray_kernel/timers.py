"""Timers: rows with a due time, claimed in batches, the claim committed before the work is applied."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from defray_kernel.clock import Clock
from defray_kernel.db import CommitUnknown, Database, WriteTx, backoff_s, is_transient

_log = structlog.get_logger()
_BATCH_MAX: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """One kind of due work.

    `claim(tx, now, limit)` picks due rows (FOR UPDATE SKIP LOCKED) and moves their due time on by a lease, so that a
    dead worker costs only the lease; `apply(rows)` does the work afterwards, in transactions of its own.
    """

    name: str
    claim: Callable[[WriteTx, dt.datetime, int], Awaitable[Sequence[Any]]]
    apply: Callable[[Sequence[Any]], Awaitable[None]]
    every_s: float = 0.5
    wake: asyncio.Event | None = None
    """Set by whoever has just made work due, so that it need not wait for the next look."""
    batch_max: int = _BATCH_MAX


async def run_timers(database: Database, timers: Sequence[Timer], clock: Clock, stopping: asyncio.Event) -> None:
    """Run every timer in a loop of its own until told to stop."""
    async with asyncio.TaskGroup() as loops:
        for timer in timers:
            loops.create_task(_run(database, timer, clock, stopping))


async def run_once(database: Database, timer: Timer, clock: Clock) -> int:
    """Claim one batch and apply it; returns how many rows were due."""
    async with database.transaction() as tx:
        due = await timer.claim(tx, clock.now(), timer.batch_max)
    if due:
        await timer.apply(due)
    return len(due)


async def _run(database: Database, timer: Timer, clock: Clock, stopping: asyncio.Event) -> None:
    failures = 0
    while not stopping.is_set():
        pause_s = timer.every_s
        try:
            if await run_once(database, timer, clock) == timer.batch_max:
                pause_s = 0.0
            failures = 0
        except Exception as error:
            if not (is_transient(error) or isinstance(error, CommitUnknown)):
                raise
            failures += 1
            pause_s = backoff_s(failures, base_s=0.2, cap_s=5.0)
            _log.warning("timer_waits", timer=timer.name, error=type(error).__name__)
        await _pause(timer, stopping, pause_s)


async def _pause(timer: Timer, stopping: asyncio.Event, pause_s: float) -> None:
    if timer.wake is None:
        await wait_for_stop(stopping, pause_s)
        return
    await wait_for_stop(timer.wake, pause_s)
    timer.wake.clear()


async def wait_for_stop(stopping: asyncio.Event, at_most_s: float) -> None:
    """Sleep, unless told to stop earlier."""
    try:
        async with asyncio.timeout(at_most_s):
            await stopping.wait()
    except TimeoutError:
        pass
