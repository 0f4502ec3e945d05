"""Named crash points: one-line hooks that do nothing unless a sandbox arms one of them."""

import os
import signal
from typing import Final

_armed: Final[dict[str, int]] = {}


def arm(spec: str) -> None:
    """Arm `name:n`: the n-th passage of that point kills this process with SIGKILL (n defaults to 1)."""
    name, _, count = spec.partition(":")
    _armed[name] = int(count or 1)


def crash_point(name: str) -> None:
    """Die here when armed, as a power cut would: no clean-up, no exception."""
    if not _armed:
        return
    left = _armed.get(name)
    if left is None:
        return
    if left > 1:
        _armed[name] = left - 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
