"""Callbacks come when, how often and in the shape that is planned; none is lost by a restart."""

import asyncio
import json
from collections.abc import Callable

import aiohttp
import pytest

from defray_sandbox.simulators.process import WechatSimulator
from defray_sandbox.simulators.wechat.courier import SCHEDULE_S
from tests.judges.run import ask

from .conftest import Merchant, Shop


async def _pay(simulator: WechatSimulator, merchant: Merchant, shop: Shop, number: str, **more: object) -> list[int]:
    assert (await merchant.create(number, shop.url)).status == 200
    paid = await simulator.control("/control/pay", {"out_trade_no": number, "wait": True, **more})
    return [callback["status"] for callback in paid["callbacks"]]


def _events(simulator: WechatSimulator, shop: Shop) -> list[dict[str, object]]:
    question = {"keys_dir": str(simulator.keys_dir), "callbacks": shop.as_question()}
    return [verdict["event"] for verdict in ask("wechat", "verify-callback", question)]


async def _notified(simulator: WechatSimulator, number: str) -> None:
    """Wait until the channel has taken note of the shop's success answer: the shop has sent it a moment earlier."""
    async with asyncio.timeout(10):
        while not (await simulator.control(f"/control/orders/{number}"))["notified"]:
            await asyncio.sleep(0.02)


def test_the_schedule_is_the_channels() -> None:
    assert len(SCHEDULE_S) == 15
    assert sum(SCHEDULE_S) == 24 * 3600 + 4 * 60


async def test_a_refused_callback_is_repeated_until_it_is_taken(
    simulator: WechatSimulator, merchant: Merchant, shop: Shop
) -> None:
    shop.answers = [500, 404, 302]
    assert await _pay(simulator, merchant, shop, "REPEAT") == [500]
    await shop.wait_for(4)
    await _notified(simulator, "REPEAT")
    assert {json.loads(body)["id"] for _, body in shop.taken} == {json.loads(shop.taken[0][1])["id"]}
    assert len({headers["Wechatpay-Nonce"] for headers, _ in shop.taken}) == 4
    assert all(event is not None for event in _events(simulator, shop))
    statistics = await simulator.control("/control/statistics")
    assert statistics["callbacks"] == {"callbacks_sent": 4, "callbacks_taken": 1, "callbacks_refused": 3}
    assert statistics["callbacks_waiting"] == 0


async def test_fifty_duplicates_at_once_are_truly_at_once(
    simulator: WechatSimulator, merchant: Merchant, shop: Shop
) -> None:
    shop.pause_s = 0.3
    assert await _pay(simulator, merchant, shop, "FIFTY1", callbacks=50, concurrent=True) == [204] * 50
    assert shop.at_once_max == 50
    assert len({body for _, body in shop.taken}) == 1


async def test_plans_for_callbacks(simulator: WechatSimulator, merchant: Merchant, shop: Shop) -> None:
    for body in (
        {"orders": "NEVER*", "never": True},
        {"orders": "TWICE*", "duplicates": 2},
        {"orders": "FORGED*", "kinds": ["forged_key", "probe", "genuine"]},
    ):
        await simulator.control("/control/callbacks", body)
    assert await _pay(simulator, merchant, shop, "NEVER1") == []
    assert await _pay(simulator, merchant, shop, "TWICE1") == [204, 204]
    assert await _pay(simulator, merchant, shop, "FORGED") == [204, 204, 204]
    assert [event is not None for event in _events(simulator, shop)] == [True, True, False, False, True]
    assert (await merchant.query("NEVER1")).body["trade_state"] == "SUCCESS"


async def test_a_callback_can_overtake_the_answer(simulator: WechatSimulator, merchant: Merchant, shop: Shop) -> None:
    await simulator.control("/control/callbacks", {"orders": "EARLY*", "before_answer": True})
    assert (await merchant.create("EARLY1", shop.url)).status == 200
    assert len(shop.taken) == 1
    assert (await merchant.query("EARLY1")).body["trade_state"] == "SUCCESS"


