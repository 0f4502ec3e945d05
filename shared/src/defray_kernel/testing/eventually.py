"""Waiting in tests without blind sleeps: poll a probe and say what was waited for."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    probe: Callable[[], T | Awaitable[T]], *, within_s: float = 10.0, every_s: float = 0.05, what: str = ""
) -> T:
    """Return the probe's first true answer. Raises AssertionError naming `what` and the last answer after the time."""
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or probe} (last answer: {answer!r})")
        await asyncio.sleep(every_s)
