"""Refunds of the simulated channel: its limits, what becomes of them, and that a crash loses none."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from defray_sandbox.simulators.process import MCHID, SimulatorFailedError, WechatSimulator

from .conftest import Answer, Merchant, Shop, notified

_REFUNDS = "/v3/refund/domestic/refunds"


def _body(number: str, order: str, refund: int = 100, **changes: object) -> dict[str, object]:
    body: dict[str, object] = {
        "out_trade_no": order,
        "out_refund_no": number,
        "amount": {"refund": refund, "total": 1999, "currency": "CNY"},
    }
    body |= changes
    return {name: value for name, value in body.items() if value is not None}


async def _paid(simulator: WechatSimulator, merchant: Merchant, number: str) -> str:
    assert (await merchant.create(number)).status == 200
    paid = await simulator.control("/control/pay", {"out_trade_no": number})
    return str(paid["transaction_id"])


async def _status(merchant: Merchant, number: str) -> str:
    return str((await merchant.call("GET", f"{_REFUNDS}/{number}")).body["status"])


_BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"out_refund_no": None}, "/out_refund_no"),
    ({"out_refund_no": "R" * 65}, "/out_refund_no"),
    ({"out_refund_no": "with blank"}, "/out_refund_no"),
    ({"out_trade_no": None}, "/transaction_id"),
    ({"transaction_id": "4200"}, "/transaction_id"),
    ({"amount": None}, "/amount"),
    ({"amount": {"refund": 0, "total": 1999, "currency": "CNY"}}, "/amount/refund"),
    ({"amount": {"refund": "1", "total": 1999, "currency": "CNY"}}, "/amount/refund"),
    ({"amount": {"refund": 1, "total": 1999}}, "/amount/currency"),
    ({"reason": "x" * 81}, "/reason"),
    ({"notify_url": "http://merchant.example/"}, "/notify_url"),
    ({"funds_account": "OTHER"}, "/funds_account"),
    ({"colour": "red"}, "/colour"),
]


async def test_every_wrong_field_is_refused_by_name(merchant: Merchant, simulator: WechatSimulator) -> None:
    await _paid(simulator, merchant, "STRICT01")
    for changes, field in _BAD_FIELDS:
        answer = await merchant.call("POST", _REFUNDS, _body("R1", "STRICT01", **changes))
        assert (answer.status, answer.body["code"]) == (400, "PARAM_ERROR"), changes
        assert answer.body["detail"]["field"] == field, changes
        assert answer.verified, changes
    assert (await simulator.control("/control/statistics"))["refunds_created"] == 0


async def test_the_channels_rules(merchant: Merchant, simulator: WechatSimulator) -> None:
    transaction = await _paid(simulator, merchant, "RULES1")
    await merchant.create("UNPAID")
    for body, status, code in (
        (_body("R1", "UNKNOWN"), 404, "RESOURCE_NOT_EXISTS"),
        (_body("R1", "UNPAID"), 400, "INVALID_REQUEST"),
        (_body("R1", "RULES1", 2000), 400, "INVALID_REQUEST"),
        (_body("R1", "RULES1", amount={"refund": 1, "total": 1998, "currency": "CNY"}), 400, "INVALID_REQUEST"),
    ):
        answer = await merchant.call("POST", _REFUNDS, body)
        assert (answer.status, answer.body["code"]) == (status, code), body
    good = _body("R1", "RULES1", out_trade_no=None, transaction_id=transaction)
    assert (await merchant.call("POST", _REFUNDS, good)).status == 200
    early = await merchant.call("POST", _REFUNDS, _body("R2", "RULES1"))
    assert (early.status, early.body["code"]) == (429, "FREQUENCY_LIMITED")
    assert (await merchant.call("POST", _REFUNDS, good)).status == 200
    await simulator.control("/control/clock", {"offset_s": 61})
    assert (await merchant.call("POST", _REFUNDS, _body("R2", "RULES1"))).status == 200
    await simulator.control("/control/clock", {"offset_s": 366 * 86_400})
    late = await merchant.call("POST", _REFUNDS, _body("R3", "RULES1"))
    assert (late.status, late.body["code"]) == (400, "INVALID_REQUEST")


async def test_twenty_at_once_never_exceed_what_was_paid_and_fifty_is_the_end(
    new_simulator: Callable[..., WechatSimulator],
) -> None:
    async with new_simulator("--refund-gap-s", "0") as simulator, aiohttp.ClientSession(trust_env=False) as session:
        merchant = Merchant(simulator, session)
        await _paid(simulator, merchant, "TWENTY")
        bodies = [_body(f"R{number}", "TWENTY", 150) for number in range(20)]
        answers: list[Answer] = await asyncio.gather(*(merchant.call("POST", _REFUNDS, body) for body in bodies))
        assert sorted(answer.status for answer in answers) == [200] * 13 + [400] * 7
        await _paid(simulator, merchant, "FIFTY1")
        for number in range(50):
            assert (await merchant.call("POST", _REFUNDS, _body(f"F{number}", "FIFTY1", 1))).status == 200
        last = await merchant.call("POST", _REFUNDS, _body("F50", "FIFTY1", 1))
        assert (last.status, last.body["code"]) == (403, "RULE_LIMIT")
        statistics = await simulator.control("/control/statistics")
        assert (statistics["refunds_created"], statistics["refunded_more_than_paid"]) == (63, 0)


async def test_what_becomes_of_refunds(merchant: Merchant, simulator: WechatSimulator, shop: Shop) -> None:
    days_s = {"ABNORMAL": 2 * 86_400, "CLOSED": 3 * 86_400}
    for outcome, after_s in days_s.items():
        plan = {"orders": f"R-{outcome}*", "outcome": outcome.lower(), "after_s": after_s}
        await simulator.control("/control/refunds", plan)
        await _paid(simulator, merchant, f"O-{outcome}")
        body = _body(f"R-{outcome}", f"O-{outcome}", notify_url=shop.url)
        assert (await merchant.call("POST", _REFUNDS, body)).body["status"] == "PROCESSING"
    for outcome, after_s in days_s.items():
        assert await _status(merchant, f"R-{outcome}") == "PROCESSING"
        await simulator.control("/control/clock", {"offset_s": after_s + 1})
        assert await _status(merchant, f"R-{outcome}") == outcome
    await shop.wait_for(2)
    # An abnormal refund that was handled may still succeed; a closed one has ended, and its money may go back anew.
    await simulator.control("/control/refunds/settle", {"out_refund_no": "R-ABNORMAL", "outcome": "success"})
    await shop.wait_for(3)
    with pytest.raises(SimulatorFailedError, match="409"):
        await simulator.control("/control/refunds/settle", {"out_refund_no": "R-CLOSED", "outcome": "success"})
    again = await merchant.call("POST", _REFUNDS, _body("R-AGAIN", "O-CLOSED", 1999))
    assert again.status == 200
    listed = await simulator.control("/control/refunds?state=CLOSED")
    assert [refund["out_refund_no"] for refund in listed["refunds"]] == ["R-CLOSED"]
    assert (await simulator.control("/control/refunds/R-ABNORMAL"))["applied"]["refund_settled"] == 2


async def test_a_refund_notice_can_overtake_the_payments(
    merchant: Merchant, simulator: WechatSimulator, shop: Shop
) -> None:
    await simulator.control("/control/callbacks", {"orders": "EARLY*", "delay_s": 0.5})
    await simulator.control("/control/callbacks", {"orders": "R-EARLY", "before_answer": True})
    await merchant.create("EARLY1", shop.url)
    await simulator.control("/control/pay", {"out_trade_no": "EARLY1"})
    body = _body("R-EARLY", "EARLY1", notify_url=shop.url)
    assert (await merchant.call("POST", _REFUNDS, body)).body["status"] == "PROCESSING"
    assert len(shop.taken) == 1
    await shop.wait_for(2)
    assert [b"REFUND.SUCCESS" in sent for _, sent in shop.taken] == [True, False]


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
async def test_refunds_and_reversals_are_lost_on_both_sides(
    moment: str, merchant: Merchant, simulator: WechatSimulator
) -> None:
    await _paid(simulator, merchant, "LOST01")
    code = merchant.order("CODE01", notify_url=None, payer={"auth_code": "130061098828009406"})
    assert (await merchant.call("POST", "/v3/pay/transactions/codepay", code)).status == 200
    for operation in ("refund", "reverse"):
        await simulator.control(
            "/control/faults", {"action": "drop", "moment": moment, "operation": operation, "count": 1}
        )
    reverse = {"appid": "wx8888888888888888", "mchid": MCHID}
    with pytest.raises(aiohttp.ClientError):
        await merchant.call("POST", _REFUNDS, _body("R1", "LOST01"))
    with pytest.raises(aiohttp.ClientError):
        await merchant.call("POST", "/v3/pay/transactions/out-trade-no/CODE01/reverse", reverse)
    applied = moment == "after_apply"
    assert (await merchant.call("GET", f"{_REFUNDS}/R1")).status == (200 if applied else 404)
    assert (await merchant.query("CODE01")).body["trade_state"] == ("REVOKED" if applied else "SUCCESS")
    assert (await merchant.call("POST", _REFUNDS, _body("R1", "LOST01"))).status == 200
    assert (await simulator.control("/control/statistics"))["refunds_created"] == 1


async def test_refunds_outlive_a_crash(new_simulator: Callable[..., WechatSimulator], shop: Shop) -> None:
    shop.answers = [503]
    async with new_simulator() as simulator, aiohttp.ClientSession(trust_env=False) as session:
        merchant = Merchant(simulator, session)
        await _paid(simulator, merchant, "CRASH1")
        await merchant.call("POST", _REFUNDS, _body("R1", "CRASH1", notify_url=shop.url))
        await shop.wait_for(1)
        before = (await merchant.call("GET", f"{_REFUNDS}/R1")).body
        await simulator.kill()
        await simulator.start()
        await shop.wait_for(2)
        await notified(simulator, "refunds/R1")
        assert (await merchant.call("GET", f"{_REFUNDS}/R1")).body == before
        assert (await merchant.query("CRASH1")).body["trade_state"] == "REFUND"
        await simulator.kill()
        await simulator.start()
        assert (await simulator.control("/control/refunds/R1"))["notified"]
    assert len(shop.taken) == 2
