"""The command `defray`: brings the local stack up, demonstrates it, and pulls its levers."""

import asyncio
import getpass
import shutil
import signal
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any

import typer

from defray_sandbox.case_levers import cases_app
from defray_sandbox.channel_levers import channel_app
from defray_sandbox.event_levers import events_app
from defray_sandbox.service_verbs import run_and_echo
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.paths import in_use, stack_paths
from defray_sandbox.timeline import Timeline

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
clock_app = typer.Typer(help="Business time: expiry, due dates, retries and cut-offs follow it.", no_args_is_help=True)
app.add_typer(clock_app, name="clock")
parked_app = typer.Typer(help="Keys whose events wait behind one that failed.", no_args_is_help=True)
app.add_typer(parked_app, name="parked")
app.add_typer(cases_app, name="cases")
app.add_typer(channel_app, name="channel")
app.add_typer(events_app, name="events")

Postgres = Annotated[str | None, typer.Option(help="A PostgreSQL of your own: a DSN that may create roles.")]
Service = Annotated[str, typer.Argument(help="order, payment, settlement or notifier")]
Consumer = Annotated[str, typer.Argument(help="As `list` names it.")]
Key = Annotated[str, typer.Argument(help="As `list` names it.")]
Kafka = Annotated[str | None, typer.Option(help="A Kafka of your own: host:port, plaintext.")]


@app.command()
def up(postgres: Postgres = None, kafka: Kafka = None) -> None:
    """Bring everything up, print the addresses and keep it running until Ctrl-C; its data is kept for the next time."""
    from defray_sandbox.up import run

    timeline = Timeline()
    raise typer.Exit(_run(run(timeline, postgres=postgres, kafka=kafka), timeline))


@app.command()
def demo(postgres: Postgres = None, kafka: Kafka = None) -> None:
    """Take orders through payment, coupons and refunds to the books and the webhooks, check all of it, and stop."""
    from defray_sandbox.demo import run

    timeline = Timeline()
    raise typer.Exit(_run(run(timeline, postgres=postgres, kafka=kafka), timeline))


@clock_app.command("show")
def clock_show() -> None:
    """Say how far ahead of real time the business time of the running sandbox is."""
    from defray_kernel.clock import read_offset_s
    from defray_sandbox.up import open_site

    timeline = Timeline()
    try:
        site = open_site()
        typer.echo(f"{read_offset_s(site.clock_file)} s ahead")
    except StackError as error:
        timeline.fail(error)
        raise typer.Exit(1) from error


@clock_app.command("advance")
def clock_advance(duration: Annotated[str, typer.Argument(help="45s, 90m, 2h30m, 1d …")]) -> None:
    """Move the business time of the running sandbox forward; it never goes back."""
    from defray_sandbox import sandbox_clock
    from defray_sandbox.up import open_site

    async def move() -> int:
        site = open_site()
        by_s = sandbox_clock.parse_duration_s(duration)
        offset_s = await sandbox_clock.advance(site.clock_file, site.addresses, by_s)
        typer.echo(f"{offset_s} s ahead")
        return 0

    raise typer.Exit(_run(move(), Timeline()))


@parked_app.command("list")
def parked_list() -> None:
    """List the parked keys of every service, one JSON line each."""
    from defray_sandbox.stack.provision import SERVICES

    for service in SERVICES:
        if code := _parked(service, ["list"], prefix=f"{service:<11}"):
            raise typer.Exit(code)


@parked_app.command("retry")
def parked_retry(service: Service, consumer: Consumer, key: Key) -> None:
    """Try the events of a parked key again now."""
    raise typer.Exit(_parked(service, ["retry", consumer, key, "--actor", getpass.getuser()]))


@parked_app.command("skip")
def parked_skip(
    service: Service, consumer: Consumer, key: Key, reason: Annotated[str, typer.Option(help="Kept in the audit log.")]
) -> None:
    """Give up the first event of a parked key."""
    arguments = ["skip", consumer, key, "--actor", getpass.getuser(), "--reason", reason]
    raise typer.Exit(_parked(service, arguments))


@app.command()
def clean() -> None:
    """Remove all data of this checkout's sandbox; refused while one runs."""
    paths = stack_paths()
    if used := in_use(paths):
        Timeline().fail(StackError(f"something runs in {used[0]}", "stop it first (Ctrl-C where it runs)"))
        raise typer.Exit(1)
    shutil.rmtree(paths.base)


def _parked(service: str, arguments: Sequence[str], *, prefix: str = "") -> int:
    return run_and_echo(service, ["parked", *arguments], prefix=prefix)


def _run(work: Coroutine[Any, Any, int], timeline: Timeline) -> int:
    received: list[int] = []
    try:
        return asyncio.run(_interruptible(work, received))
    except StackError as error:
        timeline.fail(error)
        return 1
    except asyncio.CancelledError:
        return 128 + received[0]


async def _interruptible(work: Coroutine[Any, Any, int], received: list[int]) -> int:
    """Ctrl-C and SIGTERM end `work` alike: everything that was started is stopped in order.

    Both are asked for by name: a shell starts what runs in its background with SIGINT ignored.
    """
    task = asyncio.current_task()
    assert task is not None

    def end(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    return await work


if __name__ == "__main__":
    app()
