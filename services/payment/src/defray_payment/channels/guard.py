"""What keeps one account's channel from being overrun, and us from waiting for a dead one: a breaker, rates, holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

from defray_payment.channels.spi import Kind, Next, Outcome, PaymentView, RefundView, Trouble

_FAILURES: Final = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.UNREACHED, Kind.AUTH})
_HELD_S_DEFAULT: Final = 1.0
OPEN: Final = Trouble(
    kind=Kind.UNAVAILABLE, outcome=Outcome.NOT_APPLIED, next=Next.RETRY_SAME_NUMBER, code="circuit_open"
)
_log = structlog.get_logger()


class Circuit(StrEnum):
    """Whether calls are let through: all, none, or one to see."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one account in one process: calls per second, failures in a row that open the circuit, seconds it stays open."""

    rate_per_s: float = 50.0
    burst: int = 100
    background_per_s: float = 20.0
    background_wait_s: float = 20.0
    trip_after: int = 5
    cool_s: float = 5.0
    cool_s_max: float = 60.0


class Guard:
    """Admits or refuses calls by what earlier calls have met; touches nothing but its own numbers."""

    def __init__(self, name: str, limits: Limits, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._limits, self._monotonic = name, limits, monotonic
        self._tokens, self._filled_at = float(limits.burst), monotonic()
        self._failures, self._opened_at, self._cool_s = 0, 0.0, limits.cool_s
        self._is_open = self._probing = False
        self._held_until = self._background_at = 0.0

    @property
    def circuit(self) -> Circuit:
        """The breaker's state now."""
        if not self._is_open:
            return Circuit.CLOSED
        cooled = self._monotonic() >= self._opened_at + self._cool_s
        return Circuit.HALF_OPEN if cooled else Circuit.OPEN

    def admit(self) -> Trouble | None:
        """Why a call is not made now, None when it is; an admitted call must be followed by `heard`."""
        now = self._monotonic()
        match self.circuit:
            case Circuit.OPEN:
                return OPEN
            case Circuit.HALF_OPEN if self._probing:
                return OPEN
            case Circuit.HALF_OPEN:
                self._probing = True
                return None
            case Circuit.CLOSED:
                pass
        if now < self._held_until:
            return _limited("held", self._held_until - now)
        refill = (now - self._filled_at) * self._limits.rate_per_s
        self._tokens, self._filled_at = min(float(self._limits.burst), self._tokens + refill), now
        if self._tokens < 1:
            return _limited("own_rate", (1 - self._tokens) / self._limits.rate_per_s)
        self._tokens -= 1
        return None

    def heard(self, said: PaymentView | RefundView | Trouble | None) -> None:
        """What became of an admitted call; None = it was broken off, which proves nothing good."""
        probed, self._probing = self._probing, False
        failed = said is None or (isinstance(said, Trouble) and said.kind in _FAILURES)
        if isinstance(said, Trouble) and said.kind is Kind.RATE_LIMITED:
            self._held_until = self._monotonic() + (said.retry_after_s or _HELD_S_DEFAULT)
        if not failed:
            if self._is_open:
                _log.warning("circuit_closed", account=self._name)
            self._is_open, self._failures, self._cool_s = False, 0, self._limits.cool_s
            return
        self._failures += 1
        if probed and self._is_open:
            self._opened_at = self._monotonic()
            self._cool_s = min(self._cool_s * 2, self._limits.cool_s_max)
        elif not self._is_open and self._failures >= self._limits.trip_after:
            self._is_open, self._opened_at = True, self._monotonic()
            _log.error("circuit_opened", account=self._name, failures=self._failures)

    async def turn(self) -> bool:
        """Wait for a turn among calls that nobody waits for; False when none is near or none would be let through.

        This is what keeps the backlog of an outage from arriving at the channel at once.
        """
        now = self._monotonic()
        at = max(now, self._background_at, self._held_until)
        if self._shut() or at - now > self._limits.background_wait_s:
            return False
        self._background_at = at + 1 / self._limits.background_per_s
        if at > now:
            await asyncio.sleep(at - now)
        return not self._shut()

    def _shut(self) -> bool:
        circuit = self.circuit
        return circuit is Circuit.OPEN or (circuit is Circuit.HALF_OPEN and self._probing)


def _limited(code: str, wait_s: float) -> Trouble:
    return Trouble(
        kind=Kind.RATE_LIMITED,
        outcome=Outcome.NOT_APPLIED,
        next=Next.RETRY_SAME_NUMBER,
        code=code,
        retry_after_s=wait_s,
    )
