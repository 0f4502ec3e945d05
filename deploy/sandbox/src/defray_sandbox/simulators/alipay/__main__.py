"""The simulator's process: `python -m defray_sandbox.simulators.alipay --help`."""

import argparse
import asyncio
from contextlib import ExitStack

from defray_sandbox.simulators.alipay.api import GatewayApi
from defray_sandbox.simulators.alipay.channel import GAP_S, Channel
from defray_sandbox.simulators.alipay.control import ControlApi
from defray_sandbox.simulators.alipay.keys import load
from defray_sandbox.simulators.alipay.ledger import Ledger
from defray_sandbox.simulators.alipay.messages import AlipayMessages, SigningKeys
from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import Courier
from defray_sandbox.simulators.faults import FaultPlan
from defray_sandbox.simulators.server import parser, plain_hosts, run, signers, until_stopped

_TIME_LOOKED_AT_S = 0.1


def read_settings(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with a message when it is wrong."""
    options = parser("alipay", __doc__, refund_gap_s=GAP_S)
    options.add_argument("--app-id", default="2021000000000001")
    options.add_argument("--seller-id", default="2088000000000001")
    return options.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    signing, clock, plan = SigningKeys(load(options.keys_dir)), ChannelClock(), FaultPlan()
    with ExitStack() as stack:
        pool = stack.enter_context(signers())
        ledger = Ledger(options.state_file)
        stack.callback(ledger.close)
        messages = AlipayMessages(signing=signing, ledger=ledger, clock=clock, signers=pool)
        courier = Courier(messages, plan, scale=options.retry_scale, in_flight_max=options.callbacks_in_flight,
                          plain_hosts=plain_hosts(options))  # fmt: skip
        channel = Channel(
            ledger=ledger, clock=clock, courier=courier, plan=plan, app_id=options.app_id, seller_id=options.seller_id,
            orders_max=options.orders_max, gap_s=options.refund_gap_s,
        )  # fmt: skip
        api = GatewayApi(channel=channel, signing=signing, signers=pool, app_id=options.app_id,
                         seller_id=options.seller_id)  # fmt: skip
        control = ControlApi(channel=channel, api=api, messages=messages, signing=signing)

        async def time_passes() -> None:
            while True:
                await channel.come_due()
                await asyncio.sleep(_TIME_LOOKED_AT_S)

        await until_stopped(
            options, public=api.routes(), control=control.routes(), background=(courier.run, time_passes)
        )


if __name__ == "__main__":
    run(serve(read_settings()))
