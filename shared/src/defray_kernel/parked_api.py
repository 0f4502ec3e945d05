"""What operators may do with parked events, on the command line and on the internal port."""

import argparse
from typing import Any

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.http import Edge


def add_verbs(verbs: Any) -> None:  # noqa: ANN401 - argparse's own type has no public name
    """Declare the verbs of the command line."""


def add_routes(edge: Edge, database: Database, clock: Clock) -> None:
    """Declare the routes of the internal port."""


async def run_verb(database: Database, arguments: argparse.Namespace) -> int:
    """Run one verb; returns the exit code."""
    raise NotImplementedError
