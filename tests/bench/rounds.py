"""Runs the sides of a scenario interleaved, and repeats a run in which strangers used the machine."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.accounting import others_now
from tests.bench.report import Sample

OTHERS_CORES_MAX = 0.3
_CALM_CORES = 0.2

Run = Callable[[int], Awaitable[Sample]]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is run: rounds, seconds measured per run after `warm_s`, and how long to wait for a calm machine.

    `repeats_max` limits how often a run is repeated because others were busy.
    """

    rounds: int
    seconds: float
    warm_s: float = 1.0
    wait_calm_s: float = 10.0
    repeats_max: int = 2


@dataclass(slots=True, kw_only=True)
class Interleaved:
    """All samples by side, and how many runs were dropped for noise."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    dropped: int = 0


async def interleave(sides: Mapping[str, Run], plan: Plan, tell: Tell) -> Interleaved:
    """Run ours, textbook, limit, ours, … so that drift of the machine meets all sides alike."""
    result = Interleaved(samples={name: [] for name in sides})
    for number in range(1, plan.rounds + 1):
        for name, run in sides.items():
            sample, dropped = await quietest(run, number, plan)
            result.dropped += dropped
            result.samples[name].append(sample)
            cpu = "  ".join(f"{process} {us:.0f}" for process, us in sample.cpu_us.items())
            noise = f"  (others {sample.others:.2f} cores)" if sample.noisy else ""
            tell(f"  round {number} {name:<9}{sample.rate:>9,.0f}/s   CPU µs {cpu}{noise}")
            for text in sample.wrong:
                tell(f"    WRONG: {text}")
    return result


async def quietest(run: Run, number: int, plan: Plan) -> tuple[Sample, int]:
    """Repeat a run in which strangers used the machine, a few times; the calmest counts, marked when it was not calm."""
    best: Sample | None = None
    for attempt in range(plan.repeats_max + 1):
        await _calm(plan.wait_calm_s)
        sample = await run(number)
        if best is None or sample.others < best.others:
            best = sample
        # A wrong run is a result, not noise.
        if sample.others <= OTHERS_CORES_MAX or sample.wrong:
            return sample, attempt
    assert best is not None
    return dataclasses.replace(best, noisy=True), plan.repeats_max


async def _calm(wait_s: float) -> None:
    if wait_s <= 0:
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while await asyncio.to_thread(others_now) > _CALM_CORES and loop.time() < deadline:
        await asyncio.sleep(0.5)
