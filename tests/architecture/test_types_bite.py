"""Permission and completeness are types: mypy, as configured, is fed violations and must report each at its line."""

import os
import re
import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT

# The marked line, and no other of its file, must be reported, with the code it names.
SNIPPETS = {
    "a_read_connection_cannot_announce": """
from collections.abc import Sequence
from defray_kernel import outbox
from defray_kernel.db import ReadConn, WriteTx
async def announce(conn: ReadConn, tx: WriteTx, events: Sequence[outbox.OutboxEvent]) -> None:
    await outbox.append(tx, events)
    await outbox.append(conn, events)  # MUST arg-type
""",
    "a_missing_match_arm": """
import enum
class Answer(enum.StrEnum):
    MOVED = "moved"
    REPEATED = "repeated"
    REFUSED = "refused"
def told(answer: Answer) -> int:
    result = 0
    match answer:  # MUST exhaustive-match
        case Answer.MOVED:
            result = 1
        case Answer.REPEATED:
            result = 2
    return result
""",
    "a_missing_arm_before_assert_never": """
import enum
from typing import assert_never
class Answer(enum.StrEnum):
    MOVED = "moved"
    REFUSED = "refused"
def told(answer: Answer) -> int:
    match answer:
        case Answer.MOVED:
            return 1
        case _:
            assert_never(answer)  # MUST arg-type
""",
    "an_amount_is_not_a_number": """
from defray_kernel.money import Money
def total(price: Money) -> None:
    price + price
    price + 100  # MUST operator
""",
    "one_id_is_not_another": """
from defray_kernel.ids import OrderId, PaymentId
def close(order: OrderId) -> None: ...
def run(order: OrderId, payment: PaymentId) -> None:
    close(order)
    close(payment)  # MUST arg-type
""",
    "a_forgotten_await": """
import asyncio
async def run() -> None:
    asyncio.sleep(1)  # MUST unused-coroutine
""",
    "a_suppression_without_a_code": """
x: int = "one"  # type: ignore
# MUST-ABOVE ignore-without-code
""",
    "a_value_does_not_change": """
from defray_kernel.money import Money
def tamper(price: Money) -> None:
    price.minor = 0  # MUST misc
""",
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[int, str]]]:
    """Snippet → (line, code) of every error, from one run over all snippets."""
    folder = tmp_path_factory.mktemp("types")
    for name, text in SNIPPETS.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "--no-error-summary",
            str(folder),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache/bite")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    errors: dict[str, set[tuple[int, str]]] = {}
    for file, line, code in re.findall(r"([^\n/]+)\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE):
        errors.setdefault(file, set()).add((int(line), code))
    return errors


@pytest.mark.parametrize("name", SNIPPETS)
def test_type_rule_bites(name: str, reported: dict[str, set[tuple[int, str]]]) -> None:
    expected = {
        (number - int("MUST-ABOVE" in line), line.split()[-1])
        for number, line in enumerate(SNIPPETS[name].splitlines(), start=1)
        if "MUST" in line
    }
    assert reported.get(name, set()) == expected