async def test_a_lying_channel(simulator: WechatSimulator, merchant: Merchant, shop: Shop) -> None:
    await _pay(simulator, merchant, shop, "LIAR01", total=1, currency="USD")
    overrides = {"amount": {"total": 5}, "mchid": "1900000110"}
    await simulator.control("/control/callbacks/send", {"out_trade_no": "LIAR01", "overrides": overrides})
    told = [event["resource"] for event in _events(simulator, shop)]
    assert [resource["amount"]["total"] for resource in told] == [1, 5]  # type: ignore[index]
    assert told[1]["mchid"] == "1900000110"  # type: ignore[index]
    assert await simulator.control("/books") == {"captures": {"USD": {"count": 1, "amount_minor": 1}}}


async def test_a_declined_order_stays_open(simulator: WechatSimulator, merchant: Merchant, shop: Shop) -> None:
    await merchant.create("DECLINED", shop.url)
    await simulator.control("/control/decline", {"out_trade_no": "DECLINED"})
    assert (await merchant.query("DECLINED")).body["trade_state"] == "NOTPAY"
    await simulator.control("/control/expire", {"out_trade_no": "DECLINED"})
    with pytest.raises(Exception, match="409"):
        await simulator.control("/control/pay", {"out_trade_no": "DECLINED"})
    assert shop.taken == []
    assert await simulator.control("/books") == {"captures": {}}


async def test_a_callback_outlives_a_crash(new_simulator: Callable[..., WechatSimulator], shop: Shop) -> None:
    shop.answers = [503]
    async with new_simulator() as simulator, aiohttp.ClientSession(trust_env=False) as session:
        merchant = Merchant(simulator, session)
        assert await _pay(simulator, merchant, shop, "CRASH1") == [503]
        await simulator.kill()
        await simulator.start()
        await shop.wait_for(2)
        await _notified(simulator, "CRASH1")
        await simulator.kill()
        await simulator.start()
        assert (await simulator.control("/control/orders/CRASH1"))["notified"]
    assert len(shop.taken) == 2


async def test_it_never_posts_to_the_internet(simulator: WechatSimulator, merchant: Merchant) -> None:
    assert (await merchant.create("OUTSIDE", "https://merchant.example/notify")).status == 200
    await simulator.control("/control/pay", {"out_trade_no": "OUTSIDE", "wait": True})
    statistics = await simulator.control("/control/statistics")
    assert statistics["callbacks"]["callbacks_not_deliverable"] >= 1
    assert "callbacks_sent" not in statistics["callbacks"]


async def test_keys_rotate(simulator: WechatSimulator, merchant: Merchant, shop: Shop) -> None:
    serial = (await simulator.control("/control/keys", {"callback_generation": 2}))["serial"]
    await _pay(simulator, merchant, shop, "ROTATE")
    assert shop.taken[0][0]["Wechatpay-Serial"] == serial != merchant.platform_serial
    question = {"keys_dir": str(simulator.keys_dir), "callbacks": shop.as_question(), "generation": 2}
    assert ask("wechat", "verify-callback", question)[0]["accepted"]


async def test_a_dry_run_gives_the_bytes_without_sending(
    simulator: WechatSimulator, merchant: Merchant, shop: Shop
) -> None:
    await _pay(simulator, merchant, shop, "DRYRUN")
    body = {"out_trade_no": "DRYRUN", "kinds": ["genuine", "tampered"], "dry_run": True}
    made = (await simulator.control("/control/callbacks/send", body))["callbacks"]
    verdicts = ask("wechat", "verify-callback", {"keys_dir": str(simulator.keys_dir), "callbacks": made})
    assert [verdict["accepted"] for verdict in verdicts] == [True, False]
    assert len(shop.taken) == 1
