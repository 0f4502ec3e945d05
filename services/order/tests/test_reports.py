"""Reports of the payment service on a real schema: once each, in any repetition, and cases for what does not fit."""

import datetime as dt
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest

from defray_kernel.clock import ManualClock
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause, Event, EventData
from defray_kernel.db import Database
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import MerchantId, OrderId, show, uuid7
from defray_kernel.money import Money
from defray_order.commands import (
    end_order,
    mark_order_paid,
    mark_order_refunded,
    place_order,
    project_payment,
    project_refund,
)
from defray_order.commands.place_order import PlaceOrder
from defray_order.domain.order import OrderItem
from defray_order.entrypoints import consumers
from defray_order.store import cases, order_payments, order_refunds, orders

from .given import NOW

CLOCK = ManualClock(NOW)
MERCHANT = MerchantId(uuid7())
E = TypeVar("E", bound=EventData)


async def placed(database: Database, *, minor: int = 300) -> OrderId:
    """A new order in the database."""
    order_id = OrderId(uuid7())
    command = PlaceOrder(
        order_id=order_id,
        merchant_id=MERCHANT,
        merchant_order_no=order_id.hex,
        total=Money(minor=minor, currency="CNY"),
        items=(OrderItem(sku="a", title="A", quantity=1, unit_amount_minor=minor, discount_minor=0),),
        expires_in=dt.timedelta(hours=2),
        content_hash=bytes(32),
        idempotency_key=order_id.hex,
        request_hash=bytes(32),
        cause=Cause(correlation_id="c" * 32),
    )
    async with database.transaction() as tx:
        await place_order.handle([command], tx, CLOCK)
    return order_id


def event(data: E, sequence: int = 1) -> Event[E]:
    order_id: str = data.order_id  # type: ignore[attr-defined]
    return Event(
        id=uuid7(),
        source="/payment",
        subject="pay",
        key=order_id,
        sequence=sequence,
        time=NOW,
        correlation_id="c" * 32,
        causation_id=None,
        traceparent=None,
        data=data,
    )


def payment(type_: type[E], order: OrderId, **changes: object) -> E:
    facts: dict[str, Any] = {
        "payment_id": show("pay", uuid7()),
        "order_id": show("ord", order),
        "merchant_id": show("mer", MERCHANT),
        "status": "SUCCEEDED",
        "amount_minor": 300,
        "currency": "CNY",
        "channel": "wechat",
        "product": "native",
        "attempt_no": "A" * 26,
        "created_at": NOW,
        "expires_at": NOW,
        "paid_minor": 300,
        "paid_at": NOW,
    }
    return type_(**(facts | changes))


async def mark_paid(database: Database, *events: Event[v1.PaymentSucceeded]) -> None:
    async with database.transaction() as tx:
        await consumers.lock_orders(events, tx)
        await mark_order_paid.handle(events, tx, CLOCK)


async def told(database: Database) -> list[tuple[str, int]]:
    """Types and sequences in the outbox, per order in sequence."""
    async with database.read() as conn:
        rows = await conn.fetch("SELECT event_type, aggregate_seq FROM outbox ORDER BY aggregate_id, id")
    return [(row["event_type"], row["aggregate_seq"]) for row in rows]


async def history(database: Database, order_id: OrderId) -> list[tuple[str | None, str, str | None]]:
    async with database.read() as conn:
        rows = await conn.fetch(
            "SELECT from_state, to_state, report FROM order_transition WHERE order_id = $1 ORDER BY version", order_id
        )
    return [tuple(row) for row in rows]


async def reasons(database: Database) -> list[str]:
    async with database.read() as conn:
        return sorted(case.reason for case in await cases.list_open(conn, after=UUID(int=0), limit=100))


async def state(database: Database, order_id: OrderId) -> str:
    async with database.read() as conn:
        return (await orders.get(conn, [order_id]))[order_id].state


async def test_a_payment_told_three_times_marks_the_order_paid_once(database: Database) -> None:
    order_id = await placed(database)
    once = event(payment(v1.PaymentSucceeded, order_id))
    for _ in range(3):
        await mark_paid(database, once)
    assert await state(database, order_id) == "PAID"
    assert await told(database) == [("order.placed.v1", 1), ("order.paid.v1", 2)]
    assert await history(database, order_id) == [
        (None, "PLACED", None),
        ("PLACED", "PAID", "payment_succeeded"),
    ]
    assert await reasons(database) == []


