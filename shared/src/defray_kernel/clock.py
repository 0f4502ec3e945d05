"""The only place where the time is read: business time (which the sandbox may move) and real time."""

import datetime as dt
import time
from pathlib import Path
from typing import Final, Protocol

_REREAD_AFTER_S: Final = 0.2
_ADVANCE_MAX_S: Final = 400 * 24 * 3600


class Clock(Protocol):
    """Business time decides expiry, due dates, retries, cut-offs; real time decides signatures, leases, deadlines."""

    def now(self) -> dt.datetime:
        """Business time, UTC."""
        ...

    def real(self) -> dt.datetime:
        """Real time, UTC."""
        ...


class SystemClock:
    """Business time is real time."""

    def now(self) -> dt.datetime:
        """Business time, UTC."""
        return dt.datetime.now(dt.UTC)

    def real(self) -> dt.datetime:
        """Real time, UTC."""
        return dt.datetime.now(dt.UTC)


class SandboxClock(SystemClock):
    """Real time plus an offset kept in a file that every process of one sandbox reads; it only moves forward."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset_s = 0
        self._read_at = -_REREAD_AFTER_S

    def now(self) -> dt.datetime:
        """Business time, UTC; a moved clock is noticed within 0.2 s."""
        if time.monotonic() - self._read_at >= _REREAD_AFTER_S:
            self._offset_s = max(self._offset_s, read_offset_s(self._path))
            self._read_at = time.monotonic()
        return self.real() + dt.timedelta(seconds=self._offset_s)


class ManualClock:
    """A clock for tests: both times stand still until moved."""

    def __init__(self, start: dt.datetime) -> None:
        self._now = start

    def now(self) -> dt.datetime:
        """Business time, UTC."""
        return self._now

    def real(self) -> dt.datetime:
        """Real time, UTC."""
        return self._now

    def advance(self, by: dt.timedelta) -> None:
        """Move both times forward."""
        assert by >= dt.timedelta(0)
        self._now += by


def read_offset_s(path: Path) -> int:
    """The sandbox's offset in seconds; 0 while nobody has moved the clock."""
    try:
        return int(path.read_text("ascii"))
    except FileNotFoundError:
        return 0


def advance(path: Path, by_s: int) -> int:
    """Move the sandbox's business time forward by whole seconds; returns the new offset.

    Raises ValueError when asked to go back or more than 400 days ahead in one step.
    """
    if not 0 < by_s <= _ADVANCE_MAX_S:
        raise ValueError("the sandbox clock moves forward only, at most 400 days at once")
    offset_s = read_offset_s(path) + by_s
    replacement = path.with_suffix(".new")
    replacement.write_text(str(offset_s), "ascii")
    replacement.replace(path)
    return offset_s
