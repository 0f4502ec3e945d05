"""What the processes of all simulated channels share: options of the command line, two ports, the end by a signal."""

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SIGNERS = 2
_PUBLIC_BODY_BYTES_MAX = 256 * 1024
_CONTROL_BODY_BYTES_MAX = 64 * 1024 * 1024
_SHUTDOWN_S = 2.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back to the merchant; `broken` cuts the connection half way."""

    status: int
    body: bytes
    headers: dict[str, str]
    broken: bool = False


def parser(program: str, description: str | None, *, refund_gap_s: float) -> argparse.ArgumentParser:
    """The options that every channel has; `refund_gap_s` is the channel's own pause between refunds of one order."""
    made = argparse.ArgumentParser(prog=f"python -m defray_sandbox.simulators.{program}", description=description)
    made.add_argument("--host", default="127.0.0.1", help="address to listen on; another one only inside a container")
    made.add_argument("--port", type=int, required=True, help="the channel's API")
    made.add_argument("--control-port", type=int, required=True, help="the levers")
    made.add_argument("--state-file", type=Path, required=True, help="the ledger; kept over restarts")
    made.add_argument("--keys-dir", type=Path, required=True, help=f"made by python -m …simulators.{program}.keys DIR")
    made.add_argument(
        "--retry-scale", type=float, default=1.0, help="1 = the channel's times, 0.001 = a second is 1 ms"
    )
    made.add_argument("--refund-gap-s", type=float, default=refund_gap_s,
                      help="business seconds between two refunds of one order (default: the channel's)")  # fmt: skip
    made.add_argument("--callbacks-in-flight", type=int, default=64)
    made.add_argument("--orders-max", type=int, default=1_000_000)
    made.add_argument("--plain-host", action="append", default=[], metavar="HOST",
                      help="a host besides loopback whose notify_url may be http and is delivered to")  # fmt: skip
    return made


def plain_hosts(options: argparse.Namespace) -> frozenset[str]:
    """The hosts that callbacks may be brought to without TLS."""
    return _LOOPBACK | set(options.plain_host)


def signers() -> ThreadPoolExecutor:
    """Threads that sign: the C code gives up the interpreter lock, so the event loop goes on meanwhile."""
    return ThreadPoolExecutor(_SIGNERS, thread_name_prefix="sign")


async def until_stopped(
    options: argparse.Namespace,
    *,
    public: Sequence[web.RouteDef],
    control: Sequence[web.RouteDef],
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]],
) -> None:
    """Serve both ports and run what goes on beside them until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for work in background:
            stack.callback(group.create_task(work()).cancel)
        await _listen(stack, options.host, options.port, public, _PUBLIC_BODY_BYTES_MAX)
        await _listen(stack, options.host, options.control_port, control, _CONTROL_BODY_BYTES_MAX)
        _logger.info("channel on %s:%d, control on %d", options.host, options.port, options.control_port)
        await stop.wait()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a channel's process, on uvloop where it is installed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def transmit(request: web.Request, reply: Reply) -> web.StreamResponse:
    """Send a reply, or the half of it and cut the connection."""
    if not reply.broken:
        return web.Response(status=reply.status, body=reply.body or None, headers=reply.headers)
    if not reply.body:
        _cut(request)
        return web.Response(status=reply.status)
    response = web.StreamResponse(status=reply.status, headers=reply.headers | {"Content-Length": str(len(reply.body))})
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    _cut(request)
    return response


async def _listen(stack: contextlib.AsyncExitStack, host: str, port: int, routes: Sequence[web.RouteDef],
                  body_bytes_max: int) -> None:  # fmt: skip
    app = web.Application(client_max_size=body_bytes_max)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
