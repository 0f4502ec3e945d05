"""An order through payment to the books and the merchant's webhook, by public doors only; every step repeated."""

import asyncio
import datetime as dt
from collections import Counter
from typing import Any

import pytest

from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from defray_sandbox import sandbox_clock
from tests.e2e.world import ITEM, Receiver, World
from tests.judges.run import ask as ask_judge

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOLD = {
    "order.placed.v1": 1,
    "payment.created.v1": 1,
    "payment.pending.v1": 1,
    "payment.succeeded.v1": 1,
    "order.paid.v1": 1,
}


async def test_an_order_is_paid_booked_and_told_once_whatever_is_repeated(
    world: World, receiver: tuple[Receiver, str]
) -> None:
    began, cid = dt.datetime.now(dt.UTC), uuid7().hex
    number, key, pay_key = uuid7().hex, uuid7().hex, uuid7().hex

    placed = [await world.place(key=key, correlation_id=cid, merchant_order_no=number) for _ in range(2)]
    assert [answer.status for answer in placed] == [201, 201]
    assert placed[0].body == placed[1].body
    assert placed[1].headers["Idempotency-Replayed"] == "true"
    order = placed[0].body

    paying = [await world.pay(order["payment_token"], key=pay_key) for _ in range(2)]
    assert [answer.status for answer in paying] == [201, 201]
    assert paying[0].body == paying[1].body
    payment = paying[0].body
    assert (payment["status"], payment["next_action"]["type"]) == ("PENDING", "qr")
    assert payment["next_action"]["data"]["code_url"].startswith("weixin://")

    told = await world.channel(
        "/control/pay", {"out_trade_no": payment["attempt_no"], "callbacks": 50, "concurrent": True, "wait": True}
    )
    assert Counter(callback["status"] for callback in told["callbacks"]) == {204: 50}

    paid = await world.order_reaches(order["order_id"], "PAID")
    shown = await world.payment_reaches(payment["payment_id"], "SUCCEEDED")
    assert paid["payment_id"] == payment["payment_id"]
    assert [(p["payment_id"], p["status"], p["paid_minor"]) for p in paid["payments"]] == [
        (payment["payment_id"], "SUCCEEDED", 9_800)
    ]
    (entry,) = await world.entries(payment["payment_id"])
    assert (entry["gross_minor"], entry["fee_minor"], entry["net_minor"]) == (9_800, 59, 9_741)
    assert sum(leg["amount_minor"] for leg in entry["legs"]) == 0
    assert {paid["correlation_id"], shown["correlation_id"], entry["correlation_id"]} == {cid}

    await world.comes_to_rest()
    before = receiver[0].told(order["order_id"])
    assert {kind: len(ids) for kind, ids in before.items()} == TOLD
    messages = await _messages(world, order["order_id"], payment["payment_id"])
    assert {message["correlation_id"] for message in messages} == {cid}
    assert len(messages) == len(TOLD) * len({message["endpoint_id"] for message in messages}) == len(TOLD) * 2

    # The same events again, from every service that told any: nobody does anything twice.
    for service in ("order", "payment", "settlement"):
        assert await world.republish(service, began) > 0
    await world.comes_to_rest()
    assert await world.order_reaches(order["order_id"], "PAID") == paid
    assert await world.entries(payment["payment_id"]) == [entry]
    assert receiver[0].told(order["order_id"]) == before
    assert await _messages(world, order["order_id"], payment["payment_id"]) == messages


async def test_what_merchants_receive_satisfies_the_official_library(
    world: World, receiver: tuple[Receiver, str]
) -> None:
    kept, secret = receiver
    order = (await world.place()).body
    await eventually(lambda: any(order["order_id"] in body for _, body in kept.deliveries), what="a delivery")
    questions = [{"headers": headers, "body": body, "secret": secret} for headers, body in kept.deliveries]
    verdicts = await asyncio.to_thread(ask_judge, "standardwebhooks", "verify", questions)
    assert [verdict for verdict in verdicts if not verdict["accepted"]] == []
    forged = [question | {"body": question["body"] + " "} for question in questions]
    verdicts = await asyncio.to_thread(ask_judge, "standardwebhooks", "verify", forged)
    assert [verdict for verdict in verdicts if verdict["accepted"]] == []


async def test_a_channel_that_does_not_answer_is_asked_later(world: World) -> None:
    order = (await world.place()).body
    await world.channel(
        "/control/faults", {"operation": "native", "action": "drop", "moment": "after_apply", "count": 1}
    )
    await world.channel("/control/callbacks", {"never": True, "count": 1})
    answer = await world.pay(order["payment_token"])
    assert (answer.status, answer.body["status"]) == (202, "PENDING")
    # While the outcome is unknown nobody may start another.
    assert (await world.pay(order["payment_token"])).status in {202, 409}
    # Who looks makes us ask: the order is there, and its lost QR text is had again under the same number.
    poll = world.url("payment", answer.body["links"]["self"])
    polled = await world.ask("GET", poll, by=order["payment_token"])
    assert (polled.status, polled.body["status"]) == (200, "PENDING")
    assert polled.body["attempt_no"] == answer.body["attempt_no"]
    assert polled.body["next_action"]["data"]["code_url"].startswith("weixin://")
    await world.channel("/control/pay", {"out_trade_no": answer.body["attempt_no"]})
    await sandbox_clock.advance(world.stack.clock_file, world.stack.addresses, 60)
    await world.payment_reaches(answer.body["payment_id"], "SUCCEEDED")
    await world.order_reaches(order["order_id"], "PAID")
    (entry,) = await world.entries(answer.body["payment_id"])
    assert entry["gross_minor"] == 9_800
    created = await world.channel(f"/control/orders/{answer.body['attempt_no']}")
    assert created["state"] == "SUCCESS"
    await world.comes_to_rest()


async def test_an_order_that_costs_nothing_is_paid_at_once(world: World, receiver: tuple[Receiver, str]) -> None:
    free = await world.place(amount_minor=0, items=[ITEM | {"discount_minor": 9_800}])
    assert (free.status, free.body["status"], free.body["payment_id"]) == (201, "PAID", None)
    assert "payment_token" not in free.body
    await world.comes_to_rest()
    told = receiver[0].told(free.body["order_id"])
    assert {kind: len(ids) for kind, ids in told.items()} == {"order.placed.v1": 1, "order.paid.v1": 1}


async def _messages(world: World, *subjects: str) -> list[dict[str, Any]]:
    """What the notifier keeps of these objects, as merchant one sees it."""
    page = await world.ask("GET", world.url("notifier", "/v1/messages"), by=world.one.api_key)
    return [message for message in page.body["data"] if message["subject"] in subjects]
