"""What the bench says: one row per scenario, as a table for people and as JSON for machines."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

_LIBRARIES = (
    "aiohttp", "aiokafka", "asyncpg", "cryptography", "fastapi", "httptools", "msgspec", "pydantic", "sqlalchemy",
    "starlette", "uvicorn", "uvloop",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run of one side: operations per second, CPU microseconds per operation by process, latency, and what was wrong.

    `others` is how many cores strangers used meanwhile; `wrong` names each failed exactness check; `stages_ms` says where
    an end-to-end operation waited (medians).
    """

    rate: float
    operations: int
    cpu_us: Mapping[str, float]
    others: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    wrong: Sequence[str] = ()
    noisy: bool = False
    stages_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a row is to reach; None where nothing was asked. Ratios are ours over the other, latency at half load."""

    ratio_textbook: float | None = None
    ratio_limit: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A finished scenario, in the form of var/bench/report.json. Rates are medians of the rounds, per second."""

    id: str
    scenario: str
    unit: str
    ours: float | None
    textbook: float | None
    limit: float | None
    limit_is: str
    ratio_textbook: float | None
    ratio_textbook_range: tuple[float, float] | None
    ratio_limit: float | None
    goal: Goal
    met: bool
    missed: Sequence[str]
    exact: bool
    wrong: Sequence[str]
    cpu_us_per_op: Mapping[str, Mapping[str, float]]
    cpu_ratio_textbook: float | None
    p50_ms: float | None
    p99_ms: float | None
    latency_at: str
    dropped_runs: int
    noisy_runs: int
    cause: str = ""
    profile: Sequence[str] = ()
    rounds: Mapping[str, Sequence[Sample]] = field(default_factory=dict)


def make_row(  # noqa: PLR0913 - a row has this many parts
    *, id: str, scenario: str, unit: str, limit_is: str, goal: Goal, rounds: Mapping[str, Sequence[Sample]],  # noqa: A002
    latency: Sample | None, dropped_runs: int, not_counted: Sequence[str] = (),
) -> Row:  # fmt: skip
    """Sum the rounds up. Ratios are taken within each round, then their median: a machine that slows hits all sides.

    `not_counted` are processes that stand for the world (load generator, simulator), left out of the CPU ratio.
    """
    ours, textbook, limit = (_rate(rounds.get(side, ())) for side in ("ours", "textbook", "limit"))
    by_textbook = _ratios(rounds.get("ours", ()), rounds.get("textbook", ()))
    by_limit = _ratios(rounds.get("ours", ()), rounds.get("limit", ()))
    cpu = {side: _cpu(samples) for side, samples in rounds.items() if samples}
    wrong = [f"{side} round {number}: {text}" for side, samples in rounds.items()
             for number, sample in enumerate(samples, 1) for text in sample.wrong]  # fmt: skip
    if latency is not None:
        wrong += [f"half load: {text}" for text in latency.wrong]
    values = {
        "ratio_textbook": statistics.median(by_textbook) if by_textbook else None,
        "ratio_limit": statistics.median(by_limit) if by_limit else None,
        "p99_ms": latency.p99_ms if latency else None,
    }
    missed = _missed(goal, values)
    return Row(
        id=id, scenario=scenario, unit=unit, ours=ours, textbook=textbook, limit=limit, limit_is=limit_is,
        ratio_textbook=_rounded(values["ratio_textbook"]),
        ratio_textbook_range=(round(min(by_textbook), 2), round(max(by_textbook), 2)) if by_textbook else None,
        ratio_limit=_rounded(values["ratio_limit"]),
        goal=goal, met=not missed and not wrong, missed=missed, exact=not wrong, wrong=wrong, cpu_us_per_op=cpu,
        cpu_ratio_textbook=_cpu_ratio(cpu, not_counted),
        p50_ms=latency.p50_ms if latency else None, p99_ms=latency.p99_ms if latency else None,
        latency_at=f"{latency.rate:.0f}/s" if latency else "",
        dropped_runs=dropped_runs, noisy_runs=sum(s.noisy for samples in rounds.values() for s in samples), rounds=rounds,
    )  # fmt: skip


