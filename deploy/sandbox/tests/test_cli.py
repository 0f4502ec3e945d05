"""The command `defray` as a user runs it: up until Ctrl-C, its levers meanwhile, and the demo."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from defray_sandbox.sandbox_clock import parse_duration_s
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.paths import private_folder, stack_paths
from defray_sandbox.stack.processes import descendants, start_ticks, wait_until

pytestmark = pytest.mark.alone

_UP_WITHIN_S = 90
_ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
_CHAPTERS = {
    "": ["merchants"],
    "a payment by WeChat Pay, told of fifty times at once": [
        "order", "payment", "payer", "payment", "order", "books", "webhooks",
    ],
    "a part of it goes back": ["refund", "order"],
    "a payment by Alipay whose answer is lost": ["order", "payment", "payment", "refund", "order"],
    "money that comes after the close": ["order", "order", "payer", "refund"],
    "an order by event, and the coupon that comes with its payment": ["benefit", "event", "order", "payer", "coupon"],
    "the coupon pays for a part of another order": ["order", "payer"],
    "half of the first order goes back, and with it the coupon's share": ["refund", "coupon", "webhooks"],
}  # fmt: skip
"""What the demo tells, line by line, of whom."""
_CHECKS = 6


def _defray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "defray_sandbox.cli", *arguments]


def _ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_defray(*arguments), env=_ENV, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def up_output() -> Iterator[Path]:
    folder = private_folder(stack_paths(), "cli")
    yield folder / "up.txt"
    with contextlib.suppress(FileNotFoundError):
        (folder / "up.txt").unlink()


@pytest.mark.full
def test_up_runs_until_ctrl_c_and_leaves_nothing_behind(up_output: Path) -> None:
    with up_output.open("w") as output, subprocess.Popen(_defray("up"), env=_ENV, stdout=output, stderr=output) as up:
        assert wait_until(lambda: "Ctrl-C stops everything" in up_output.read_text(), timeout_s=_UP_WITHIN_S)
        family = descendants(up.pid)
        assert len(family) >= 8
        ahead = int(_ask("clock", "show").stdout.split()[0])
        assert _ask("clock", "advance", "1h30m").stdout.split()[0] == str(ahead + 5400)
        assert _ask("clock", "advance", "backwards").returncode == 1
        assert (_ask("parked", "list").returncode, _ask("parked", "list").stdout) == (0, "")
        assert (_ask("cases", "list").returncode, _ask("cases", "list").stdout) == (0, "")
        for channel in ("wechat", "alipay"):
            assert json.loads(_ask("channel", "statistics", channel).stdout)["orders_paid"] >= 0
        refused = _ask("up")
        assert refused.returncode == 1
        assert "another sandbox uses" in refused.stderr
        merchants = json.loads((stack_paths().stack / "credentials" / "merchants.json").read_text())
        assert all(each["api_key"] not in up_output.read_text() for each in merchants)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    assert [pid for pid in family if start_ticks(pid) is not None] == []
    assert _ask("clock", "show").returncode == 1


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(up_output: Path, number: signal.Signals) -> None:
    with (
        up_output.open("w") as output,
        subprocess.Popen(_defray("demo"), env=_ENV, stdout=output, stderr=output) as demo,
    ):
        assert wait_until(lambda: "database migrated" in up_output.read_text(), timeout_s=_UP_WITHIN_S)
        family = descendants(demo.pid)
        demo.send_signal(number)
        assert demo.wait(60) == 128 + number
    assert len(family) >= 2
    assert [pid for pid in family if start_ticks(pid) is not None] == []


@pytest.mark.full
def test_the_demo_tells_its_chapters_and_all_of_it_holds() -> None:
    done = subprocess.run(_defray("demo"), env=_ENV, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, list[str]] = {"": []}
    whos = "|".join({who for lines in _CHAPTERS.values() for who in lines})
    for chapter, who in re.findall(rf"^ *[\d.]+ s  (?:· (.+)|({whos}) )", done.stdout, re.MULTILINE):
        if chapter:
            told[chapter] = []
        else:
            told[list(told)[-1]].append(who)
    assert told == _CHAPTERS
    assert (len(re.findall("holds: ", done.stdout)), "FAILS" in done.stdout) == (_CHECKS, False)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("90m", 5400), ("2h30m", 9000), ("1d", 86_400)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "-1d", "1w", "1.5h", "d", "1d ago"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(StackError, match="is not a duration"):
        parse_duration_s(text)
