"""Every (state, report) pair has one defined answer; identity and amounts come before repeats and legality."""

import datetime as dt
import itertools

import msgspec
import pytest

from defray_kernel.ids import MerchantId, PaymentId, uuid7
from defray_kernel.money import Money
from defray_order import announce
from defray_order.domain import totals
from defray_order.domain.order import (
    HOLDS_MONEY,
    Decision,
    Moved,
    OrderItem,
    OrderState,
    Refusal,
    Refused,
    Repeated,
    Report,
    Reported,
    decide,
)

from .given import MERCHANT, NOW, PAYMENT, order

PAID, FULFILLED = OrderState.PAID, OrderState.FULFILLED
SUCCEEDED, CANCELLED, EXPIRED = Report.PAYMENT_SUCCEEDED, Report.PAYABLE_CANCELLED, Report.PAYABLE_EXPIRED
REFUNDED, LATE = Report.MONEY_REFUNDED, Report.LATE_MONEY_KEPT

# Rows are states, columns the reports: a state name = moves there, "=" = repeated, else the refusal. The refund's sum is
# 2.00 of 3.00; of an order that its payment did not pay it says nothing. Time is up where expiry is claimed.
TABLE = """
                    nothing_due      payment_succeeded  payable_cancelled  payable_expired  money_refunded
PLACED              PAID             PAID               not_closing        not_closing      =
CLOSING             not_closing      PAID               CANCELLED          EXPIRED          =
PAID                paid_by_another  =                  already_paid       already_paid     PARTIALLY_REFUNDED
FULFILLED           paid_by_another  =                  already_paid       already_paid     PARTIALLY_REFUNDED
PARTIALLY_REFUNDED  paid_by_another  =                  already_paid       already_paid     PARTIALLY_REFUNDED
REFUNDED            paid_by_another  =                  already_paid       already_paid     =
CANCELLED           already_ended    already_ended      =                  already_ended    =
EXPIRED             already_ended    already_ended      already_ended      =                =

                    cancel_asked     expiry_due         fulfilled           late_money_kept
PLACED              CLOSING          CLOSING            not_paid            not_ended
CLOSING             =                =                  not_paid            not_ended
PAID                already_paid     =                  FULFILLED           =
FULFILLED           already_paid     =                  =                   =
PARTIALLY_REFUNDED  already_paid     =                  PARTIALLY_REFUNDED  =
REFUNDED            already_paid     =                  nothing_left        =
CANCELLED           =                =                  already_ended       PAID
EXPIRED             =                =                  already_ended       PAID
"""


def reported(report: Report) -> Reported:
    ends = {CANCELLED: "customer", EXPIRED: "expired", Report.CANCEL_ASKED: "merchant", Report.EXPIRY_DUE: "expired"}
    minor = {SUCCEEDED: 300, REFUNDED: 200, LATE: 300}.get(report)
    return Reported(
        report=report,
        merchant_id=MERCHANT,
        at=NOW + dt.timedelta(hours=2),
        money=None if minor is None else Money(minor=minor, currency="CNY"),
        payment_id=None if minor is None else PAYMENT,
        reason=ends.get(report),  # type: ignore[arg-type]
    )


def _expected() -> dict[tuple[OrderState, Report], str]:
    answers: dict[tuple[OrderState, Report], str] = {}
    for part in TABLE.strip().split("\n\n"):
        head, *rows = [line.split() for line in part.strip().splitlines()]
        for state, *told in rows:
            answers |= {(OrderState(state), Report(report)): word for report, word in zip(head, told, strict=True)}
    return answers


def _told(decision: Decision) -> str:
    match decision:
        case Moved(order=moved):
            return moved.state
        case Repeated():
            return "="
        case Refused(reason=reason):
            return reason


@pytest.mark.parametrize(("state", "report"), list(itertools.product(OrderState, Report)))
def test_every_pair_has_one_defined_answer(state: OrderState, report: Report) -> None:
    assert _told(decide(order(state), reported(report))) == _expected()[state, report]


@pytest.mark.parametrize(("state", "report"), list(itertools.product(OrderState, Report)))
def test_a_move_counts_once_and_keeps_what_the_order_is(state: OrderState, report: Report) -> None:
    before = order(state)
    match decide(before, reported(report)):
        case Moved(order=after):
            assert after.version == before.version + 1
            assert (after.paid_at is not None) == (after.state in HOLDS_MONEY)
            assert after.reopened == (report is LATE)
            assert (after.fulfilled_at is not None) == (before.fulfilled_at is not None or report is Report.FULFILLED)
            kept = ("order_id", "merchant_id", "total", "items", "correlation_id", "expires_at", "event_seq")
            assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
        case other:
            assert isinstance(other, (Repeated, Refused))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"merchant_id": MerchantId(uuid7()), "money": Money(minor=1, currency="USD")}, Refusal.MERCHANT_MISMATCH),
        ({"money": Money(minor=300, currency="USD")}, Refusal.CURRENCY_MISMATCH),
        ({"money": Money(minor=299, currency="CNY")}, Refusal.AMOUNT_MISMATCH),
    ],
)
@pytest.mark.parametrize("state", OrderState)
def test_identity_and_amount_come_first(state: OrderState, change: dict[str, object], reason: Refusal) -> None:
    claim = msgspec.structs.replace(reported(SUCCEEDED), **change)  # type: ignore[arg-type]
    assert decide(order(state), claim) == Refused(reason=reason)


