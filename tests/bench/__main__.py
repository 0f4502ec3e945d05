"""`make bench`: runs the scenarios, prints the table, writes var/bench/report.json; exit 1 only when a run was not exact."""

import argparse
import asyncio
import dataclasses
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import ModuleType

from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.paths import CHECKOUT
from tests.bench import o1_place, o2_inbound, p1_callbacks, p2_create, p4_relay, p6_end_to_end, report
from tests.bench.report import Row
from tests.bench.rounds import Plan, Tell
from tests.bench.world import BenchFailed, World, bench_world

SCENARIOS: dict[str, ModuleType] = {"P1": p1_callbacks, "P2": p2_create, "P4": p4_relay, "P6": p6_end_to_end,
                                   "O1": o1_place, "O2": o2_inbound}  # fmt: skip
REPORT = CHECKOUT / "var" / "bench" / "report.json"
EXIT_WRONG, EXIT_FAILED = 1, 2
_BROKER_WARM_S = 6.0
_QUICK = Plan(rounds=3, seconds=3.0)
_FULL = Plan(rounds=5, seconds=5.0)

Scenario = Callable[[World, Plan, Tell], Awaitable[Row]]


def options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="3 rounds of 3 s (the default)")
    size.add_argument("--full", action="store_true", help="5 rounds of 5 s")
    parser.add_argument("--only", default="", help="such as P1,P4")
    parser.add_argument("--rounds", type=int, help="another number of rounds")
    parser.add_argument("--seconds", type=float, help="another length of a run")
    parser.add_argument(
        "--noisy", action="store_true", help="neither wait for a calm machine nor repeat disturbed runs"
    )
    parser.add_argument(
        "--profile", choices=("missed", "all", "none"), default="missed",
        help="one more run of ours under the sampler: where a goal was missed (the default), for every scenario, never",
    )  # fmt: skip
    parser.add_argument("--warm", type=float, default=1.0, help="seconds that a run goes on before it is measured")
    parser.add_argument("--out", type=Path, default=REPORT, help="where the report goes")
    return parser.parse_args(arguments)


async def bench(chosen: argparse.Namespace, tell: Tell) -> list[Row]:
    """Run the chosen scenarios on servers of their own."""
    base = _FULL if chosen.full else _QUICK
    plan = dataclasses.replace(base, rounds=chosen.rounds or base.rounds, seconds=chosen.seconds or base.seconds,
                               warm_s=chosen.warm)  # fmt: skip
    if chosen.noisy:
        plan = dataclasses.replace(plan, wait_calm_s=0.0, repeats_max=0)
    names = [name.strip() for name in chosen.only.split(",") if name.strip()] or list(SCENARIOS)
    unknown = set(names) - set(SCENARIOS)
    if unknown:
        raise BenchFailed(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    rows: list[Row] = []
    async with bench_world() as world:
        tell("PostgreSQL and Kafka are up")
        await world.warm_broker(_BROKER_WARM_S * min(1.0, plan.warm_s))
        for name in names:
            row = await SCENARIOS[name].run(world, plan, tell)
            if chosen.profile == "all" or (chosen.profile == "missed" and row.missed):
                row = await _explained(SCENARIOS[name], world, plan, row)
            rows.append(row)
    return rows


async def _explained(scenario: ModuleType, world: World, plan: Plan, row: Row) -> Row:
    hot = await scenario.profile(world, plan, world.folder / f"profile-{row.id}.json")
    cause = f"own CPU time of ours: {'; '.join(line.strip() for line in hot[:3])}" if row.missed and hot else ""
    return dataclasses.replace(row, profile=hot, cause=cause)


async def _interruptible(work: Coroutine[None, None, list[Row]]) -> list[Row]:
    """Told to end, end what was started first."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def main() -> int:
    """Run the command; returns its exit code."""
    chosen = options(sys.argv[1:])
    started = time.monotonic()
    # What it warns of (a topic just made, a broker stopping) is either waited for or raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    def tell(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - started:6.1f} s  {text}\n")
        sys.stdout.flush()

    try:
        rows = asyncio.run(_interruptible(bench(chosen, tell)))
    except asyncio.CancelledError:
        sys.stderr.write("bench: interrupted\n")
        return EXIT_FAILED
    except (BenchFailed, StackError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return EXIT_FAILED
    report.write(rows, chosen.out, mode="full" if chosen.full else "quick")
    sys.stdout.write(f"\n{report.table(rows)}\n")
    return 0 if all(row.exact for row in rows) else EXIT_WRONG


if __name__ == "__main__":
    sys.exit(main())
