"""Refunds by two doors: asked at the order API and made by the payment service, or asked there and recorded at the order."""

import asyncio
import datetime as dt
from typing import Any

import pytest

from defray_kernel.ids import uuid7
from tests.e2e.world import Receiver, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def paid(world: World) -> tuple[dict[str, Any], dict[str, Any]]:
    """An order of 98.00 CNY (two teas), paid through WeChat, and its payment."""
    order = (await world.place()).body
    begun = await world.pay(order["payment_token"])
    await world.channel("/control/pay", {"out_trade_no": begun.body["attempt_no"], "wait": True})
    await world.order_reaches(order["order_id"], "PAID")
    return order, await world.payment_reaches(begun.body["payment_id"], "SUCCEEDED")


async def request_reaches(world: World, request_id: str, status: str) -> dict[str, Any]:
    """The request once it has that status; business time moves on while a channel makes refunds wait."""
    url = world.url("order", f"/v1/refund-requests/{request_id}")
    for _ in range(20):
        shown: dict[str, Any] = (await world.ask("GET", url, by=world.one.api_key)).body
        if shown["status"] == status:
            return shown
        await asyncio.sleep(0.5)
        await world.advance(15)
    raise AssertionError(f"{shown} is not {status}")


async def test_asked_at_the_order_api_made_by_the_payment_service_shown_on_the_order(
    world: World, receiver: tuple[Receiver, str]
) -> None:
    began = dt.datetime.now(dt.UTC)
    order, payment = await paid(world)
    order_id, key = order["order_id"], uuid7().hex
    asked = [await world.request_refund(order_id, key=key, lines=[{"line": 1, "quantity": 1}]) for _ in range(2)]
    assert [answer.status for answer in asked] == [201, 201]
    assert asked[0].body == asked[1].body
    done = await request_reaches(world, asked[0].body["refund_request_id"], "SUCCEEDED")
    assert [step["kind"] for step in done["steps"]] == [
        "asked", "grants_recalled", "money_asked", "taken", "succeeded",
    ]  # fmt: skip
    shown = await world.order_reaches(order_id, "PARTIALLY_REFUNDED")
    assert (shown["refunded_minor"], shown["refund_requests"]) == (4_900, [done])
    assert [refund["refund_id"] for refund in shown["refunds"]] == [done["refund_id"]]
    url = world.url("payment", f"/v1/refunds/{done['refund_id']}")
    refund = (await world.ask("GET", url, by=world.one.api_key)).body
    assert (refund["refund_request_id"], refund["note"]) == (done["refund_request_id"], "one tin returned")
    assert refund["correlation_id"] == shown["correlation_id"]

    too_much = await world.request_refund(order_id, amount_minor=4_901)
    assert (too_much.status, too_much.body["code"]) == (409, "refund_exceeds_paid")
    await world.entries(payment["payment_id"], count=2)
    await world.comes_to_rest()
    # Everything is told again: nothing happens again.
    for service in ("order", "payment"):
        assert await world.republish(service, began) > 0
    await world.comes_to_rest()
    assert await world.order_reaches(order_id, "PARTIALLY_REFUNDED") == shown
    told = {kind: len(found) for kind, found in receiver[0].told(order_id).items() if "refund" in kind}
    assert told == {
        "order.refund_requested.v1": 1, "refund.requested.v1": 1, "refund.succeeded.v1": 1, "order.refunded.v1": 1,
    }  # fmt: skip


async def test_asked_at_the_payment_api_recorded_at_the_order(world: World) -> None:
    order, payment = await paid(world)
    refund = (await world.refund(payment["payment_id"], 3_000)).body
    await world.order_reaches(order["order_id"], "PARTIALLY_REFUNDED")
    url = world.url("order", f"/v1/orders/{order['order_id']}/refund-requests")
    (recorded,) = (await world.ask("GET", url, by=world.one.api_key)).body["data"]
    assert (recorded["origin"], recorded["status"], recorded["refund_id"]) == (
        "payment",
        "SUCCEEDED",
        refund["refund_id"],
    )
    assert [step["kind"] for step in recorded["steps"]] == ["taken", "grants_recalled", "succeeded"]
    assert recorded["lines"] == [{"line": 1, "amount_minor": 3_000, "quantity": None}]
    left = await world.request_refund(order["order_id"], amount_minor=6_801)
    assert (left.status, left.body["code"]) == (409, "refund_exceeds_paid")
    await world.comes_to_rest()


async def test_both_doors_at_once_give_back_what_was_paid_and_no_more(world: World) -> None:
    order, payment = await paid(world)
    order_id = order["order_id"]
    answers = await asyncio.gather(
        *(world.request_refund(order_id, amount_minor=3_000) for _ in range(5)),
        *(world.refund(payment["payment_id"], 3_000) for _ in range(5)),
    )
    assert {answer.status for answer in answers} <= {201, 202, 409}
    url = world.url("order", f"/v1/orders/{order_id}/refund-requests")
    for _ in range(40):
        requests = (await world.ask("GET", url, by=world.one.api_key)).body["data"]
        if not any(each["status"] in {"REQUESTED", "SENT"} for each in requests):
            break
        await asyncio.sleep(0.5)
        await world.advance(60)
    by_status: dict[str, int] = {}
    for each in requests:
        by_status[each["status"]] = by_status.get(each["status"], 0) + each["amount_minor"]
    assert by_status.pop("SUCCEEDED") == 9_000
    assert set(by_status) <= {"REFUSED"}
    assert {each["code"] for each in requests if each["status"] == "REFUSED"} <= {"refund_exceeds_paid"}
    shown = await world.order_reaches(order_id, "PARTIALLY_REFUNDED")
    assert shown["refunded_minor"] == 9_000
    await world.comes_to_rest()
