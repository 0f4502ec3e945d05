"""The OpenAPI document of each service's public API, from the code and without starting anything."""

import importlib
import json


def document_text(service: str) -> str:
    """The committed form of what `defray_<service>.wiring.openapi()` returns."""
    wiring = importlib.import_module(f"defray_{service}.wiring")
    return json.dumps(wiring.openapi(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
