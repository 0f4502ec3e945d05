"""Reads CPU time per process tree from /proc, so that a busy machine cannot pass for a slow program."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_USER, _NICE, _SYSTEM, _STEAL = 0, 1, 2, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    parent: int
    cpu_s: float


def _processes() -> dict[int, _Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Own user and system time, and that of children that ended and were reaped.
        found[int(entry.name)] = _Process(parent=int(fields[1]), cpu_s=sum(map(int, fields[11:15])) * _TICK_S)
    return found


def _tree_s(root: int, processes: Mapping[int, _Process]) -> float:
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    total, open_ = 0.0, [root]
    while open_:
        pid = open_.pop()
        if pid in processes:
            total += processes[pid].cpu_s
            open_ += children.get(pid, ())
    return total


def _machine_s() -> float:
    values = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (values[_USER] + values[_NICE] + values[_SYSTEM] + values[_STEAL]) * _TICK_S


class Meter:
    """CPU seconds of each named process tree, and cores used by everybody else, between entry and exit.

    `cpu_s` is per name, `seconds` the wall time, `others` the cores that strangers used on average (stolen time too).
    """

    def __init__(self, trees: Mapping[str, int]) -> None:
        self._trees = dict(trees)
        self.cpu_s: dict[str, float] = {}
        self.seconds = 0.0
        self.others = 0.0

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        at, machine_s, own_s, trees = self._read()
        before_at, before_machine_s, before_own_s, before = self._before
        self.seconds = at - before_at
        self.cpu_s = {name: max(0.0, trees[name] - before[name]) for name in trees}
        self.others = max(0.0, (machine_s - before_machine_s) - (own_s - before_own_s)) / self.seconds

    def us_per_operation(self, operations: int) -> dict[str, float]:
        """CPU microseconds per operation by name; empty when nothing was done."""
        return {name: round(s / operations * 1e6, 1) for name, s in self.cpu_s.items()} if operations else {}

    def _read(self) -> tuple[float, float, float, dict[str, float]]:
        processes = _processes()
        # Everything we started hangs below this process.
        own_s = _tree_s(os.getpid(), processes)
        trees = {name: _tree_s(pid, processes) for name, pid in self._trees.items()}
        return time.monotonic(), _machine_s(), own_s, trees


def others_now(for_s: float = 0.5) -> float:
    """Cores that others use at the moment, looked at for `for_s` seconds."""
    with Meter({}) as meter:
        time.sleep(for_s)
    return meter.others
