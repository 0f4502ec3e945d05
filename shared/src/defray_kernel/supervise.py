"""The parts of one process: all of them live, or none; and told to stop, they stop in the order that loses nothing."""

import asyncio
import enum
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from defray_kernel.db import is_transient
from defray_kernel.errors import ConfigInvalid, StartRefused
from defray_kernel.relay import RelayBroken

EXIT_DIED: Final = 70
EXIT_TRY_AGAIN: Final = 75
EXIT_CONFIG: Final = 78

_log = structlog.get_logger()


class Stage(enum.IntEnum):
    """Order of stopping: no new requests, no new work, commits drained, their events told."""

    HTTP = 0
    WORK = 1
    COMMIT = 2
    RELAY = 3


# Seconds a stage may take; together they stay under the 15 s that a supervisor waits.
_BUDGET_S: Final = {Stage.HTTP: 10.5, Stage.WORK: 1.5, Stage.COMMIT: 1.0, Stage.RELAY: 1.0}
_GIVE_UP_S: Final = 14.8


@dataclass(frozen=True, slots=True)
class Part:
    """One long-running part; `run` works until its event is set."""

    name: str
    stage: Stage
    run: Callable[[asyncio.Event], Awaitable[None]]


class PartDied(Exception):
    """A part came to its end without having been told to."""


async def run(parts: Sequence[Part], stop: asyncio.Event) -> int:
    """Run all parts until `stop`, then stop them stage by stage; returns the process's exit code.

    A part that raises or returns before its time ends all others at once: whatever was not committed is not told.
    """
    stopping = {stage: asyncio.Event() for stage in Stage}
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [(part, group.create_task(_guarded(part, stopping[part.stage]))) for part in parts]
            await stop.wait()
            for stage in Stage:
                stopping[stage].set()
                await _ended(stage, [(part, task) for part, task in tasks if part.stage == stage])
    except BaseExceptionGroup as failures:
        return exit_code(failures)
    return 0


def exit_code(failure: BaseException) -> int:
    """Tell why the process ends, and return the exit code that says whether starting it again may help."""
    errors = list(_leaves(failure))
    refusals = [error for error in errors if isinstance(error, (ConfigInvalid, StartRefused))]
    if refusals:
        sys.stderr.write(f"{refusals[0]}\n")
        return EXIT_CONFIG
    for error in errors:
        _log.error("part_died", error=type(error).__name__, exc_info=error)
    return EXIT_TRY_AGAIN if all(is_transient(e) or isinstance(e, RelayBroken) for e in errors) else EXIT_DIED


def until_stopped(
    work: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> Callable[[asyncio.Event], Awaitable[None]]:
    """Adapts a part with `run()` and `stop()`."""

    async def run_until(stopping: asyncio.Event) -> None:
        async def stopper() -> None:
            await stopping.wait()
            await stop()

        async with asyncio.TaskGroup() as group:
            ending = group.create_task(stopper())
            await work()
            if not stopping.is_set():
                ending.cancel()

    return run_until


async def give_up_after(stop: asyncio.Event) -> None:
    """End the process hard when stopping takes too long: everything promised is in Postgres already."""
    await stop.wait()
    await asyncio.sleep(_GIVE_UP_S)
    _log.error("stop_took_too_long")
    os._exit(EXIT_TRY_AGAIN)


async def _guarded(part: Part, stopping: asyncio.Event) -> None:
    await part.run(stopping)
    if not stopping.is_set():
        raise PartDied(part.name)


async def _ended(stage: Stage, tasks: Sequence[tuple[Part, asyncio.Task[None]]]) -> None:
    if not tasks:
        return
    _, late = await asyncio.wait([task for _, task in tasks], timeout=_BUDGET_S[stage])
    for part, task in tasks:
        if task in late:
            _log.error("part_stopped_late", part=part.name)
            task.cancel()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
