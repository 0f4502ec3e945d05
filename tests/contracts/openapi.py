"""The OpenAPI documents of each service's two ports, from the code and without starting anything."""

import importlib
import json
from pathlib import Path

from tests.architecture.sources import ROOT


def documents(service: str) -> dict[Path, str]:
    """The committed form of the public port's document and of the operators' one."""
    wiring = importlib.import_module(f"defray_{service}.wiring")
    folder = ROOT / "services" / service
    made = {"openapi.json": wiring.openapi(), "openapi.internal.json": wiring.internal_openapi()}
    return {
        folder / name: json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        for name, document in made.items()
    }
