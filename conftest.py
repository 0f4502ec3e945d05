"""Gives every test a real PostgreSQL and a real Kafka, and keeps together what shares servers when tests run side by side."""

from pathlib import Path

import pytest

pytest_plugins = ("defray_sandbox.pytest_plugin",)

_TOGETHER = Path("tests/e2e")
"""One running stack serves all of these; everything else is shared within a file at most."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test's group for `--dist loadgroup`."""
    root = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(root)
        group = _TOGETHER if path.is_relative_to(_TOGETHER) else path
        item.add_marker(pytest.mark.xdist_group(str(group)))
