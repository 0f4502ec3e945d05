"""Every decision record has its five headings, and what it says enforces it exists."""

import re
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

HEADINGS = ["Context", "Decision", "Consequences", "Alternatives", "Enforced by"]
RECORDS = sorted((ROOT / "docs/decisions").glob("*.md"))


def test_records_are_numbered_without_a_gap() -> None:
    assert [path.name[:4] for path in RECORDS] == [f"{number:04}" for number in range(1, len(RECORDS) + 1)]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_has_five_headings_and_names_what_enforces_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert problems(text) == []
    for named in re.findall(r"`((?:tests|shared|services|deploy|docs)/[\w/.-]+)`", text):
        assert (ROOT / named).exists(), f"{named} does not exist"


def test_a_record_without_enforcement_is_seen() -> None:
    whole = "# 0009 · Title\n" + "".join(f"\n## {heading}\n\nSome words.\n" for heading in HEADINGS)
    assert problems(whole) == []
    assert problems(whole.replace("## Enforced by", "## Remarks")) == ["headings"]
    assert problems(whole.removesuffix("Some words.\n")) == ["Enforced by"]


def problems(text: str) -> list[str]:
    """The headings when they are not the five in order, else those under which nothing stands."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    if parts[1::2] != HEADINGS:
        return ["headings"]
    return [heading for heading, body in zip(parts[1::2], parts[2::2], strict=True) if not body.strip()]
