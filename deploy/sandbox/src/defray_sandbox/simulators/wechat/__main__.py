"""The simulator's process: `python -m defray_sandbox.simulators.wechat --help`."""

import argparse
import asyncio
from contextlib import ExitStack

from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import Courier
from defray_sandbox.simulators.faults import FaultPlan
from defray_sandbox.simulators.server import parser, plain_hosts, run, signers, until_stopped
from defray_sandbox.simulators.wechat.api import ChannelApi
from defray_sandbox.simulators.wechat.channel import Channel
from defray_sandbox.simulators.wechat.control import ControlApi
from defray_sandbox.simulators.wechat.keys import load
from defray_sandbox.simulators.wechat.ledger import Ledger
from defray_sandbox.simulators.wechat.messages import SigningKeys, WechatMessages
from defray_sandbox.simulators.wechat.refunds import GAP_S, Refunds
from defray_sandbox.simulators.wechat.signing import SigningBench

_REFUNDS_LOOKED_AT_S = 0.1


def read_settings(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message when it is wrong."""
    options = parser("wechat", __doc__, refund_gap_s=GAP_S)
    options.add_argument("--mchid", default="1900000109")
    options.add_argument("--appid", default="wx8888888888888888")
    options.add_argument("--auto-pay", action="store_true", help="every order is paid as soon as it is created")
    return options.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    signing, clock, plan, hosts = SigningKeys(load(options.keys_dir)), ChannelClock(), FaultPlan(), plain_hosts(options)
    with ExitStack() as stack:
        pool = stack.enter_context(signers())
        ledger = Ledger(options.state_file)
        stack.callback(ledger.close)
        messages = WechatMessages(signing=signing, ledger=ledger, clock=clock, signers=pool)
        courier = Courier(
            messages, plan, scale=options.retry_scale, in_flight_max=options.callbacks_in_flight, plain_hosts=hosts
        )
        channel = Channel(
            ledger=ledger, clock=clock, courier=courier, plan=plan,
            refunds=Refunds(ledger=ledger, clock=clock, plan=plan, gap_s=options.refund_gap_s),
            orders_max=options.orders_max, auto_pay=options.auto_pay,
        )  # fmt: skip
        api = ChannelApi(channel=channel, signing=signing, bench=SigningBench(pool), appid=options.appid,
                         mchid=options.mchid, plain_hosts=hosts)  # fmt: skip
        control = ControlApi(channel=channel, api=api, messages=messages, signing=signing,
                             signers=pool, appid=options.appid, mchid=options.mchid)  # fmt: skip

        async def settle_refunds() -> None:
            while True:
                await channel.settle_due_refunds()
                await asyncio.sleep(_REFUNDS_LOOKED_AT_S)

        await until_stopped(
            options, public=api.routes(), control=control.routes(), background=(courier.run, settle_refunds)
        )


if __name__ == "__main__":
    run(serve(read_settings()))
