"""Writes every document that is made from the contracts: `python -m tests.contracts.generate`, or `--check` to compare.

A schema that is no longer compatible with the committed one is never overwritten: a released event does not change, so
make a `v2` beside it. (A type that was never released: delete its schema file first.)
"""

import json
import sys
from pathlib import Path

from tests.architecture.sources import ROOT
from tests.contracts import asyncapi, catalogue, openapi, schemas

SCHEMAS = ROOT / "shared/src/defray_kernel/contracts/schemas"


def documents() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    made = {SCHEMAS / f"{type_name}.json": schemas.schema_text(type_name) for type_name in schemas.CLASSES}
    for service in asyncapi.SERVICES:
        made[ROOT / "services" / service / "asyncapi.yaml"] = asyncapi.document_text(service)
        made |= openapi.documents(service)
    made[ROOT / "docs/events.md"] = catalogue.document_text()
    return made


def drifted(made: dict[Path, str]) -> list[str]:
    """Committed documents that differ from what the code says now, and schemas of events that are gone."""
    found = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    found += [path for path in SCHEMAS.glob("*.json") if path not in made]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def incompatible(made: dict[Path, str]) -> dict[str, list[str]]:
    """Committed schemas that the new ones break, with what is broken; a schema whose event is gone is broken too."""
    result: dict[str, list[str]] = {}
    for path in sorted(SCHEMAS.glob("*.json")):
        if path not in made:
            result[path.name] = ["the event was removed"]
        elif found := schemas.breaches(json.loads(path.read_text(encoding="utf-8")), json.loads(made[path])):
            result[path.name] = found
    return result


def main(arguments: list[str]) -> int:
    """Write or check; returns 1 when a document is out of date or a schema incompatible."""
    made = documents()
    if broken := incompatible(made):
        for name, found in broken.items():
            print(f"{name}: a released event never changes: {'; '.join(found)}", file=sys.stderr)
        return 1
    stale = drifted(made)
    if arguments == ["--check"]:
        print("\n".join(["out of date, run `make contracts`:", *stale]) if stale else "contracts are up to date")
        return 1 if stale else 0
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(stale)} of {len(made)} documents changed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
