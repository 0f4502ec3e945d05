"""`defray cases`: what waits for a person in the running sandbox's payment service, worked on by its own verb."""

import getpass
from typing import Annotated

import typer

from defray_sandbox.service_verbs import run_and_echo

cases_app = typer.Typer(help="What waits for a person: money and claims that no rule decides.", no_args_is_help=True)

CaseId = Annotated[str, typer.Argument(help="As `list` names it.")]
Filter = Annotated[str | None, typer.Option()]


@cases_app.command("list")
def cases_list(state: Filter = None, reason: Filter = None, owner: Filter = None, order_id: Filter = None) -> None:
    """List cases, one JSON line each; without a state, those that are not resolved."""
    given = {"state": state, "reason": reason, "owner": owner, "order-id": order_id}
    filters = [f"--{name}={value}" for name, value in given.items() if value is not None]
    raise typer.Exit(run_and_echo("payment", ["cases", "list", *filters]))


@cases_app.command("show")
def cases_show(case_id: CaseId) -> None:
    """Show a case with its notes."""
    raise typer.Exit(run_and_echo("payment", ["cases", "show", case_id]))


@cases_app.command("claim")
def cases_claim(
    case_id: CaseId,
    take_over: Annotated[bool, typer.Option("--take-over", help="Take it from whoever has it.")] = False,  # noqa: FBT002 - typer's form of a flag
) -> None:
    """Work on a case; everybody sees who does."""
    flags = ["--take-over"] if take_over else []
    raise typer.Exit(run_and_echo("payment", ["cases", "claim", case_id, "--actor", getpass.getuser(), *flags]))


@cases_app.command("note")
def cases_note(case_id: CaseId, text: str) -> None:
    """Write a note to a case."""
    raise typer.Exit(run_and_echo("payment", ["cases", "note", case_id, text, "--actor", getpass.getuser()]))


@cases_app.command("resolve")
def cases_resolve(case_id: CaseId, resolution: str) -> None:
    """Say what was done, and close the case."""
    raise typer.Exit(run_and_echo("payment", ["cases", "resolve", case_id, resolution, "--actor", getpass.getuser()]))
