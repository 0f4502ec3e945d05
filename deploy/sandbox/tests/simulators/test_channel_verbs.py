"""`defray channel …` pulls the levers of both simulators, says what they answer, and fails when they refuse."""

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from defray_sandbox.cli import app
from defray_sandbox.simulators.process import AlipaySimulator, WechatSimulator

from .alipay_merchant import AlipayMerchant
from .conftest import Merchant, Shop


async def _say(channel: str, simulator: AlipaySimulator | WechatSimulator, verb: str, *words: str) -> Any:  # noqa: ANN401  Any JSON.
    """What the command prints; the simulator's own loop must go on meanwhile."""
    arguments = ["channel", verb, f"{channel}@{simulator.control_url}", *words]
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


async def test_the_life_of_an_order_at_wechat(simulator: WechatSimulator, merchant: Merchant, shop: Shop) -> None:
    say = lambda verb, *words: _say("wechat", simulator, verb, *words)  # noqa: E731
    await say("fault", "500", "--operation", "native", "--orders", "CLI*", "--count", "1", "--before")
    assert (await merchant.create("CLI001", shop.url)).status == 500
    await say("heal")
    assert (await merchant.create("CLI001", shop.url)).status == 200
    await say("callbacks", "--orders", "CLI*", "--kind", "forged_key", "--kind", "genuine")
    paid = await say("pay", "CLI001")
    assert [callback["kind"] for callback in paid["callbacks"]] == ["forged_key", "genuine"]
    assert (await say("send-callback", "CLI001", "--kind", "tampered"))["callbacks"][0]["status"] == 204
    await say("refund-plan", "pending", "--orders", "R*")
    amount = {"refund": 5, "total": 1999, "currency": "CNY"}
    body = {"out_trade_no": "CLI001", "out_refund_no": "R1", "amount": amount, "notify_url": shop.url}
    assert (await merchant.call("POST", "/v3/refund/domestic/refunds", body)).status == 200
    assert (await say("refund-abnormal", "R1"))["callbacks"] == [{"kind": "genuine", "status": 204}]
    assert (await say("refund-settle", "R1", "success"))["refund_id"]
    assert (await say("books"))["refunds"] == {"CNY": {"count": 1, "amount_minor": 5}}
    assert (await say("keys", "--generation", "2", "--public-key-percent", "50"))["public_key_percent"] == 50
    await merchant.create("CLI002")
    await say("decline", "CLI002")
    await say("expire", "CLI002")
    await say("payers", "is_declined", "--orders", "POOR*")
    assert [order["state"] for order in (await say("orders"))["orders"]] == ["REFUND", "NOTPAY"]
    assert (await say("statistics"))["refunds_succeeded"] == 1


async def test_the_life_of_a_trade_at_alipay(alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop) -> None:
    say = lambda verb, *words: _say("alipay", alipay, verb, *words)  # noqa: E731
    link = seller.link("page.pay", seller.order("CLI_1", product_code="FAST_INSTANT_TRADE_PAY"), notify_url=taker.url)
    assert (await say("open", "--link", link))["state"] == "WAIT_BUYER_PAY"
    assert (await say("pay", "CLI_1", "--callbacks", "2", "--concurrent"))["callbacks"] == [
        {"kind": "genuine", "status": 200}
    ] * 2
    await say("refund-plan", "pending")
    refund = {"out_trade_no": "CLI_1", "refund_amount": "1.00", "out_request_no": "R_1"}
    assert (await seller.call("refund", refund)).node["fund_change"] == "N"
    settled = await say("refund-settle", "R_1", "success", "--order", "CLI_1")
    assert settled["callbacks"] == [{"kind": "genuine", "status": 200}]
    assert (await say("send-callback", "CLI_1", "--refund", "R_1"))["callbacks"][0]["status"] == 200
    assert [each["state"] for each in (await say("refunds"))["refunds"]] == ["REFUND_SUCCESS"]
    assert (await say("keys", "--generation", "2"))["alipay_cert_sn"]


@pytest.mark.parametrize(
    ("channel", "words"),
    [("alipay", ["pay", "UNKNOWN"]), ("wechat", ["decline", "UNKNOWN"]), ("wechat", ["fault", "explode"])],
)
async def test_a_refusal_is_said_and_fails(channel: str, words: list[str], simulator: WechatSimulator) -> None:
    verb, *rest = words
    arguments = ["channel", verb, f"{channel}@{simulator.control_url}", *rest]
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code == 1
    assert "the channel refused: 40" in done.output


@pytest.mark.parametrize("name", ["paypal", "wechat@file:///etc/hosts", ""])
def test_what_is_no_channel(name: str) -> None:
    assert CliRunner().invoke(app, ["channel", "books", name]).exit_code == 2
