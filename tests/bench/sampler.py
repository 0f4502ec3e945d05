"""A sampling profiler: `python -m tests.bench.sampler OUT -m module args…` runs a module and says where its CPU time went.

A timer of the process's own CPU time interrupts it every 2 ms and the stack is noted: unlike cProfile it does not make
small Python functions look dear. Time inside C code counts for the Python line that called it. It begins with SIGUSR1,
so that imports and warm-up stay out.
"""

import collections
import json
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType

_EVERY_S = 0.002
_DEPTH_MAX = 200
_SHOWN = 10


class Sampler:
    """Counts interrupted functions: `own` where the time was spent, `under` everything on the stack, once per sample."""

    def __init__(self) -> None:
        self.samples = 0
        self.own: collections.Counter[str] = collections.Counter()
        self.under: collections.Counter[str] = collections.Counter()

    def arm(self) -> None:
        """Begin when told by SIGUSR1."""
        signal.signal(signal.SIGPROF, self._note)
        signal.signal(signal.SIGUSR1, lambda *_: self.start())

    def start(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def write(self, out: Path) -> None:
        """Write the counts as JSON: functions as `file:function`, shares of all samples."""
        out.write_text(json.dumps({
            "samples": self.samples, "own": self.own.most_common(400), "under": self.under.most_common(80),
        }))  # fmt: skip

    def _note(self, _number: int, frame: FrameType | None) -> None:
        self.samples += 1
        seen: set[str] = set()
        depth = 0
        while frame is not None and depth < _DEPTH_MAX:
            name = _name(frame, with_line=depth == 0)
            if depth == 0:
                self.own[name] += 1
                name = _name(frame, with_line=False)
            seen.add(name)
            frame, depth = frame.f_back, depth + 1
        self.under.update(seen)


def _name(frame: FrameType, *, with_line: bool) -> str:
    code = frame.f_code
    file = code.co_filename
    for root in ("site-packages/", "/src/", "/lib/python3.11/"):
        file = file.rpartition(root)[2]
    return f"{file}:{frame.f_lineno} {code.co_qualname}" if with_line else f"{file} {code.co_qualname}"


def top(out: Path, count: int = _SHOWN) -> list[str]:
    """The dearest functions by own time, lines summed up, as text; empty when there is no profile."""
    if not out.exists():
        return []
    profile = json.loads(out.read_text())
    total = max(1, profile["samples"])
    own: collections.Counter[str] = collections.Counter()
    for name, hits in profile["own"]:
        place, _, function = name.partition(" ")
        own[f"{place.rpartition(':')[0]} {function}"] += hits
    return [f"{hits / total:5.1%} {name}" for name, hits in own.most_common(count)]


def under(out: Path, count: int = 40) -> list[str]:
    """The functions under which most time was spent, themselves included."""
    if not out.exists():
        return []
    profile = json.loads(out.read_text())
    return [f"{hits / max(1, profile['samples']):5.1%} {name}" for name, hits in profile["under"][:count]]


def main() -> None:
    """Run the module named on the command line as `__main__`, sampled until it ends."""
    out, dash_m, module, *arguments = sys.argv[1:]
    assert dash_m == "-m", "usage: sampler OUT -m module args…"
    sys.argv = [module, *arguments]
    sampler = Sampler()
    sampler.arm()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sampler.stop()
        sampler.write(Path(out))


if __name__ == "__main__":
    main()
