"""The life of an order on a real schema: ended by three askers and the clock, raced with its money, reopened, fulfilled."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pytest

from defray_kernel.clock import ManualClock
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, OrderId, show, uuid7
from defray_kernel.money import Money
from defray_kernel.timers import run_once
from defray_order.commands import cancel_order, end_order, expire_orders, fulfil_order, place_order, reopen_order
from defray_order.commands.cancel_order import CancelOrder
from defray_order.commands.fulfil_order import FulfilOrder
from defray_order.commands.place_order import Cancelled, Outcome, PlaceOrder
from defray_order.commands.told import Told
from defray_order.domain.order import Order, OrderItem
from defray_order.entrypoints import consumers
from defray_order.entrypoints.timers import expiry_timer
from defray_order.store import orders, refund_requests, timelines

from .given import NOW
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

CAUSE = Cause(correlation_id="c" * 32, causation_id="because")


async def cancel(database: Database, *commands: CancelOrder) -> list[cancel_order.Outcome]:
    async with database.transaction() as tx:
        return await cancel_order.handle(commands, tx, CLOCK)


def wish(order_id: OrderId, by: cancel_order.By = "merchant", **changes: Any) -> CancelOrder:  # noqa: ANN401
    facts: dict[str, Any] = {"merchant_id": MERCHANT, "order_id": order_id, "by": by, "cause": CAUSE}
    return CancelOrder(**(facts | changes))


def by_number(number: str, **changes: Any) -> CancelOrder:  # noqa: ANN401
    facts: dict[str, Any] = {"merchant_order_no": number, "by": "merchant", "tombstone_currency": "CNY", "cause": CAUSE}
    return CancelOrder(**({"merchant_id": MERCHANT} | facts | changes))


async def closed(database: Database, order_id: OrderId, reason: Any = "merchant") -> None:  # noqa: ANN401
    data = v1.PayableClosed(
        order_id=show("ord", order_id), merchant_id=show("mer", MERCHANT), reason=reason, closed_at=NOW
    )
    async with database.transaction() as tx:
        await end_order.handle([event(data)], tx, CLOCK)


@pytest.mark.parametrize("by", ["merchant", "customer", "system"])
async def test_a_cancel_is_asked_once_and_told_with_its_asker(database: Database, by: cancel_order.By) -> None:
    order_id = await placed(database)
    for _ in range(3):
        (outcome,) = await cancel(database, wish(order_id, by, reason="changed my mind"))
        assert isinstance(outcome, cancel_order.Asked)
        assert (outcome.order.state, outcome.order.closing_reason) == ("CLOSING", by)
    assert await told(database) == [("order.placed.v1", 1), ("order.closing.v1", 2)]
    await closed(database, order_id, by)
    (outcome,) = await cancel(database, wish(order_id, by))
    assert isinstance(outcome, cancel_order.Asked)
    assert (await state(database, order_id), await reasons(database)) == ("CANCELLED", [])
    assert (await history(database, order_id))[1:] == [
        ("PLACED", "CLOSING", "cancel_asked"),
        ("CLOSING", "CANCELLED", "payable_cancelled"),
    ]


async def test_a_paid_order_is_not_cancelled_and_nothing_is_opened_for_it(database: Database) -> None:
    order_id = await placed(database)
    await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))
    (outcome,) = await cancel(database, wish(order_id))
    assert isinstance(outcome, cancel_order.Refused)
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])


async def test_what_belongs_to_others_or_is_not_there_is_unknown(database: Database) -> None:
    order_id = await placed(database)
    strangers = [
        wish(order_id, merchant_id=MerchantId(uuid7())),
        wish(OrderId(uuid7())),
        by_number("never", tombstone_currency=None),
    ]
    for each in strangers:
        assert await cancel(database, each) == [cancel_order.Unknown()]
    assert (await state(database, order_id), len(await told(database))) == ("PLACED", 1)


@pytest.mark.parametrize("first", ["paid", "asked"])
async def test_cancel_and_payment_whichever_comes_first_the_money_decides(
    database: Database, first: Literal["paid", "asked"]
) -> None:
    order_id = await placed(database)
    paid = event(payment(v1.PaymentSucceeded, order_id))
    if first == "paid":
        await mark_paid(database, paid)
    (outcome,) = await cancel(database, wish(order_id))
    assert isinstance(outcome, cancel_order.Refused if first == "paid" else cancel_order.Asked)
    await mark_paid(database, paid)
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])


async def test_cancels_expiry_and_payments_raced_on_real_locks_leave_every_order_paid_once(database: Database) -> None:
    ids = [await placed(database) for _ in range(24)]
    late = ManualClock(NOW + dt.timedelta(hours=3))

    async def expire() -> None:
        await run_once(database, expiry_timer(late, lambda: None), late)

    async def pay(order_id: OrderId) -> None:
        await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))

    work = [pay(each) for each in ids] + [cancel(database, wish(each)) for each in ids] + [expire() for _ in range(6)]
    await asyncio.gather(*work)
    assert {await state(database, each) for each in ids} == {"PAID"}
    kinds = Counter(kind for kind, _ in await told(database))
    assert (kinds["order.placed.v1"], kinds["order.paid.v1"]) == (24, 24)
    assert await reasons(database) == []


def wished(number: str, **changes: Any) -> PlaceOrder:  # noqa: ANN401
    facts: dict[str, Any] = {
        "order_id": OrderId(uuid7()),
        "merchant_id": MERCHANT,
        "merchant_order_no": number,
        "total": Money(minor=300, currency="CNY"),
        "items": (OrderItem(sku="a", title="A", quantity=1, unit_amount_minor=300, discount_minor=0),),
        "expires_in": dt.timedelta(hours=2),
        "content_hash": b"\1" * 32,
        "idempotency_key": None,
        "request_hash": b"",
        "cause": CAUSE,
    }
    return PlaceOrder(**(facts | changes))


async def place(database: Database, *commands: PlaceOrder) -> list[Outcome]:
    async with database.transaction() as tx:
        return await place_order.handle(commands, tx, CLOCK)


async def test_a_cancel_that_comes_before_its_order_keeps_it_from_life(database: Database) -> None:
    for _ in range(2):
        (outcome,) = await cancel(database, by_number("no-1", reason="never mind"))
        assert isinstance(outcome, cancel_order.Asked)
        assert (outcome.order.state, outcome.order.total.minor, outcome.order.items) == ("CANCELLED", 0, ())
    refused, other = await place(database, wished("no-1"), wished("no-2"))
    assert (refused, isinstance(other, Told)) == (Cancelled(), True)
    assert await place(database, wished("no-1")) == [Cancelled()]
    assert Counter(await told(database)) == Counter([("order.cancelled.v1", 1), ("order.placed.v1", 1)])


async def test_a_cancel_by_number_ends_the_order_that_is_there(database: Database) -> None:
    (done,) = await place(database, wished("no-1"))
    assert isinstance(done, Told)
    (outcome,) = await cancel(database, by_number("no-1"))
    assert isinstance(outcome, cancel_order.Asked)
    assert (outcome.order.state, outcome.order.total.minor) == ("CLOSING", 300)


async def test_an_order_and_its_cancel_at_once_end_in_one_of_two_ways(database: Database) -> None:
    async def both(number: str) -> tuple[Outcome, cancel_order.Outcome]:
        (done,), (ended,) = await asyncio.gather(place(database, wished(number)), cancel(database, by_number(number)))
        return done, ended

    results = await asyncio.gather(*(both(f"no-{n}") for n in range(40)))
    ways = set()
    for done, ended in results:
        assert isinstance(ended, cancel_order.Asked)
        ways.add((type(done), ended.order.state))
    assert ways <= {(Told, "CLOSING"), (Cancelled, "CANCELLED")}
    async with database.read() as conn:
        alive = await conn.fetchval("SELECT count(*) FROM orders WHERE state NOT IN ('CLOSING', 'CANCELLED')")
        assert (await conn.fetchval("SELECT count(*) FROM orders"), alive) == (40, 0)


async def expire(database: Database, clock: ManualClock) -> int:
    return await run_once(database, expiry_timer(clock, lambda: None), clock)


async def test_orders_expire_when_their_time_is_up_and_not_before(database: Database) -> None:
    ids = [await placed(database) for _ in range(5)]
    await mark_paid(database, event(payment(v1.PaymentSucceeded, ids[0])))
    await cancel(database, wish(ids[1]))
    clock = ManualClock(NOW + dt.timedelta(hours=2, microseconds=-1))
    assert await expire(database, clock) == 0
    clock.advance(dt.timedelta(microseconds=1))
    assert await expire(database, clock) == 3
    assert await expire(database, clock) == 0
    assert [await state(database, each) for each in ids] == ["PAID", "CLOSING", "CLOSING", "CLOSING", "CLOSING"]
    assert (await history(database, ids[2]))[1:] == [("PLACED", "CLOSING", "expiry_due")]
    async with database.read() as conn:
        asked = await orders.get(conn, ids)
    assert [asked[each].closing_reason for each in ids[1:]] == ["merchant", "expired", "expired", "expired"]


async def test_many_are_taken_in_batches_by_several_workers_each_once(database: Database) -> None:
    for _ in range(3):
        await place(database, *(wished(uuid7().hex) for _ in range(150)))
    clock = ManualClock(NOW + dt.timedelta(days=1))
    done = 0
    while taken := sum(await asyncio.gather(*(expire(database, clock) for _ in range(4)))):
        done += taken
    assert done == 450
    assert Counter(kind for kind, _ in await told(database)) == {"order.placed.v1": 450, "order.closing.v1": 450}


async def test_an_order_that_somebody_works_on_is_left_for_the_next_look(database: Database) -> None:
    held, free = await placed(database), await placed(database)
    async with database.transaction() as tx:
        await orders.lock(tx, [held])
        async with database.transaction() as other:
            late = NOW + dt.timedelta(hours=2)
            assert await expire_orders.handle(late, other, CLOCK, limit=10) == [free]
    assert (await state(database, held), await state(database, free)) == ("PLACED", "CLOSING")


@pytest.mark.parametrize("first", ["paid", "due"])
async def test_expiry_and_payment_whichever_comes_first_the_money_decides(
    database: Database, first: Literal["paid", "due"]
) -> None:
    order_id = await placed(database)
    clock = ManualClock(NOW + dt.timedelta(hours=2))
    paid = event(payment(v1.PaymentSucceeded, order_id))
    if first == "paid":
        await mark_paid(database, paid)
    await expire(database, clock)
    assert await state(database, order_id) == ("PAID" if first == "paid" else "CLOSING")
    await mark_paid(database, paid)
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])


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