async def test_a_batch_moves_all_its_orders(database: Database) -> None:
    ids = [await placed(database) for _ in range(40)]
    await mark_paid(database, *(event(payment(v1.PaymentSucceeded, order_id)) for order_id in ids))
    assert {await state(database, order_id) for order_id in ids} == {"PAID"}
    assert sorted(await told(database)) == [("order.paid.v1", 2)] * 40 + [("order.placed.v1", 1)] * 40


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"paid_minor": 299}, "amount_mismatch"),
        ({"paid_minor": None, "amount_minor": 301}, "amount_mismatch"),
        ({"currency": "JPY"}, "currency_mismatch"),
        ({"merchant_id": show("mer", uuid7())}, "merchant_mismatch"),
    ],
)
async def test_what_does_not_fit_opens_one_case(database: Database, changes: dict[str, Any], reason: str) -> None:
    order_id = await placed(database)
    wrong = event(payment(v1.PaymentSucceeded, order_id, **changes))
    await mark_paid(database, wrong)
    await mark_paid(database, wrong)
    assert (await state(database, order_id), await reasons(database)) == ("PLACED", [reason])
    assert await told(database) == [("order.placed.v1", 1)]


async def test_a_second_payment_that_claims_success_opens_a_case(database: Database) -> None:
    order_id = await placed(database)
    await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))
    await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))
    assert (await state(database, order_id), await reasons(database)) == ("PAID", ["paid_by_another"])


async def test_an_unknown_order_waits_and_a_bad_id_is_poison(database: Database) -> None:
    with pytest.raises(RetryLater):
        await mark_paid(database, event(payment(v1.PaymentSucceeded, OrderId(uuid7()))))
    with pytest.raises(Poison):
        await mark_paid(database, event(payment(v1.PaymentSucceeded, OrderId(uuid7()), order_id="ord_1")))


async def test_the_payments_copy_follows_the_sequence_not_the_order_of_arrival(database: Database) -> None:
    order_id = await placed(database)
    payment_id = show("pay", uuid7())

    async def tell(type_: type[Any], sequence: int, **changes: object) -> None:
        data = payment(type_, order_id, payment_id=payment_id, **changes)
        async with database.transaction() as tx:
            await project_payment.handle([event(data, sequence)], tx, CLOCK)

    await tell(v1.PaymentPending, 2, status="PENDING", paid_minor=None, paid_at=None)
    await tell(v1.PaymentCreated, 1, status="CREATED", paid_minor=None, paid_at=None)
    async with database.read() as conn:
        (known,) = await order_payments.of_orders(conn, [order_id])
    assert (known.status, known.sequence, known.paid_minor) == ("PENDING", 2, None)
    await tell(v1.PaymentPaidLate, 5, status="PAID_LATE")
    await tell(v1.PaymentClosed, 4, status="CLOSED", paid_minor=None, paid_at=None)
    async with database.read() as conn:
        (known,) = await order_payments.of_orders(conn, [order_id])
    assert (known.status, known.sequence, known.paid_minor) == ("PAID_LATE", 5, 300)
    assert (await state(database, order_id), await reasons(database)) == ("PLACED", [])


@pytest.mark.parametrize(("reason", "end"), [("customer", "CANCELLED"), ("expired", "EXPIRED")])
async def test_a_closing_order_ends_as_the_payable_did(database: Database, reason: Any, end: str) -> None:  # noqa: ANN401
    order_id = await placed(database)
    async with database.transaction() as tx:
        found = (await orders.get_for_update(tx, [order_id]))[order_id]
        closing = msgspec.structs.replace(
            found, state=type(found.state)("CLOSING"), closing_reason="customer", version=2, event_seq=2
        )
        await orders.move(tx, [closing])
    closed = v1.PayableClosed(
        order_id=show("ord", order_id), merchant_id=show("mer", MERCHANT), reason=reason, closed_at=NOW
    )
    for _ in range(2):
        async with database.transaction() as tx:
            await end_order.handle([event(closed)], tx, CLOCK)
    assert (await state(database, order_id), await reasons(database)) == (end, [])
    assert (await told(database))[-1] == (f"order.{end.lower()}.v1", 3)


async def test_a_closed_payable_of_an_open_order_is_a_case(database: Database) -> None:
    order_id = await placed(database)
    closed = v1.PayableClosed(
        order_id=show("ord", order_id), merchant_id=show("mer", MERCHANT), reason="system", closed_at=NOW
    )
    async with database.transaction() as tx:
        await end_order.handle([event(closed)], tx, CLOCK)
    assert (await state(database, order_id), await reasons(database)) == ("PLACED", ["not_closing"])