def write(rows: Sequence[Row], path: Path, *, mode: str) -> None:
    """Write the report; nothing in it names a path or a host of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine() | {"mode": mode}, "versions": versions(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def machine() -> dict[str, object]:
    """Facts about where it ran."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cores": len(os.sched_getaffinity(0)), "cpu": model, "memory_gib": round(memory_kb / 2**20, 1),
        "kernel": platform.release(), "python": platform.python_version(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of the libraries that the numbers depend on."""
    return {name: version(name) for name in _LIBRARIES}


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal: rates, ratios with goals, CPU per operation, and why a goal was missed."""
    lines = []
    for row in rows:
        verdict = "met" if row.met else ("MISSED" if row.exact else "WRONG")
        lines += [
            f"{row.id}  {row.scenario}  [{verdict}]",
            _joined(
                f"    {row.unit:<13}ours {_number(row.ours)}",
                f"textbook {_number(row.textbook)}",
                f"limit {_number(row.limit)} ({row.limit_is})",
            ),
            _joined(
                f"    ratio        textbook {_times(row.ratio_textbook)}{_range(row.ratio_textbook_range)}",
                f"goal {_times(row.goal.ratio_textbook)}",
                f"limit {_times(row.ratio_limit)}",
                f"goal {_times(row.goal.ratio_limit)}",
                f"CPU {_times(row.cpu_ratio_textbook)}",
            ),
        ]
        if row.p99_ms is not None:
            goal = f" (goal {row.goal.p99_ms:.0f})" if row.goal.p99_ms else ""
            lines.append(f"    at {row.latency_at:<9} p50 {row.p50_ms:.1f} ms   p99 {row.p99_ms:.1f} ms{goal}")
        for side, cpu in row.cpu_us_per_op.items():
            parts = "  ".join(f"{name} {value:.0f}" for name, value in cpu.items())
            lines.append(f"    CPU µs/op    {side:<9}{parts}")
        for side, samples in row.rounds.items():
            if samples and samples[-1].stages_ms:
                parts = "  ".join(f"{name} {ms:.0f}" for name, ms in samples[-1].stages_ms.items())
                lines.append(f"    waits ms     {side:<9}{parts}")
        if row.dropped_runs or row.noisy_runs:
            lines.append(
                f"    noise        {row.dropped_runs} runs dropped, {row.noisy_runs} kept though others used the machine"
            )
        lines += [f"    WRONG        {text}" for text in row.wrong]
        lines += [f"    missed       {text}" for text in row.missed]
        if row.cause:
            lines.append(f"    cause        {row.cause}")
        lines += [f"      {line}" for line in row.profile]
    return "\n".join(lines)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of `values` lie; `values` are sorted and not empty."""
    return values[min(len(values) - 1, int(len(values) * share))]


def _rate(samples: Sequence[Sample]) -> float | None:
    return round(statistics.median(sample.rate for sample in samples), 1) if samples else None


def _ratios(ours: Sequence[Sample], other: Sequence[Sample]) -> list[float]:
    return [a.rate / b.rate for a, b in zip(ours, other, strict=False) if b.rate > 0]


def _cpu(samples: Sequence[Sample]) -> dict[str, float]:
    names = dict.fromkeys(name for sample in samples for name in sample.cpu_us)
    return {name: round(statistics.median(s.cpu_us.get(name, 0.0) for s in samples), 1) for name in names}


def _cpu_ratio(cpu: Mapping[str, Mapping[str, float]], not_counted: Sequence[str]) -> float | None:
    totals = {side: sum(us for name, us in values.items() if name not in not_counted) for side, values in cpu.items()}
    return round(totals["textbook"] / totals["ours"], 2) if totals.get("textbook") and totals.get("ours") else None


def _missed(goal: Goal, values: Mapping[str, float | None]) -> list[str]:
    missed = []
    for name, wanted in asdict(goal).items():
        value = values[name]
        if wanted is None:
            continue
        if value is None:
            missed.append(f"{name} was not measured")
        elif (value > wanted) if name == "p99_ms" else (value < wanted):
            missed.append(f"{name} is {value:.2f}, goal {'at most' if name == 'p99_ms' else 'at least'} {wanted:g}")
    return missed


def _joined(*parts: str) -> str:
    return "   ".join(parts)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _range(value: tuple[float, float] | None) -> str:
    return "" if value is None else f" ({value[0]:.1f}-{value[1]:.1f})"
