"""Tells a person at a terminal what happens, each line with the seconds since the beginning."""

import time

import typer

from defray_sandbox.stack.errors import StackError


class Timeline:
    """Prints lines as they happen; `tell` suits everything that wants to report progress."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def tell(self, text: str) -> None:
        """Print `text` with the time; further lines of it are indented."""
        first, *rest = text.splitlines() or [""]
        typer.echo(f"{self.elapsed_s:6.2f} s  {first}")
        for line in rest:
            typer.echo(f"          {line}")

    def fail(self, error: StackError) -> None:
        """Print what is missing and how to get it."""
        typer.secho(f"stopped: {error.what}", err=True, fg="red")
        typer.secho(f"what to do: {error.remedy}", err=True)
