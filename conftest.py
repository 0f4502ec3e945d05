"""Gives every test a real PostgreSQL and a real Kafka, and keeps together what shares servers when tests run side by side."""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("defray_sandbox.pytest_plugin",)

_ONE_STACK = "tests/e2e/"
"""One running stack serves all of these; everything else is shared within a file at most."""


class _ByServers(LoadScopeScheduling):  # type: ignore[misc]  # untyped
    """Hands whole files to a worker, and all end-to-end tests to one."""

    def _split_scope(self, nodeid: str) -> str:
        return _ONE_STACK if nodeid.startswith(_ONE_STACK) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:  # noqa: ANN401 - xdist's own
    """Schedule tests that run side by side (`-n 2`)."""
    return _ByServers(config, log)
