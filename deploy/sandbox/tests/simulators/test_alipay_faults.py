"""Faults strike the gateway where they are planned, and the ledger tells what was really done."""

import asyncio
import json

import aiohttp
import pytest

from defray_sandbox.simulators.process import AlipaySimulator, SimulatorFailedError

from .alipay_merchant import AlipayMerchant

# What the merchant sees of a struck request: code and whether it verifies; None = no reply that can be read.
_SEEN: dict[str, tuple[str, bool] | None] = {
    "drop": None,
    "truncated": None,
    "500": None,
    "502": None,
    "garbage": None,
    "429": ("40005", True),
    "refuse": ("20000", True),
    "unsigned": ("10000", False),
    "wrong_key": ("10000", False),
}


async def _seen(seller: AlipayMerchant, method: str, content: object) -> tuple[str, bool] | None:
    try:
        answer = await seller.call(method, content)
    except (aiohttp.ClientError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return (answer.code, answer.verified)


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
async def test_each_action_at_each_moment(moment: str, seller: AlipayMerchant, alipay: AlipaySimulator) -> None:
    for action, expected in _SEEN.items():
        number = f"FAULT_{action.upper()}"
        order = seller.order(number, buyer_id="2088102146225135")
        for operation in ("create", "refund"):
            fault = {"action": action, "moment": moment, "operation": operation, "orders": number, "count": 1}
            await alipay.control("/control/faults", {**fault, "code": "20000"})
        assert await _seen(seller, "create", order) == expected, action
        query = await seller.call("query", {"out_trade_no": number})
        assert query.sub_code == ("ACQ.TRADE_NOT_EXIST" if moment == "before_apply" else ""), action
        assert (await seller.call("create", order)).code == "10000"
        await alipay.control("/control/pay", {"out_trade_no": number})
        refund = {"out_trade_no": number, "refund_amount": "19.99", "out_request_no": number}
        assert await _seen(seller, "refund", refund) == expected, action
        again = await seller.call("refund", refund)
        assert again.node["fund_change"] == ("Y" if moment == "before_apply" else "N"), action
        order_seen = await alipay.control(f"/control/orders/{number}")
        assert (order_seen["applied"], order_seen["refunds"]) == ({"created": 1, "paid": 1}, [number])
    statistics = await alipay.control("/control/statistics")
    assert statistics["orders_created"] == statistics["refunds_succeeded"] == len(_SEEN)
    assert statistics["created_more_than_once"] == statistics["refunded_more_than_paid"] == 0


async def test_queries_fail_and_come_late(seller: AlipayMerchant, alipay: AlipaySimulator) -> None:
    await seller.call("create", seller.order("ASKED_1", buyer_id="2088102146225135"))
    for code, sub_code in (("ACQ.SYSTEM_ERROR", "ACQ.SYSTEM_ERROR"), ("40006", "isv.insufficient-isv-permissions")):
        await alipay.control("/control/faults", {"action": "refuse", "code": code, "operation": "query", "count": 1})
        assert (await seller.call("query", {"out_trade_no": "ASKED_1"})).sub_code == sub_code
    await alipay.control("/control/faults", {"action": "delay", "delay_s": 0.4, "count": 1})
    started = asyncio.get_running_loop().time()
    assert (await seller.call("query", {"out_trade_no": "ASKED_1"})).code == "10000"
    assert asyncio.get_running_loop().time() - started >= 0.4


async def test_levers_refuse_what_they_do_not_know(alipay: AlipaySimulator) -> None:
    for path, body, status in (
        ("/control/faults", {"action": "explode"}, 400),
        ("/control/faults", {"action": "500", "operation": "native"}, 400),
        ("/control/pay", {"out_trade_no": "UNKNOWN"}, 404),
        ("/control/open", {"link": "https://qr.alipay.com/unknown"}, 409),
        ("/control/callbacks/send", {"out_trade_no": "UNKNOWN"}, 404),
        ("/control/callbacks", {"kinds": ["probe"]}, 400),
        ("/control/keys", {"generation": 3}, 400),
    ):
        with pytest.raises(SimulatorFailedError, match=f": {status} "):
            await alipay.control(path, body)
