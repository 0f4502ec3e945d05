"""The tidy rules and the guards hold on the whole checkout, but for a committed list that must match exactly."""

import re
import subprocess
import tomllib

from tests.architecture import guards, tidy
from tests.architecture.sources import ROOT, sources

# Spelled in parts: this file is a tracked file too.
_HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "maven" + ".org", "maven" + ".apache.org", "npmjs" + ".org")
_REGISTRIES = ("docker" + ".io", "ghcr" + ".io", "quay" + ".io", "gcr" + ".io")
_OPTIONS = ("--" + "index-url", "--" + "extra-index-url", "--" + "find-links", "index" + "-url =")
_MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(work|root|home/\w+)/")


def test_every_rule_holds_but_for_the_committed_exceptions() -> None:
    found = {str(finding) for source in sources() for rule in (*tidy.RULES, *guards.RULES) for finding in rule(source)}
    listed = (ROOT / "tests/architecture/exceptions.txt").read_text(encoding="utf-8").splitlines()
    allowed = {line for line in listed if line and not line.startswith("#")}
    assert sorted(found - allowed) == [], "new findings: mend them"
    assert sorted(allowed - found) == [], "these are mended: take them off the list"


def test_the_kernel_stays_within_its_budget() -> None:
    lines = tidy.kernel_lines(list(sources()))
    assert lines <= tidy.KERNEL_LINES_MAX, f"the kernel has {lines} lines"


def test_every_ignored_lint_rule_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("\nignore = [") :].split("\n]", 1)[0].splitlines()[2:]
    bare = [
        line
        for before, line in zip(["", *block], block, strict=False)
        if not line.strip().startswith("#") and not before.strip().startswith("#")
    ]
    assert block
    assert bare == []


def test_every_banned_call_names_its_replacement() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    banned = config["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert [name for name, entry in banned.items() if len(entry["msg"].split()) < 3] == []


def test_every_suppression_in_the_sources_says_why() -> None:
    pattern = re.compile(r"#\s*(noqa|type:\s*ignore|pragma)")
    bare = [
        f"{source.path}:{number}"
        for source in sources()
        if not source.is_test
        for number, line in enumerate(source.text.splitlines(), start=1)
        if (found := pattern.search(line)) and not _explained(line[found.start() :], source.text.splitlines(), number)
    ]
    assert bare == [], "say after the code, or in a comment on the line above, why the rule does not apply"


def test_no_registry_host_and_no_machine_path_in_any_tracked_file() -> None:
    found = [
        f"{path}:{number}: {word}"
        for path in _tracked()
        for number, line in enumerate(_text(path).splitlines(), start=1)
        for word in named_places(line)
    ]
    assert found == []


def named_places(line: str) -> list[str]:
    """Registry hosts, index options and machine paths that a line names."""
    words = [word for word in (*_HOSTS, *_REGISTRIES, *_OPTIONS) if word in line]
    return words + [found.group() for found in _MACHINE_PATH.finditer(line)]


def _explained(suppression: str, lines: list[str], number: int) -> bool:
    reason_after_code = re.search(r"(noqa:( ?[A-Z]+\d+,?)+|ignore\[[\w, -]+\])[\s#:—-]+\w+", suppression)
    return bool(reason_after_code) or lines[number - 2].strip().startswith("#")


def _tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in listing.stdout.split("\0") if path and (ROOT / path).is_file()]


def _text(path: str) -> str:
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
