"""The bench measures, judges and reports as it says: small samples by hand, and one short run of the relay row."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from defray_sandbox.settings import inherited_environment
from defray_sandbox.stack.paths import CHECKOUT
from tests.bench.accounting import Meter
from tests.bench.report import Goal, Row, Sample, make_row, table
from tests.bench.rounds import Plan, interleave, quietest

_ROW_KEYS = {
    "id", "scenario", "ours", "textbook", "limit", "ratio_textbook", "ratio_limit", "goal", "met", "cpu_us_per_op",
    "p50_ms", "p99_ms", "cause",
}  # fmt: skip
_SIDES = {"ours", "textbook", "limit"}
_NO_WAIT = Plan(rounds=2, seconds=0.1, warm_s=0.1, wait_calm_s=0.0, repeats_max=1)


def sample(rate: float, *, others: float = 0.0, wrong: tuple[str, ...] = ()) -> Sample:
    return Sample(rate=rate, operations=100, cpu_us={"app": 1e6 / rate, "load": 5.0}, others=others, wrong=wrong)


def row(ours: list[Sample], textbook: list[Sample], goal: Goal) -> Row:
    return make_row(
        id="X", scenario="s", unit="x/s", limit_is="-", goal=goal, rounds={"ours": ours, "textbook": textbook},
        latency=None, dropped_runs=0, not_counted=("load",),
    )  # fmt: skip


def test_ratios_are_taken_within_a_round() -> None:
    # The machine halves its speed in the second round; the ratio must not notice.
    made = row(
        [sample(1000), sample(500), sample(1000)], [sample(100), sample(50), sample(100)], Goal(ratio_textbook=10)
    )
    assert (made.ratio_textbook, made.ratio_textbook_range, made.met, made.cpu_ratio_textbook) == (
        10,
        (10, 10),
        True,
        10,
    )


def test_a_missed_goal_is_named_and_does_not_make_the_run_wrong() -> None:
    made = row([sample(500)], [sample(100)], Goal(ratio_textbook=10, p99_ms=20))
    assert (made.met, made.exact) == (False, True)
    assert made.missed == ["ratio_textbook is 5.00, goal at least 10", "p99_ms was not measured"]
    assert "[MISSED]" in table([made])


def test_a_fast_wrong_run_is_a_failure() -> None:
    made = row([sample(5000, wrong=("3 lost",))], [sample(100)], Goal(ratio_textbook=10))
    assert (made.met, made.exact, made.wrong) == (False, False, ["ours round 1: 3 lost"])
    assert "[WRONG]" in table([made])


async def test_sides_are_interleaved() -> None:
    order: list[str] = []

    def side(name: str):  # noqa: ANN202 - a run
        async def run(_: int) -> Sample:
            order.append(name)
            return sample(1)

        return run

    await interleave({"ours": side("ours"), "textbook": side("textbook")}, _NO_WAIT, lambda _: None)
    assert order == ["ours", "textbook", "ours", "textbook"]


async def test_a_disturbed_run_is_repeated_and_the_calmest_kept() -> None:
    runs = iter([sample(1, others=0.9), sample(2, others=0.5), sample(3, others=0.0)])

    async def run(_: int) -> Sample:
        return next(runs)

    kept, dropped = await quietest(run, 1, _NO_WAIT)
    assert (kept.rate, kept.noisy, dropped) == (2, True, 1)


def test_the_meter_tells_our_processes_from_strangers() -> None:
    burn = "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", burn]) as child:
        with Meter({"child": child.pid}) as meter:
            time.sleep(0.4)
        child.wait()
    assert meter.cpu_s["child"] > 0.05
    assert meter.others <= 4.0
    assert meter.us_per_operation(10)["child"] == pytest.approx(meter.cpu_s["child"] * 1e5, rel=0.01)


def test_a_short_run_writes_a_whole_report(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.bench", "--only", "P4", "--rounds", "1", "--seconds", "0.4", "--warm", "0.1",
               "--noisy", "--profile", "none", "--out", str(out)]  # fmt: skip
    run = subprocess.run(command, cwd=CHECKOUT, env=inherited_environment(), capture_output=True, text=True, check=False,
                         timeout=240)  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(out.read_text())
    assert report["machine"]["cores"] >= 1
    assert "aiokafka" in report["versions"]
    (found,) = report["rows"]
    assert set(found) >= _ROW_KEYS
    assert (found["id"], found["exact"], found["wrong"]) == ("P4", True, [])
    assert set(found["cpu_us_per_op"]) == _SIDES
    assert min(found[side] for side in _SIDES) > 0
    assert "P4" in run.stdout