def refund(type_: type[E], of: v1.PaymentSucceeded, *, amount: int, total: int, **changes: object) -> E:
    facts: dict[str, Any] = {
        "refund_id": show("rfd", uuid7()),
        "payment_id": of.payment_id,
        "order_id": of.order_id,
        "merchant_id": of.merchant_id,
        "status": "SUCCEEDED",
        "reason": "merchant",
        "amount_minor": amount,
        "currency": "CNY",
        "channel": "wechat",
        "refund_no": "R" * 26,
        "requested_at": NOW,
        "payment_refunded_minor": total,
        "done_at": NOW,
    }
    return type_(**(facts | changes))


async def mark_refunded(database: Database, data: v1.RefundSucceeded, sequence: int = 2) -> None:
    async with database.transaction() as tx:
        await mark_order_refunded.handle([event(data, sequence)], tx, CLOCK)


async def test_money_goes_back_in_parts_until_the_order_is_refunded(database: Database) -> None:
    order_id = await placed(database)
    paid = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(database, event(paid))
    first = refund(v1.RefundSucceeded, paid, amount=100, total=100)
    second = refund(v1.RefundSucceeded, paid, amount=50, total=150)
    rest = refund(v1.RefundSucceeded, paid, amount=150, total=300)
    for data in (first, first, second, first, rest, second, rest):
        await mark_refunded(database, data)
    assert (await state(database, order_id), await reasons(database)) == ("REFUNDED", [])
    assert await told(database) == [
        ("order.placed.v1", 1), ("order.paid.v1", 2),
        ("order.refunded.v1", 3), ("order.refunded.v1", 4), ("order.refunded.v1", 5),
    ]  # fmt: skip
    assert (await history(database, order_id))[2:] == [
        ("PAID", "PARTIALLY_REFUNDED", "money_refunded"),
        ("PARTIALLY_REFUNDED", "PARTIALLY_REFUNDED", "money_refunded"),
        ("PARTIALLY_REFUNDED", "REFUNDED", "money_refunded"),
    ]
    async with database.read() as conn:
        known = await order_refunds.of_orders(conn, [order_id])
        order = (await orders.get(conn, [order_id]))[order_id]
    assert (sorted(each.amount.minor for each in known), order.refunded_minor) == ([50, 100, 150], 300)


async def test_money_of_another_payment_going_back_leaves_the_order_paid(database: Database) -> None:
    order_id = await placed(database)
    await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))
    second = payment(v1.PaymentSucceeded, order_id)
    await mark_refunded(database, refund(v1.RefundSucceeded, second, amount=300, total=300, reason="duplicate"))
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])
    async with database.read() as conn:
        (known,) = await order_refunds.of_orders(conn, [order_id])
    assert (known.status, known.reason) == ("SUCCEEDED", "duplicate")


async def test_the_refunds_copy_follows_the_sequence_not_the_order_of_arrival(database: Database) -> None:
    order_id = await placed(database)
    paid = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(database, event(paid))
    refund_id = show("rfd", uuid7())

    async def tell(type_: type[Any], sequence: int, status: str) -> str:
        data = refund(type_, paid, amount=9, total=0, refund_id=refund_id, status=status, done_at=None)
        async with database.transaction() as tx:
            await project_refund.handle([event(data, sequence)], tx, CLOCK)
        async with database.read() as conn:
            (known,) = await order_refunds.of_orders(conn, [order_id])
        return known.status

    assert await tell(v1.RefundAbnormal, 2, "ABNORMAL") == "ABNORMAL"
    assert await tell(v1.RefundRequested, 1, "REQUESTED") == "ABNORMAL"
    assert await tell(v1.RefundFailed, 3, "FAILED") == "FAILED"


async def test_more_going_back_than_the_order_cost_is_a_case(database: Database) -> None:
    order_id = await placed(database)
    paid = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(database, event(paid))
    await mark_refunded(database, refund(v1.RefundSucceeded, paid, amount=301, total=301))
    assert (await state(database, order_id), await reasons(database)) == ("PAID", ["refund_exceeds_total"])
    with pytest.raises(Poison):
        await mark_refunded(database, refund(v1.RefundSucceeded, paid, amount=1, total=1, payment_id="pay_1"))
