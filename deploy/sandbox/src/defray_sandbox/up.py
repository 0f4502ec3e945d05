"""`defray up`: a sandbox that keeps its data and runs until Ctrl-C, and the door for commands that use a running one."""

import asyncio
import json
import signal

from defray_kernel.clock import read_offset_s
from defray_sandbox import sandbox_clock
from defray_sandbox.doors import Doors
from defray_sandbox.seed import seed_merchants
from defray_sandbox.stack import aot
from defray_sandbox.stack.environment import Site
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.local import LocalStack, Options, local_stack, read_site
from defray_sandbox.stack.paths import stack_paths
from defray_sandbox.timeline import Timeline


async def run(timeline: Timeline, *, postgres: str | None, kafka: str | None) -> int:
    """Bring the sandbox up and wait for SIGINT or SIGTERM; returns the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    paths = stack_paths()
    options = Options(folder=paths.stack, logs=paths.log, postgres=postgres, kafka=kafka)
    is_up = asyncio.Event()
    starting = asyncio.ensure_future(_serve(options, timeline, is_up, stop))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done() and not is_up.is_set():
        starting.cancel()
    try:
        await starting
    except asyncio.CancelledError:
        timeline.tell("stopped before it was up")
    finally:
        stopping.cancel()
    return 0


async def _serve(options: Options, timeline: Timeline, is_up: asyncio.Event, stop: asyncio.Event) -> None:
    async with local_stack(options, timeline.tell) as stack:
        if offset_s := read_offset_s(stack.clock_file):
            await sandbox_clock.tell_channel(stack.addresses, offset_s)
        async with Doors() as doors:
            await seed_merchants(stack.site, doors)
        timeline.tell("\n".join(addresses_text(stack)))
        is_up.set()
        aot.ensure_in_background()
        await stop.wait()
        timeline.tell("stopping")
    timeline.tell("stopped")


def addresses_text(stack: LocalStack) -> list[str]:
    """What a developer needs to know of a running sandbox, a line each."""
    lines = ["ready; Ctrl-C stops everything"]
    for name, ports in stack.addresses.services.items():
        lines.append(f"{name:<11} {ports.public_url}   internal {ports.internal_url}")
    for name, ports in stack.addresses.channels.items():
        lines.append(f"{name:<11} {ports.public_url}   control  {ports.internal_url}")
    lines.append(f"{'shop':<11} {stack.addresses.shop.public_url}   control  {stack.addresses.shop.internal_url}")
    lines.append(f"{'kafka':<11} {stack.addresses.kafka}")
    lines.append(f"{'logs':<11} {stack.supervisor.log_file('order').parent}")
    lines.append(f"{'secrets':<11} {stack.credentials.folder} (API keys: {stack.credentials.merchants.name})")
    return lines


def open_site() -> Site:
    """Return what is known of this checkout's running `defray up`; raises `StackError` when none runs."""
    folder = stack_paths().stack
    try:
        return read_site(folder)
    except (FileNotFoundError, json.JSONDecodeError) as error:
        message = "no sandbox of this checkout is running"
        raise StackError(message, "start one: make up") from error
