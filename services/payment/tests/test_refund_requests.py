"""The order service's requests on a real database: one answer each, the same amounts as refunds asked at the API."""

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest

from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.contracts.order_v1 import OrderClosing, OrderPlaced, OrderRefundRequested
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.errors import Poison
from defray_kernel.ids import show, uuid7
from defray_payment.commands import project_order, take_refund_requests
from defray_payment.domain.payable import OrderTerms
from defray_payment.domain.payment import Payment, PaymentStatus
from defray_payment.domain.refund import Refund
from defray_payment.domain.reports import RefundReport, Report
from defray_payment.store import refunds

from .given import NOW, PRICE, ask, callback, order_event, refund_report, report, terms
from .world import World


@pytest.fixture
def world(database: Database, envelope: Envelope) -> World:
    return World(database, envelope)


def wish(of: OrderTerms, payment: Payment, amount_minor: int, **changes: object) -> Event[OrderRefundRequested]:
    facts: dict[str, Any] = {
        "refund_request_id": show("rrq", uuid7()),
        "refund_payment_id": show("pay", payment.payment_id),
        "refund_minor": amount_minor,
        "refund_reason": "merchant",
        "refund_note": "one shirt returned",
        "refund_lines": [],
        "status": "PAID",
    }
    return order_event(OrderRefundRequested, of, 5, **(facts | changes))


async def hear(world: World, *events: Event[OrderRefundRequested]) -> None:
    async with world.database.transaction() as tx:
        await project_order.lock(events, tx)
        await take_refund_requests.handle(events, tx, world.clock)


async def made(world: World, refund_no: str) -> Refund:
    async with world.database.transaction() as tx:
        return (await refunds.by_numbers(tx, [refund_no]))[refund_no]


async def kept_late(world: World, of: OrderTerms) -> Payment:
    """Money that came after the order had ended, of a merchant that lets the order service decide about it."""
    begun = await world.opened(of)
    state = MerchantState(
        merchant_id=show("mer", of.merchant_id),
        name="Shop",
        status="ACTIVE",
        mode="test",
        currencies=["CNY"],
        api_keys=[],
        changed_at=NOW,
        late_money="reopen",
    )
    async with world.database.transaction() as tx:
        await tx.execute(
            "INSERT INTO merchant (merchant_id, sequence, status, state, changed_at) VALUES ($1, 1, 'ACTIVE', $2, $3)",
            of.merchant_id,
            msgspec.json.encode(state),
            NOW,
        )
    await world.hear(order_event(OrderPlaced, of, 1), order_event(OrderClosing, of, 2))
    number = begun.attempt.attempt_no
    await world.apply(report(Report.CLOSED, number))
    (applied,) = await world.apply(callback(number, "late"))
    assert applied.payment is not None
    assert applied.payment.status is PaymentStatus.PAID_LATE
    return applied.payment


async def refusals(world: World) -> list[str]:
    return [row[0] for row in await world.rows("SELECT code FROM refund_refusal ORDER BY code")]


