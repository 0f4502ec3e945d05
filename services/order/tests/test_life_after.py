"""What orders come to on a real schema and over HTTP: fulfilled, reopened by late money, and every step of it shown."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, OrderId, show, uuid7
from defray_order.commands import fulfil_order, reopen_order
from defray_order.commands.fulfil_order import FulfilOrder
from defray_order.domain.order import Order
from defray_order.entrypoints import consumers
from defray_order.store import orders, refund_requests, timelines

from .given import NOW
from .living import CAUSE, by_number, cancel, closed, wish
from .running import Service, order_body
from .test_reports import (
    CLOCK,
    MERCHANT,
    event,
    history,
    mark_paid,
    mark_refunded,
    payment,
    placed,
    reasons,
    refund,
    state,
    told,
)


async def fulfil(database: Database, order_id: OrderId, merchant: MerchantId = MERCHANT) -> fulfil_order.Outcome:
    async with database.transaction() as tx:
        command = FulfilOrder(merchant_id=merchant, order_id=order_id, cause=CAUSE)
        (outcome,) = await fulfil_order.handle([command], tx, CLOCK)
    return outcome


async def test_a_paid_order_is_fulfilled_once_and_refunds_go_on_from_there(database: Database) -> None:
    order_id = await placed(database)
    assert isinstance(await fulfil(database, order_id), fulfil_order.Refused)
    assert await fulfil(database, order_id, MerchantId(uuid7())) == fulfil_order.Unknown()
    paid = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(database, event(paid))
    for _ in range(2):
        outcome = await fulfil(database, order_id)
        assert isinstance(outcome, fulfil_order.Fulfilled)
        assert (outcome.order.state, outcome.order.fulfilled_at) == ("FULFILLED", NOW)
    await mark_refunded(database, refund(v1.RefundSucceeded, paid, amount=100, total=100))
    await mark_refunded(database, refund(v1.RefundSucceeded, paid, amount=200, total=300))
    assert (await state(database, order_id), await reasons(database)) == ("REFUNDED", [])
    assert isinstance(await fulfil(database, order_id), fulfil_order.Fulfilled)
    assert [kind for kind, _ in await told(database)] == [
        "order.placed.v1", "order.paid.v1", "order.fulfilled.v1", "order.refunded.v1", "order.refunded.v1",
    ]  # fmt: skip


async def test_what_is_left_of_a_refunded_order_can_be_fulfilled_and_nothing_when_all_went_back(
    database: Database,
) -> None:
    order_id = await placed(database)
    paid = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(database, event(paid))
    await mark_refunded(database, refund(v1.RefundSucceeded, paid, amount=100, total=100))
    outcome = await fulfil(database, order_id)
    assert isinstance(outcome, fulfil_order.Fulfilled)
    assert (outcome.order.state, outcome.order.fulfilled_at) == ("PARTIALLY_REFUNDED", NOW)
    assert (await told(database))[-1] == ("order.fulfilled.v1", 4)
    other = await placed(database)
    paid = payment(v1.PaymentSucceeded, other)
    await mark_paid(database, event(paid))
    await mark_refunded(database, refund(v1.RefundSucceeded, paid, amount=300, total=300))
    assert isinstance(await fulfil(database, other), fulfil_order.Refused)


async def merchant_is(database: Database, late_money: str, **changes: Any) -> None:  # noqa: ANN401
    """Put the merchant into the projection."""
    known = MerchantState(
        merchant_id=show("mer", MERCHANT), name="Shop", status="ACTIVE", mode="test", currencies=["CNY"],
        api_keys=[], late_money="return", changed_at=NOW,
    )  # fmt: skip
    known = msgspec.structs.replace(known, late_money=late_money, **changes)
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO merchant (merchant_id, sequence, status, state, changed_at) VALUES ($1, 1, $2, $3, $4)",
            MERCHANT, known.status, msgspec.json.encode(known), NOW,
        )  # fmt: skip


async def ended(database: Database) -> OrderId:
    order_id = await placed(database)
    await cancel(database, wish(order_id))
    await closed(database, order_id)
    return order_id


async def paid_late(database: Database, data: v1.PaymentPaidLate) -> None:
    late = event(data, 5)
    async with database.transaction() as tx:
        await consumers.begin([late], tx)
        await reopen_order.handle([late], tx, CLOCK)


async def asked_back(database: Database, order_id: OrderId) -> Sequence[tuple[str, int]]:
    async with database.read() as conn:
        return [(r.origin, r.amount.minor) for r in await refund_requests.of_order(conn, order_id, limit=10)]


async def get(database: Database, order_id: OrderId) -> Order:
    async with database.read() as conn:
        return (await orders.get(conn, [order_id]))[order_id]


async def test_late_money_reopens_where_the_merchant_wants_it(database: Database) -> None:
    await merchant_is(database, "reopen")
    order_id = await ended(database)
    late = payment(v1.PaymentPaidLate, order_id, status="PAID_LATE")
    for _ in range(2):
        await paid_late(database, late)
    await closed(database, order_id)  # sent again: old news
    order = await get(database, order_id)
    assert (order.state, order.reopened, order.closing_reason) == ("PAID", True, "merchant")
    assert show("pay", order.payment_id or uuid7()) == late.payment_id
    assert (await reasons(database), await asked_back(database, order_id)) == ([], [])
    assert [kind for kind, _ in await told(database)] == [
        "order.placed.v1", "order.closing.v1", "order.cancelled.v1", "order.paid.v1",
    ]  # fmt: skip
    assert (await history(database, order_id))[-1] == ("CANCELLED", "PAID", "late_money_kept")
    await mark_refunded(database, refund(v1.RefundSucceeded, _succeeded(late), amount=300, total=300))
    assert await state(database, order_id) == "REFUNDED"


def _succeeded(late: v1.PaymentPaidLate) -> v1.PaymentSucceeded:
    return v1.PaymentSucceeded(**msgspec.structs.asdict(late))


@pytest.mark.parametrize("policy", ["return", "case"])
async def test_under_other_policies_the_order_stays_ended(database: Database, policy: str) -> None:
    await merchant_is(database, policy)
    order_id = await ended(database)
    await paid_late(database, payment(v1.PaymentPaidLate, order_id, status="PAID_LATE"))
    assert (await state(database, order_id), await asked_back(database, order_id)) == ("CANCELLED", [])


async def test_late_money_that_cannot_be_kept_is_asked_back_once(database: Database) -> None:
    await merchant_is(database, "reopen", suspended=True)
    order_id = await ended(database)
    late = payment(v1.PaymentPaidLate, order_id, status="PAID_LATE")
    for _ in range(2):
        await paid_late(database, late)
    assert (await state(database, order_id), await asked_back(database, order_id)) == (
        "CANCELLED",
        [("late_money", 300)],
    )
    assert (await told(database))[-1] == ("order.refund_requested.v1", 4)


async def test_late_money_of_another_amount_is_a_case(database: Database) -> None:
    await merchant_is(database, "reopen")
    order_id = await ended(database)
    await paid_late(database, payment(v1.PaymentPaidLate, order_id, status="PAID_LATE", paid_minor=299))
    assert (await state(database, order_id), await reasons(database)) == ("CANCELLED", ["amount_mismatch"])


async def test_the_timeline_shows_every_step_with_its_evidence(database: Database) -> None:
    await merchant_is(database, "reopen")
    order_id = await placed(database)
    await cancel(database, wish(order_id, "customer", reason="found it cheaper"))
    await closed(database, order_id, "customer")
    late = event(payment(v1.PaymentPaidLate, order_id, status="PAID_LATE"), 5)
    async with database.transaction() as tx:
        await consumers.begin([late], tx)
        await reopen_order.handle([late], tx, CLOCK)
    async with database.read() as conn:
        steps, truncated = await timelines.of_order(conn, order_id)
        sent = {row["event_id"]: row["event_type"] for row in await conn.fetch("SELECT * FROM outbox")}
    assert not truncated
    moves = [step for step in steps if step.kind == "moved"]
    assert [(step.what, step.status, step.note) for step in moves] == [
        ("placed", "PLACED", None),
        ("cancel_asked", "CLOSING", "found it cheaper"),
        ("payable_cancelled", "CANCELLED", None),
        ("late_money_kept", "PAID", None),
    ]
    assert {step.event_id: step.event_type for step in moves} == sent
    assert moves[-1].causation_id == str(late.id)
    (heard,) = [step for step in steps if step.kind == "heard"]
    assert (heard.what, heard.event_id, heard.status) == ("payment.paid_late.v1", late.id, "PAID_LATE")
    assert (heard.subject, heard.amount_minor, heard.currency) == (late.data.payment_id, 300, "CNY")


async def act(service: Service, order: dict[str, Any], verb: str, **how: Any) -> tuple[int, Any]:  # noqa: ANN401
    body = {} if verb == "cancel" and "body" not in how else how.pop("body", None)
    by = how.pop("by", None)
    answer = await service.call("POST", f"/v1/orders/{order['order_id']}/{verb}", by=by, body=body, **how)
    return answer.status, answer.body


async def test_merchant_and_customer_cancel_over_http(service: Service) -> None:
    one = (await service.place(order_body("no-1"))).body
    two = (await service.place(order_body("no-2"))).body
    answers = await asyncio.gather(*(act(service, one, "cancel", by=service.one) for _ in range(20)))
    assert {(status, body["status"], body["closing_reason"]) for status, body in answers} == {
        (200, "CLOSING", "merchant")
    }
    bearer = {"Authorization": f"Bearer {two['payment_token']}"}
    assert (await act(service, one, "cancel", headers=bearer))[0] == 404
    status, body = await act(service, two, "cancel", headers=bearer, body={"reason": "no longer needed"})
    assert (status, body["status"], body["closing_reason"]) == (200, "CLOSING", "customer")
    forged = {"Authorization": f"Bearer {two['payment_token'][:-4]}AAAA"}
    assert (await act(service, two, "cancel", headers=forged))[0] == 401
    assert (await act(service, two, "cancel", by=service.other))[0] == 404
    assert (await act(service, two, "cancel", by=service.reader))[0] == 403
    status, body = await act(service, two, "cancel", by=service.one, body={"reason": "x" * 201})
    assert (status, body["field"]) == (422, "reason")
    shown = await service.call("GET", f"/v1/orders/{two['order_id']}/timeline", by=service.one)
    assert [(step["what"], step["note"]) for step in shown.body["data"]] == [
        ("placed", None),
        ("cancel_asked", "no longer needed"),
    ]
    assert {step["event_type"] for step in shown.body["data"]} == {"order.placed.v1", "order.closing.v1"}
    hidden = await service.call("GET", f"/v1/orders/{two['order_id']}/timeline", by=service.other)
    assert hidden.status == 404


async def test_a_cancelled_number_is_refused_by_the_other_door_and_paid_orders_are_fulfilled(service: Service) -> None:
    merchant_id = service.one.merchant_id
    await cancel(service.database, by_number("no-1", merchant_id=merchant_id))
    refused = await service.place(order_body("no-1"))
    assert (refused.status, refused.body["code"], refused.body["field"]) == (
        409,
        "order_cancelled",
        "merchant_order_no",
    )
    found = (await service.call("GET", "/v1/orders?merchant_order_no=no-1", by=service.one)).body["data"]
    assert [(order["status"], order["amount_minor"]) for order in found] == [("CANCELLED", 0)]
    free = order_body("no-2", amount_minor=0)
    free["items"] = [{"sku": "s", "title": "Sample", "quantity": 1, "unit_amount_minor": 5, "discount_minor": 5}]
    order = (await service.place(free)).body
    status, body = await act(service, order, "cancel", by=service.one)
    assert (status, body["code"]) == (409, "invalid_state")
    for _ in range(2):
        status, body = await act(service, order, "fulfil", by=service.one)
        assert (status, body["status"]) == (200, "FULFILLED")
    waiting = (await service.place(order_body("no-3"))).body
    status, body = await act(service, waiting, "fulfil", by=service.one)
    assert (status, body["code"]) == (409, "invalid_state")
