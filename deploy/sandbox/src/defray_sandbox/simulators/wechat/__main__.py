"""The simulator's process: `python -m defray_sandbox.simulators.wechat --help`."""

import argparse
import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from defray_sandbox.simulators.wechat.api import ChannelApi
from defray_sandbox.simulators.wechat.channel import Channel
from defray_sandbox.simulators.wechat.clock import ChannelClock
from defray_sandbox.simulators.wechat.control import ControlApi
from defray_sandbox.simulators.wechat.courier import Courier
from defray_sandbox.simulators.wechat.faults import FaultPlan
from defray_sandbox.simulators.wechat.keys import load
from defray_sandbox.simulators.wechat.ledger import Ledger
from defray_sandbox.simulators.wechat.signing import SigningBench

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_SIGNERS = 2
_PUBLIC_BODY_BYTES_MAX = 256 * 1024
_CONTROL_BODY_BYTES_MAX = 64 * 1024 * 1024
_SHUTDOWN_S = 2.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says."""

    host: str
    port: int
    control_port: int
    state_file: Path
    keys_dir: Path
    mchid: str
    appid: str
    auto_pay: bool
    retry_scale: float
    callbacks_in_flight: int
    orders_max: int
    plain_hosts: frozenset[str]


def read_settings(arguments: list[str] | None = None) -> Settings:
    """Parse the command line; exits with a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m defray_sandbox.simulators.wechat", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another one only inside a container")
    parser.add_argument("--port", type=int, required=True, help="the channel's API")
    parser.add_argument("--control-port", type=int, required=True, help="the levers")
    parser.add_argument("--state-file", type=Path, required=True, help="the ledger; kept over restarts")
    parser.add_argument("--keys-dir", type=Path, required=True, help="made by python -m …simulators.wechat.keys DIR")
    parser.add_argument("--mchid", default="1900000109")
    parser.add_argument("--appid", default="wx8888888888888888")
    parser.add_argument("--auto-pay", action="store_true", help="every order is paid as soon as it is created")
    parser.add_argument(
        "--retry-scale", type=float, default=1.0, help="1 = the channel's times, 0.001 = a second is 1 ms"
    )
    parser.add_argument("--callbacks-in-flight", type=int, default=64)
    parser.add_argument("--orders-max", type=int, default=1_000_000)
    parser.add_argument("--plain-host", action="append", default=[], metavar="HOST",
                        help="a host besides loopback whose notify_url may be http and is delivered to")  # fmt: skip
    options = vars(parser.parse_args(arguments))
    options["plain_hosts"] = _LOOPBACK | set(options.pop("plain_host"))
    return Settings(**options)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    keys, clock, plan = load(settings.keys_dir), ChannelClock(), FaultPlan()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        signers = stack.enter_context(ThreadPoolExecutor(_SIGNERS, thread_name_prefix="sign"))
        ledger = Ledger(settings.state_file)
        stack.callback(ledger.close)
        courier = Courier(
            keys=keys, ledger=ledger, clock=clock, signers=signers, scale=settings.retry_scale,
            in_flight_max=settings.callbacks_in_flight, plain_hosts=settings.plain_hosts,
        )  # fmt: skip
        channel = Channel(ledger=ledger, clock=clock, courier=courier, plan=plan, orders_max=settings.orders_max,
                          auto_pay=settings.auto_pay)  # fmt: skip
        api = ChannelApi(channel=channel, keys=keys, bench=SigningBench(signers), appid=settings.appid,
                         mchid=settings.mchid, plain_hosts=settings.plain_hosts)  # fmt: skip
        control = ControlApi(channel=channel, api=api, keys=keys, signers=signers, appid=settings.appid,
                             mchid=settings.mchid)  # fmt: skip
        group = await stack.enter_async_context(asyncio.TaskGroup())
        sending = group.create_task(courier.run())
        stack.callback(sending.cancel)
        await _listen(stack, settings.host, settings.port, api.routes(), _PUBLIC_BODY_BYTES_MAX)
        await _listen(stack, settings.host, settings.control_port, control.routes(), _CONTROL_BODY_BYTES_MAX)
        _logger.info("channel on %s:%d, control on %d", settings.host, settings.port, settings.control_port)
        await stop.wait()


async def _listen(stack: AsyncExitStack, host: str, port: int, routes: list[web.RouteDef], body_bytes_max: int) -> None:
    app = web.Application(client_max_size=body_bytes_max)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()


def main() -> None:
    """Entry point of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = read_settings()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
