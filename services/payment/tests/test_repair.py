"""A payment repairs itself while it is read: its channel is asked when that is due, however many look."""

import asyncio
import datetime as dt

from defray_sandbox.simulators.process import WechatSimulator

from .conftest import Service, number


async def queries(simulator: WechatSimulator) -> int:
    return int((await simulator.control("/control/statistics"))["requests"].get("query", 0))


async def test_a_reader_finds_the_truth_of_an_unknown_outcome(service: Service, simulator: WechatSimulator) -> None:
    await simulator.control("/control/faults", {"operation": "native", "action": "drop", "count": 1})
    begun = await service.pay(service.order())
    assert (begun.status, begun.body["status"]) == (202, "PENDING")
    await simulator.control("/control/callbacks", {"never": True})
    await simulator.control("/control/pay", {"out_trade_no": number(begun)})
    shown = await service.get(begun.body["payment_id"])
    assert shown.body["status"] == "SUCCEEDED"


async def test_a_reader_finds_money_whose_callback_never_came(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    await simulator.control("/control/callbacks", {"never": True})
    await simulator.control("/control/pay", {"out_trade_no": number(begun)})
    assert (await service.get(begun.body["payment_id"])).body["status"] == "PENDING"
    assert await queries(simulator) == 0  # not due yet
    service.clock.ahead = dt.timedelta(seconds=30)
    assert (await service.get(begun.body["payment_id"])).body["status"] == "SUCCEEDED"


async def test_however_many_look_the_channel_is_asked_once_in_a_few_seconds(
    service: Service, simulator: WechatSimulator
) -> None:
    begun = await service.pay(service.order())
    service.clock.ahead = dt.timedelta(seconds=30)
    answers = await asyncio.gather(*(service.get(begun.body["payment_id"]) for _ in range(30)))
    assert {answer.status for answer in answers} == {200}
    assert await queries(simulator) == 1
    service.clock.ahead += dt.timedelta(seconds=3)
    await service.get(begun.body["payment_id"])
    assert await queries(simulator) == 1
    service.clock.ahead += dt.timedelta(seconds=20)
    await service.get(begun.body["payment_id"])
    assert await queries(simulator) == 2


async def test_a_channel_that_is_away_hides_nothing(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    await simulator.control("/control/faults", {"operation": "query", "action": "500"})
    service.clock.ahead = dt.timedelta(seconds=30)
    shown = await service.get(begun.body["payment_id"])
    assert (shown.status, shown.body["status"]) == (200, "PENDING")
    assert await service.cases() == []


async def test_what_is_decided_is_not_asked_about(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    await service.close(begun.body["payment_id"])
    before = await queries(simulator)
    service.clock.ahead = dt.timedelta(hours=5)
    assert (await service.get(begun.body["payment_id"])).body["status"] == "CLOSED"
    assert await queries(simulator) == before
