"""Faults strike where they are planned, and the ledger tells what was really done."""

import asyncio

import aiohttp
import pytest

from defray_sandbox.simulators.process import SimulatorFailedError, WechatSimulator

from .conftest import Answer, Merchant

# What the merchant sees of a struck create: status and whether it verifies; None = the connection broke.
_SEEN: dict[str, tuple[int, bool] | None] = {
    "drop": None,
    "truncated": None,
    "500": (500, True),
    "502": (502, False),
    "429": (429, True),
    "refuse": (403, True),
    "garbage": (200, True),
    "unsigned": (200, False),
    "wrong_key": (200, False),
}


async def _seen(merchant: Merchant, number: str) -> tuple[int, bool] | None:
    try:
        answer = await merchant.create(number)
    except aiohttp.ClientError:
        return None
    except ValueError:
        return (200, True)  # Signed bytes that are no JSON.
    return (answer.status, answer.verified)


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
async def test_each_action_at_each_moment(moment: str, merchant: Merchant, simulator: WechatSimulator) -> None:
    for action, expected in _SEEN.items():
        number = f"FAULT-{action.upper()}"
        fault = {"action": action, "moment": moment, "operation": "native", "orders": number, "count": 1}
        await simulator.control("/control/faults", {**fault, "code": "OUT_TRADE_NO_USED"})
        assert await _seen(merchant, number) == expected, action
        query = await merchant.query(number)
        assert query.status == (404 if moment == "before_apply" else 200), action
        assert (await merchant.create(number)).status == 200
        order = await simulator.control(f"/control/orders/{number}")
        assert order["applied"] == {"created": 1}
        assert order["create_requests"] == (1 if moment == "before_apply" else 2)
    statistics = await simulator.control("/control/statistics")
    assert statistics["orders_created"] == len(_SEEN)
    assert statistics["created_more_than_once"] == 0


async def test_a_close_can_be_lost_on_both_sides(merchant: Merchant, simulator: WechatSimulator) -> None:
    for moment, state in (("before_apply", "NOTPAY"), ("after_apply", "CLOSED")):
        number = f"CLOSE-{state}"
        await merchant.create(number)
        await simulator.control(
            "/control/faults", {"action": "drop", "moment": moment, "operation": "close", "count": 1}
        )
        with pytest.raises(aiohttp.ClientError):
            await merchant.close(number)
        assert (await merchant.query(number)).body["trade_state"] == state


async def test_delays_and_retry_after(merchant: Merchant, simulator: WechatSimulator) -> None:
    await simulator.control("/control/faults", {"action": "delay", "delay_s": 0.4, "count": 1})
    started = asyncio.get_running_loop().time()
    assert (await merchant.create("SLOWLY")).status == 200
    assert asyncio.get_running_loop().time() - started >= 0.4
    await simulator.control("/control/faults", {"action": "429", "retry_after_s": 7, "count": 1})
    answer: Answer = await merchant.create("LIMITED")
    assert (answer.headers["Retry-After"], answer.body["code"]) == ("7", "FREQUENCY_LIMITED")


async def test_chance_repeats_with_its_seed(merchant: Merchant, simulator: WechatSimulator) -> None:
    runs = []
    for _ in range(2):
        await simulator.control("/control/reset", {})
        await simulator.control("/control/faults", {"action": "500", "probability": 0.5, "seed": 7})
        runs.append([(await merchant.create(f"CHANCE{number:02d}")).status for number in range(20)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 500}
    await simulator.control("/control/faults/clear", {})
    assert (await merchant.create("CHANCE99")).status == 200


async def test_faults_spare_other_orders_and_operations(merchant: Merchant, simulator: WechatSimulator) -> None:
    await simulator.control("/control/faults", {"action": "500", "operation": "query", "orders": "STRUCK*"})
    for number in ("STRUCK01", "SPARED01"):
        assert (await merchant.create(number)).status == 200
    assert (await merchant.query("STRUCK01")).status == 500
    assert (await merchant.query("SPARED01")).status == 200


async def test_levers_refuse_what_they_do_not_know(merchant: Merchant, simulator: WechatSimulator) -> None:
    for path, body, status in (
        ("/control/faults", {"action": "explode"}, 400),
        ("/control/faults", {"action": "500", "probability": 2}, 400),
        ("/control/pay", {}, 400),
        ("/control/pay", {"out_trade_no": "UNKNOWN"}, 404),
        ("/control/callbacks/send", {"out_trade_no": "UNPAID"}, 409),
        ("/control/callbacks", {"kinds": ["funny"]}, 400),
    ):
        await merchant.create("UNPAID")
        with pytest.raises(SimulatorFailedError, match=f": {status} "):
            await simulator.control(path, body)