@pytest.mark.parametrize("state", sorted(HOLDS_MONEY))
def test_a_second_payment_is_no_repeat(state: OrderState) -> None:
    claim = msgspec.structs.replace(reported(SUCCEEDED), payment_id=PaymentId(uuid7()))
    assert decide(order(state), claim) == Refused(reason=Refusal.PAID_BY_ANOTHER)


@pytest.mark.parametrize(
    ("state", "sum_minor", "told"),
    [
        (PAID, 300, "REFUNDED"),
        (PAID, 1, "PARTIALLY_REFUNDED"),
        (PAID, 0, "="),
        (PAID, 301, Refusal.REFUND_EXCEEDS_TOTAL),
        (OrderState.PARTIALLY_REFUNDED, 101, "PARTIALLY_REFUNDED"),
        (OrderState.PARTIALLY_REFUNDED, 100, "="),
        (OrderState.PARTIALLY_REFUNDED, 99, "="),
        (OrderState.PARTIALLY_REFUNDED, 300, "REFUNDED"),
        (OrderState.REFUNDED, 300, "="),
        (OrderState.REFUNDED, 301, Refusal.REFUND_EXCEEDS_TOTAL),
    ],
)
def test_the_sum_that_went_back_only_grows_and_never_beyond_the_total(
    state: OrderState, sum_minor: int, told: str
) -> None:
    before = order(state)
    decision = decide(before, msgspec.structs.replace(reported(REFUNDED), money=Money(minor=sum_minor, currency="CNY")))
    assert _told(decision) == told
    if isinstance(decision, Moved):
        kept = msgspec.structs.replace(decision.order, state=state, refunded_minor=before.refunded_minor, version=3)
        assert (decision.order.refunded_minor, kept) == (sum_minor, before)


@pytest.mark.parametrize("state", OrderState)
def test_money_of_another_payment_going_back_does_not_touch_the_order(state: OrderState) -> None:
    claim = msgspec.structs.replace(reported(REFUNDED), payment_id=PaymentId(uuid7()))
    assert decide(order(state), claim) == Repeated()


@pytest.mark.parametrize("change", [{"merchant_id": MerchantId(uuid7())}, {"money": Money(minor=1, currency="USD")}])
def test_a_refund_in_another_name_or_currency_is_refused(change: dict[str, object]) -> None:
    decision = decide(order(PAID), msgspec.structs.replace(reported(REFUNDED), **change))  # type: ignore[arg-type]
    assert isinstance(decision, Refused)
    assert decision.reason in {Refusal.MERCHANT_MISMATCH, Refusal.CURRENCY_MISMATCH}


@pytest.mark.parametrize(
    ("total", "field"),
    [(300, None), (299, "amount_minor"), (301, "amount_minor")],
)
def test_lines_add_up_to_the_minor_unit(total: int, field: str | None) -> None:
    assert totals.mismatch(order(PAID).items, total) == field


def test_a_discount_above_its_line_is_named() -> None:
    line = OrderItem(sku="a", title="A", quantity=1, unit_amount_minor=5, discount_minor=6)
    assert totals.mismatch([*order(PAID).items, line], 299) == "items[1].discount_minor"


TOLD = {
    "PLACED": "order.placed.v1",
    "CLOSING": "order.closing.v1",
    "PAID": "order.paid.v1",
    "FULFILLED": "order.fulfilled.v1",
    "PARTIALLY_REFUNDED": "order.refunded.v1",
    "REFUNDED": "order.refunded.v1",
    "CANCELLED": "order.cancelled.v1",
    "EXPIRED": "order.expired.v1",
}


@pytest.mark.parametrize("state", OrderState)
def test_every_state_has_its_line_in_announce(state: OrderState) -> None:
    data = announce.for_state(order(state))
    assert data.TYPE == TOLD[state]
    assert (data.status, data.amount_minor, data.items[0].amount_minor) == (state, 300, 300)


def test_a_fulfilment_is_told_although_refunds_keep_the_state() -> None:
    before = order(OrderState.PARTIALLY_REFUNDED)
    decision = decide(before, reported(Report.FULFILLED))
    assert isinstance(decision, Moved)
    told = announce.for_move(before, decision.order)
    assert (told.TYPE, told.status, told.fulfilled_at) == (
        "order.fulfilled.v1",
        "PARTIALLY_REFUNDED",
        NOW + dt.timedelta(hours=2),
    )
    assert announce.for_move(decision.order, decision.order).TYPE == "order.refunded.v1"


def test_expiry_is_refused_before_its_time_and_what_ended_an_order_stays_when_it_is_reopened() -> None:
    early = msgspec.structs.replace(reported(Report.EXPIRY_DUE), at=NOW + dt.timedelta(hours=2, microseconds=-1))
    assert decide(order(OrderState.PLACED), early) == Refused(reason=Refusal.NOT_DUE)
    decision = decide(order(OrderState.EXPIRED), reported(LATE))
    assert isinstance(decision, Moved)
    reopened = decision.order
    assert (reopened.closing_reason, reopened.reopened, reopened.payment_id) == ("customer", True, PAYMENT)
    # Told again, the end of the payable is old news now; a cancel is not.
    assert decide(reopened, reported(CANCELLED)) == decide(reopened, reported(EXPIRED)) == Repeated()
    assert decide(reopened, reported(Report.CANCEL_ASKED)) == Refused(reason=Refusal.ALREADY_PAID)
    other = msgspec.structs.replace(reported(LATE), payment_id=PaymentId(uuid7()))
    assert decide(reopened, other) == Refused(reason=Refusal.PAID_BY_ANOTHER)
