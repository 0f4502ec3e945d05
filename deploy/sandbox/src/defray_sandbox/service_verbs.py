"""Operators' verbs of the running sandbox's services, run as each service's own process would be."""

import subprocess
import sys
from collections.abc import Sequence

import typer

from defray_sandbox.stack.environment import Site
from defray_sandbox.stack.errors import StackError
from defray_sandbox.timeline import Timeline

_TIMEOUT_S = 60


def run_verb(site: Site, service: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run `python -m defray_<service> <arguments>`; returns its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", f"defray_{service}", *arguments],
        env=site.service_environment(service), capture_output=True, text=True, check=False, timeout=_TIMEOUT_S,
    )  # fmt: skip
    return done.returncode, (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip()


def run_and_echo(service: str, arguments: Sequence[str], *, prefix: str = "") -> int:
    """Run a verb and print what it said, each line behind `prefix`; returns its exit code, 1 when no sandbox runs."""
    from defray_sandbox.up import open_site

    try:
        code, said = run_verb(open_site(), service, arguments)
    except StackError as error:
        Timeline().fail(error)
        return 1
    for line in said.splitlines():
        typer.echo(prefix + line)
    return code
