"""Money that goes back, over all services and both channels: asked for, by rule, and once whatever is repeated."""

import asyncio
import datetime as dt
from collections import Counter
from typing import Any

import pytest

from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from tests.e2e.world import Receiver, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

QR = {"wechat": "native", "alipay": "precreate"}
ACKNOWLEDGED = {"wechat": 204, "alipay": 200}


async def paid(world: World, channel: str, **levers: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """An order of 98.00 CNY that was paid through a channel, and its payment."""
    order = (await world.place()).body
    answer = await world.pay(order["payment_token"], channel=channel, product=QR[channel])
    assert (answer.status, answer.body["next_action"]["type"]) == (201, "qr"), answer
    wish = {"out_trade_no": answer.body["attempt_no"], "wait": True, **levers}
    told = await world.channel("/control/pay", wish, of=channel)
    assert {callback["status"] for callback in told["callbacks"]} == {ACKNOWLEDGED[channel]}
    await world.order_reaches(order["order_id"], "PAID")
    return order, await world.payment_reaches(answer.body["payment_id"], "SUCCEEDED")


async def refund_reaches(world: World, refund_id: str, status: str) -> dict[str, Any]:
    return await world.reaches(world.url("payment", f"/v1/refunds/{refund_id}"), world.one.api_key, status)


@pytest.mark.parametrize("channel", QR)
async def test_money_goes_back_in_parts_once_whatever_is_repeated(
    world: World, receiver: tuple[Receiver, str], channel: str
) -> None:
    began = dt.datetime.now(dt.UTC)
    order, payment = await paid(world, channel, callbacks=20, concurrent=True)
    key = uuid7().hex
    asked = [await world.refund(payment["payment_id"], 3_000, key=key) for _ in range(2)]
    assert [answer.status for answer in asked] == [201, 201]
    assert asked[0].body == asked[1].body
    await refund_reaches(world, asked[0].body["refund_id"], "SUCCEEDED")
    part = await world.order_reaches(order["order_id"], "PARTIALLY_REFUNDED")
    assert part["refunded_minor"] == 3_000

    too_much = await world.refund(payment["payment_id"], 6_801)
    assert (too_much.status, too_much.body["code"]) == (409, "refund_exceeds_paid")
    # The channels take a payment's refunds one after another (a minute, three seconds); the timer asks again.
    rest = await world.refund(payment["payment_id"], 6_800)
    assert rest.status in {201, 202}
    await _come(world, rest.body["refund_id"])
    whole = await world.order_reaches(order["order_id"], "REFUNDED")
    assert [(r["amount_minor"], r["status"], r["reason"]) for r in whole["refunds"]] == [
        (3_000, "SUCCEEDED", "merchant"),
        (6_800, "SUCCEEDED", "merchant"),
    ]
    entries = await world.entries(payment["payment_id"], count=3)
    assert Counter((entry["kind"], entry["net_minor"]) for entry in entries) == {
        ("succeeded", 9_741): 1, ("refunded", -3_000): 1, ("refunded", -6_800): 1,
    }  # fmt: skip
    assert {entry["correlation_id"] for entry in entries} == {whole["correlation_id"]}

    await world.comes_to_rest()
    told = receiver[0].told(order["order_id"])
    assert {kind: len(found) for kind, found in told.items() if "refund" in kind} == {
        "refund.requested.v1": 2, "refund.succeeded.v1": 2, "order.refunded.v1": 2,
    }  # fmt: skip
    for service in ("order", "payment", "settlement"):
        assert await world.republish(service, began) > 0
    await world.comes_to_rest()
    assert await world.order_reaches(order["order_id"], "REFUNDED") == whole
    assert await world.entries(payment["payment_id"], count=3) == entries
    assert receiver[0].told(order["order_id"]) == told


async def test_money_that_comes_after_the_close_goes_back_by_rule(world: World) -> None:
    order = (await world.place()).body
    first = (await world.pay(order["payment_token"])).body
    close = world.url("payment", f"/v1/payments/{first['payment_id']}/close")
    assert (await world.ask("POST", close, by=order["payment_token"])).body["status"] == "CLOSED"
    second = (await world.pay(order["payment_token"], channel="alipay", product="precreate")).body
    await world.channel("/control/pay", {"out_trade_no": second["attempt_no"]}, of="alipay")
    await world.order_reaches(order["order_id"], "PAID")
    late = await world.channel("/control/pay", {"out_trade_no": first["attempt_no"], "late": True, "wait": True})
    assert late["callbacks"] == [{"kind": "genuine", "status": 204}]
    await world.payment_reaches(first["payment_id"], "DUPLICATE")

    url = world.url("order", f"/v1/orders/{order['order_id']}")

    async def sent_back() -> dict[str, Any] | None:
        shown = (await world.ask("GET", url, by=world.one.api_key)).body
        return shown if [r["status"] for r in shown["refunds"]] == ["SUCCEEDED"] else None

    shown = await eventually(sent_back, within_s=20, what="the money to go back")
    assert shown is not None
    assert (shown["status"], shown["payment_id"], shown["refunded_minor"]) == ("PAID", second["payment_id"], 0)
    assert (shown["refunds"][0]["payment_id"], shown["refunds"][0]["reason"]) == (first["payment_id"], "duplicate")
    entries = await world.entries(first["payment_id"], count=2)
    assert {entry["kind"]: entry["net_minor"] for entry in entries} == {"duplicate": 0, "returned": 0}
    await world.comes_to_rest()


async def test_a_refund_whose_answer_is_lost_goes_back_once(world: World) -> None:
    order, payment = await paid(world, "alipay")
    await world.channel(
        "/control/faults", {"operation": "refund", "action": "drop", "moment": "after_apply", "count": 1}, of="alipay"
    )
    key = uuid7().hex
    asked = await asyncio.gather(*(world.refund(payment["payment_id"], 1_000, key=key) for _ in range(5)))
    assert {answer.status for answer in asked} <= {201, 202, 409}
    (refund_id,) = {answer.body["refund_id"] for answer in asked if answer.status != 409}
    await _come(world, refund_id)
    await world.order_reaches(order["order_id"], "PARTIALLY_REFUNDED")
    await world.entries(payment["payment_id"], count=2)
    await world.comes_to_rest()
    trade = await world.channel(f"/control/orders/{payment['attempt_no']}", of="alipay")
    assert (trade["refunded"], len(trade["refunds"])) == (1_000, 1)


async def test_another_merchant_finds_no_refund(world: World) -> None:
    _, payment = await paid(world, "wechat")
    refund = (await world.refund(payment["payment_id"], 1)).body
    by = world.other.api_key
    for method, path in (
        ("GET", f"/v1/refunds/{refund['refund_id']}"),
        ("GET", f"/v1/payments/{payment['payment_id']}/refunds"),
        ("POST", f"/v1/payments/{payment['payment_id']}/refunds"),
    ):
        body = {"amount_minor": 1} if method == "POST" else None
        answer = await world.ask(method, world.url("payment", path), by=by, body=body, key=uuid7().hex)
        assert (answer.status, answer.body["code"]) == (404, "not_found"), path
    entries = await world.ask(
        "GET", world.url("settlement", f"/v1/ledger/entries?payment_id={payment['payment_id']}"), by=by
    )
    assert entries.body["data"] == []
    await _come(world, refund["refund_id"])
    await world.comes_to_rest()


async def _come(world: World, refund_id: str) -> None:
    """Until the refund has succeeded: business time moves on while the channel makes it wait."""
    url = world.url("payment", f"/v1/refunds/{refund_id}")
    for _ in range(20):
        if (await world.ask("GET", url, by=world.one.api_key)).body["status"] == "SUCCEEDED":
            return
        await world.advance(60)
        await asyncio.sleep(0.5)
    raise AssertionError(f"{refund_id} did not succeed")
