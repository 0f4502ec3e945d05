"""Each rule is fed a violation and must report it: a check that was never seen to fail is a wish."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture import guards, test_tidy, tidy
from tests.architecture.sources import ROOT, parse
from tests.architecture.violations import VIOLATIONS, Violation

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
BANNED: dict[str, dict[str, str]] = CONFIG["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
TIDY = {rule.__name__: rule for rule in (*tidy.RULES, *guards.RULES)}


def test_every_tidy_rule_has_a_violation() -> None:
    assert {violation.rule for violation in VIOLATIONS} == set(TIDY)


@pytest.mark.parametrize("violation", VIOLATIONS, ids=lambda violation: violation.rule)
def test_tidy_rule_bites(violation: Violation) -> None:
    rule = TIDY[violation.rule]
    assert [f.rule for f in rule(parse(violation.path, violation.broken))] == [violation.rule.replace("_", "-")]
    clean_path = violation.path.replace("utils", "payments")
    assert list(rule(parse(clean_path, violation.clean))) == []


def test_kernel_budget_counts_what_services_run() -> None:
    lines = '"""Not\ncounted."""\n\n# Nor this.\n' + "x = 1\n" * 10
    counted = [
        parse(f"shared/src/defray_kernel/{path}", lines)
        for path in ("a.py", "contracts/b.py", "testing/c.py", "d/e.py")
    ]
    assert tidy.kernel_lines(counted) == 20


@pytest.mark.parametrize(
    "line",
    [
        "see https://" + "pypi" + ".org/simple",
        "--" + "index-url https://example.com",
        "FROM ghcr" + ".io/x/y",
        "open('/" + "work/main/x')",
        "cd /" + "root/x",
    ],
)
def test_place_names_bite(line: str) -> None:
    assert test_tidy.named_places(line)


def test_ordinary_lines_name_no_places() -> None:
    assert test_tidy.named_places("FROM python:3.11-slim; cat var/work/x; ${HOME}/root/x") == []


# Ruff: every banned call, and the rule families that style.md leans on.

FAMILIES = {
    "RUF006": '"""M."""\nimport asyncio\nasyncio.create_task(f())\n',
    "BLE001": '"""M."""\ntry:\n    f()\nexcept Exception:\n    g()\n',
    "T201": '"""M."""\nprint(1)\n',
    "DTZ001": '"""M."""\nimport datetime\ndatetime.datetime(2025, 1, 1)\n',
    "D100": "x = 1\n",
    "S608": '"""M."""\nq = f"SELECT a FROM b WHERE c = {x}"\n',
    "ANN001": '"""M."""\ndef f(x) -> None: ...\n',
    "PLC0415": '"""M."""\ndef f() -> None:\n    import os.path\n',
    "SLF001": '"""M."""\ny = x._secret\n',
}


@pytest.fixture(scope="module")
def ruff_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """File name → codes and banned names that ruff reports, for one tree holding all violations."""
    tree = tmp_path_factory.mktemp("ruff")
    shutil.copy(ROOT / "pyproject.toml", tree)
    source = tree / "services/payment/src/defray_payment"
    kernel = tree / "shared/src/defray_kernel"
    for folder in (source, kernel):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    for name in BANNED:
        module, _, attribute = name.rpartition(".")
        root = name.split(".")[0]
        text = f'"""M."""\nimport {root}\n{name}()\n' if attribute and module else f'"""M."""\nimport {name}\n'
        if name == "unittest.mock":
            text = '"""M."""\nimport unittest.mock\n'
        (source / f"banned_{name.replace('.', '_')}.py").write_text(text, encoding="utf-8")
    for code, text in FAMILIES.items():
        (source / f"family_{code}.py").write_text(text, encoding="utf-8")
    clock = '"""M."""\nimport time\ntime.time()\n'
    (kernel / "clock.py").write_text(clock, encoding="utf-8")
    (kernel / "outbox.py").write_text(clock, encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json", "."]
    found = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    reports: dict[str, set[str]] = {}
    for row in json.loads(found.stdout):
        reports.setdefault(Path(row["filename"]).name, set()).update((row["code"], row["message"]))
    return reports


@pytest.mark.parametrize("name", BANNED)
def test_banned_call_bites(name: str, ruff_reports: dict[str, set[str]]) -> None:
    reported = ruff_reports[f"banned_{name.replace('.', '_')}.py"]
    assert "TID251" in reported
    assert any(f"`{name}`" in message and BANNED[name]["msg"] in message for message in reported)


@pytest.mark.parametrize("code", FAMILIES)
def test_lint_family_bites(code: str, ruff_reports: dict[str, set[str]]) -> None:
    assert code in ruff_reports[f"family_{code}.py"]


def test_only_the_clock_reads_the_time(ruff_reports: dict[str, set[str]]) -> None:
    assert "TID251" not in ruff_reports.get("clock.py", set())
    assert "TID251" in ruff_reports["outbox.py"]


# Import contracts: the whole configuration, on a skeleton of the six packages plus one file that breaks one contract.

SKELETON = {
    "defray_kernel": ("clock", "contracts", "money", "db"),
    "defray_order": ("domain", "store", "commands", "entrypoints", "wiring", "announce", "settings"),
    "defray_payment": ("domain", "store", "commands", "entrypoints", "wiring", "announce", "settings", "channels"),
    "defray_settlement": ("domain", "store", "commands", "entrypoints", "wiring"),
    "defray_notifier": ("domain", "delivery", "commands", "entrypoints", "wiring"),
    "defray_sandbox": ("simulators", "stack"),
}
CONTRACTS = {contract["id"]: contract["name"] for contract in CONFIG["importlinter"]["contracts"]}
BROKEN_IMPORTS = (
    ("independence", "defray_order/commands/x.py", "import defray_payment.domain"),
    ("kernel", "defray_kernel/db/x.py", "import defray_notifier.delivery"),
    ("kernel", "defray_kernel/db/x.py", "import defray_sandbox.stack"),
    ("layers", "defray_payment/store/x.py", "import defray_payment.commands"),
    ("layers", "defray_payment/store/x.py", "import defray_payment.announce"),
    ("layers", "defray_payment/domain/x.py", "import defray_payment.store"),
    ("layers", "defray_order/commands/x.py", "import defray_order.entrypoints"),
    ("layers", "defray_order/commands/x.py", "import defray_order.settings"),
    ("layers", "defray_order/entrypoints/x.py", "import defray_order.wiring"),
    ("layers", "defray_settlement/helpers/__init__.py", ""),
    ("pure", "defray_payment/domain/x.py", "import asyncpg"),
    ("pure", "defray_notifier/domain/x.py", "import defray_kernel.db"),
    ("pure", "defray_kernel/contracts/x.py", "import aiokafka"),
    ("pure", "defray_kernel/money/x.py", "import socket"),
    ("timeless", "defray_kernel/money/x.py", "import time"),
    ("timeless", "defray_payment/domain/x.py", "import defray_kernel.clock"),
    ("timeless", "defray_payment/domain/x.py", "import os"),
    ("services-sandbox", "defray_sandbox/stack/x.py", "import defray_order.wiring"),
    ("services-sandbox", "defray_order/wiring/x.py", "import defray_sandbox.stack"),
    ("simulators", "defray_sandbox/simulators/x.py", "import defray_kernel.money"),
)


def test_every_import_contract_has_a_violation() -> None:
    assert {contract for contract, _, _ in BROKEN_IMPORTS} == set(CONTRACTS)


def test_the_skeleton_keeps_every_contract(tmp_path: Path) -> None:
    assert set(lint_imports(tmp_path)) == set()


@pytest.mark.parametrize(("contract", "path", "line"), BROKEN_IMPORTS)
def test_import_contract_bites(contract: str, path: str, line: str, tmp_path: Path) -> None:
    assert CONTRACTS[contract] in lint_imports(tmp_path, path, line)


def test_import_contracts_hold() -> None:
    """On the checkout itself."""
    done = subprocess.run(
        ["lint-imports", "--no-cache"],
        executable=shutil.which("lint-imports", path=Path(sys.executable).parent),
        cwd=ROOT,
        env={"PYTHONPATH": ":".join(CONFIG["pytest"]["ini_options"]["pythonpath"])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def lint_imports(tree: Path, path: str = "defray_order/domain/x.py", line: str = "") -> list[str]:
    """Names of the contracts that are reported broken on the skeleton with one more file."""
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package, modules in SKELETON.items():
        for module in ("", *modules):
            folder = tree / package / module
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
    (tree / "defray_kernel/db/__init__.py").write_text("import asyncpg\n", encoding="utf-8")
    broken = tree / path
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text(f"{line}\n", encoding="utf-8")
    done = subprocess.run(
        ["lint-imports", "--no-cache"],
        executable=shutil.which("lint-imports", path=Path(sys.executable).parent),
        cwd=tree,
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return [row.removesuffix(" BROKEN") for row in done.stdout.splitlines() if row.endswith(" BROKEN")]
