"""Each service is killed while orders are being paid: nothing is lost, nothing is done twice, nothing stays behind."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from defray_kernel.ids import uuid7
from tests.e2e.world import Receiver, World

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.alone]

_WORKERS = 4
# Those whose leases take longest to run out come first.
_SERVICES = ("notifier", "payment", "order", "settlement")


async def test_a_kill_of_each_service_loses_nothing_and_doubles_nothing(
    world: World, receiver: tuple[Receiver, str]
) -> None:
    done: list[dict[str, Any]] = []
    over = asyncio.Event()
    async with asyncio.TaskGroup() as workers:
        for _ in range(_WORKERS):
            workers.create_task(_shop(world, done, over))
        for service in _SERVICES:
            await asyncio.sleep(0.3)
            world.stack.supervisor.kill(service)
            await asyncio.sleep(0.2)
            await world.stack.supervisor.wait_ready(service)
        over.set()
    assert len(done) >= len(_SERVICES) * _WORKERS
    for payment in done:
        await world.order_reaches(payment["order_id"], "PAID", within_s=30)
        (entry,) = await world.entries(payment["payment_id"])
        assert entry["gross_minor"] == 9_800
        made = await world.channel(f"/control/orders/{payment['attempt_no']}")
        assert made["state"] == "SUCCESS"
    await world.comes_to_rest(within_s=60)
    told = Counter((kind, order) for kind, order, _ in receiver[0].messages())
    orders = {payment["order_id"] for payment in done}
    for kind in ("order.placed.v1", "order.paid.v1", "payment.succeeded.v1"):
        assert {order: told[kind, order] for order in orders} == dict.fromkeys(orders, 1), kind
    assert [world.stack.supervisor.restarts(service) >= 1 for service in _SERVICES] == [True] * len(_SERVICES)


async def _shop(world: World, done: list[dict[str, Any]], over: asyncio.Event) -> None:
    """Sell until it is over; each request is repeated with its own key until it is answered for good."""
    while not over.is_set():
        number, key, pay_key = uuid7().hex, uuid7().hex, uuid7().hex
        placed = await world.patiently(lambda number=number, key=key: world.place(merchant_order_no=number, key=key))
        assert placed.status == 201, placed
        token = placed.body["payment_token"]
        paying = await world.patiently(lambda token=token, pay_key=pay_key: world.pay(token, key=pay_key), within_s=90)
        assert paying.status in {201, 202}, paying
        await world.channel("/control/pay", {"out_trade_no": paying.body["attempt_no"]})
        done.append(paying.body)