async def test_a_request_becomes_one_refund_whatever_is_told_again(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    asked = wish(of, paid, 900)
    for _ in range(3):
        await hear(world, asked)
    assert await world.refunds() == [("merchant", "REQUESTED", 900)]
    assert await world.sums(paid) == (900, 0)
    assert [type_ for type_, _ in await world.told(of)].count("refund.requested") == 1
    ((note, cause, told),) = await world.rows(
        "SELECT r.note, t.cause, convert_from(o.payload, 'UTF8') FROM refund r JOIN refund_transition t USING (refund_id)"
        " JOIN outbox o ON o.event_type = 'refund.requested.v1'"
    )
    assert (note, cause) == ("one shirt returned", str(asked.id))
    assert asked.data.refund_request_id in told
    # It is due at once, and nothing was sent: its first call is a first call.
    assert len(await world.claim_refunds(10)) == 1


async def test_what_cannot_go_back_is_refused_once_with_a_stable_code(world: World) -> None:
    of, other = terms(), terms()
    paid, unpaid = await world.paid(of), (await world.opened(other)).payment
    too_much = wish(of, paid, PRICE.minor + 1)
    for _ in range(2):
        await hear(world, too_much)
    await hear(world, wish(other, unpaid, 1))
    await hear(world, wish(of, unpaid, 1))
    await hear(world, wish(of, paid, 1, merchant_id=show("mer", uuid7())))
    await hear(world, wish(of, paid, 1, currency="JPY"))
    await hear(world, wish(of, paid, 1, refund_payment_id=show("pay", uuid7())))
    world.clock.advance(dt.timedelta(days=366))
    await hear(world, wish(of, paid, 1))
    assert await refusals(world) == [
        "payment_not_paid", "payment_unknown", "payment_unknown", "payment_unknown", "payment_unknown",
        "refund_exceeds_paid", "refund_window_over",
    ]  # fmt: skip
    assert (await world.refunds(), await world.sums(paid)) == ([], (0, 0))
    told = [row for row in await world.told(of) if row[0] == "refund.refused"]
    assert told == [("refund.refused", 1)] * 6


async def test_a_batch_answers_orders_that_can_and_orders_that_cannot(world: World) -> None:
    orders = [terms() for _ in range(6)]
    paid = [await world.paid(of) for of in orders]
    amounts = [PRICE.minor + 1, 100] * 3
    await hear(world, *(wish(of, each, minor) for of, each, minor in zip(orders, paid, amounts, strict=True)))
    assert await refusals(world) == ["refund_exceeds_paid"] * 3
    assert await world.refunds() == [("merchant", "REQUESTED", 100)] * 3


async def test_twenty_requests_and_twenty_asks_at_once_never_exceed_what_was_paid(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    share = PRICE.minor // 10
    await asyncio.gather(
        *(hear(world, wish(of, paid, share)) for _ in range(20)),
        *(world.ask_refund(ask(paid, share)) for _ in range(20)),
    )
    assert len(await world.refunds()) == 10
    assert await world.sums(paid) == (share * 10, 0)


async def test_a_request_that_failed_at_the_channel_gives_its_amount_free_and_is_not_made_again(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    asked = wish(of, paid, PRICE.minor)
    await hear(world, asked)
    ((refund_no,),) = await world.rows("SELECT refund_no FROM refund")
    await world.hear_of_refund(refund_report(await made(world, refund_no), RefundReport.FAILED))
    await hear(world, asked)
    assert (await world.refunds(), await world.sums(paid)) == ([("merchant", "FAILED", PRICE.minor)], (0, 0))
    await hear(world, wish(of, paid, PRICE.minor))
    assert [status for _, status, _ in await world.refunds()] == ["FAILED", "REQUESTED"]


async def test_late_money_that_was_kept_goes_back_on_request_once(world: World) -> None:
    of = terms()
    late = await kept_late(world, of)
    assert await world.refunds() == []
    await hear(world, wish(of, late, PRICE.minor, refund_reason="late_money", status="EXPIRED"))
    assert await world.refunds() == [("late", "REQUESTED", PRICE.minor)]
    ((refund_no,),) = await world.rows("SELECT refund_no FROM refund")
    await world.hear_of_refund(refund_report(await made(world, refund_no), RefundReport.FAILED))
    assert await world.cases() == ["send_back_failed"]
    await hear(world, wish(of, late, PRICE.minor, refund_reason="late_money", status="EXPIRED"))
    assert await refusals(world) == ["sent_back_before"]


async def test_what_names_nothing_is_poison(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    for changes in ({"refund_request_id": "rrq_1"}, {"refund_payment_id": "x"}, {"refund_minor": 0}):
        with pytest.raises(Poison):
            await hear(world, wish(of, paid, 1, **changes))
