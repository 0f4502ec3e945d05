"""An order and the rules it moves by: states, reports, the table of legal moves, and one pure decision."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from defray_kernel.contracts.order_v1 import ClosingReason
from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import Money


class OrderState(StrEnum):
    """Where an order is; README.md draws the picture."""

    PLACED = "PLACED"
    CLOSING = "CLOSING"
    PAID = "PAID"
    FULFILLED = "FULFILLED"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


class Report(StrEnum):
    """What somebody claims about an order."""

    NOTHING_DUE = "nothing_due"  # its total is zero
    PAYMENT_SUCCEEDED = "payment_succeeded"
    PAYABLE_CANCELLED = "payable_cancelled"  # nothing can be paid any more, because somebody asked to end it
    PAYABLE_EXPIRED = "payable_expired"  # the same, because its time was up
    MONEY_REFUNDED = "money_refunded"  # so much of a payment has gone back so far
    CANCEL_ASKED = "cancel_asked"  # the merchant, the customer or an operator wants it to end unpaid
    EXPIRY_DUE = "expiry_due"  # its time is up
    FULFILLED = "fulfilled"  # all of it was granted or delivered
    LATE_MONEY_KEPT = "late_money_kept"  # it ended unpaid, its money came after that, and the merchant keeps it


class Refusal(StrEnum):
    """Why a report does not move an order; the stable code of the case it opens."""

    MERCHANT_MISMATCH = "merchant_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    AMOUNT_MISMATCH = "amount_mismatch"
    REFUND_EXCEEDS_TOTAL = "refund_exceeds_total"
    PAID_BY_ANOTHER = "paid_by_another"
    ALREADY_PAID = "already_paid"
    ALREADY_ENDED = "already_ended"
    NOT_CLOSING = "not_closing"
    NOT_DUE = "not_due"
    NOT_PAID = "not_paid"
    NOT_ENDED = "not_ended"
    NOTHING_LEFT = "nothing_left"  # all of its money has gone back
    REFUND_DIFFERS = "refund_differs"  # a refund request is told of with another amount, payment or refund
    RECALLED_IN_VAIN = "recalled_in_vain"  # grants were recalled for a refund that then was not made
    REFUND_CONTRADICTS = "refund_contradicts"  # a refund request is told to have ended otherwise than before


class OrderItem(msgspec.Struct, frozen=True, kw_only=True):
    """One line; amounts in minor units of the order's currency, the discount for the whole line."""

    sku: str
    title: str
    quantity: int
    unit_amount_minor: int
    discount_minor: int

    @property
    def amount_minor(self) -> int:
        """What the line costs."""
        return self.quantity * self.unit_amount_minor - self.discount_minor


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a merchant sells to one buyer at once. `version` moves with every write, `event_seq` with every event.

    `coupons_minor` is what coupons took off: the lines less this make the total. `refunded_minor` is what has gone back
    of the payment that paid it; both in minor units of the total's currency.
    `reopened`: it was paid after it had ended, and `closing_reason` tells what had ended it.
    """

    order_id: OrderId
    merchant_id: MerchantId
    merchant_order_no: str
    state: OrderState
    total: Money
    items: tuple[OrderItem, ...]
    correlation_id: str
    placed_at: dt.datetime
    expires_at: dt.datetime
    closing_reason: ClosingReason | None = None
    paid_at: dt.datetime | None = None
    payment_id: PaymentId | None = None
    coupons_minor: int = 0
    refunded_minor: int = 0
    fulfilled_at: dt.datetime | None = None
    reopened: bool = False
    version: int = 1
    event_seq: int = 1


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """A report with its content; `money`, `payment_id` and `reason` where the report has them.

    `money` is what the payment collected or, where money went back, the sum of its refunds so far.
    """

    report: Report
    merchant_id: MerchantId
    at: dt.datetime
    money: Money | None = None
    payment_id: PaymentId | None = None
    reason: ClosingReason | None = None


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The order as it is after the report."""

    order: Order


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """The report says what is known already."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The report does not fit; a person must look at it."""

    reason: Refusal


Decision: TypeAlias = Moved | Repeated | Refused

TRANSITIONS: Final[Mapping[tuple[OrderState, Report], OrderState]] = {
    (OrderState.PLACED, Report.NOTHING_DUE): OrderState.PAID,
    (OrderState.PLACED, Report.PAYMENT_SUCCEEDED): OrderState.PAID,
    (OrderState.PLACED, Report.CANCEL_ASKED): OrderState.CLOSING,
    (OrderState.PLACED, Report.EXPIRY_DUE): OrderState.CLOSING,
    (OrderState.CLOSING, Report.PAYMENT_SUCCEEDED): OrderState.PAID,  # The money came before the payable was closed.
    (OrderState.CLOSING, Report.PAYABLE_CANCELLED): OrderState.CANCELLED,
    (OrderState.CLOSING, Report.PAYABLE_EXPIRED): OrderState.EXPIRED,
    (OrderState.CANCELLED, Report.LATE_MONEY_KEPT): OrderState.PAID,
    (OrderState.EXPIRED, Report.LATE_MONEY_KEPT): OrderState.PAID,
    (OrderState.PAID, Report.FULFILLED): OrderState.FULFILLED,
}

HOLDS_MONEY: Final = frozenset(
    {OrderState.PAID, OrderState.FULFILLED, OrderState.PARTIALLY_REFUNDED, OrderState.REFUNDED}
)
"""States of an order whose total was received (or zero), whatever was given back since."""

_ENDED: Final[Mapping[OrderState, Report]] = {
    OrderState.CANCELLED: Report.PAYABLE_CANCELLED,
    OrderState.EXPIRED: Report.PAYABLE_EXPIRED,
}


def decide(order: Order, reported: Reported) -> Decision:
    """What a report does to an order. The checks are in order of precedence: identity, amount, repeats, legality."""
    if reported.merchant_id != order.merchant_id:
        return Refused(reason=Refusal.MERCHANT_MISMATCH)
    if reported.money is not None and reported.money.currency != order.total.currency:
        return Refused(reason=Refusal.CURRENCY_MISMATCH)
    match reported.report:
        case Report.MONEY_REFUNDED:
            return _when_refunded(order, reported)
        case Report.FULFILLED:
            return _when_fulfilled(order, reported)
        case Report.EXPIRY_DUE if reported.at < order.expires_at:
            return Refused(reason=Refusal.NOT_DUE)
        case Report.EXPIRY_DUE if order.state is not OrderState.PLACED:
            return Repeated()  # The timer looked before somebody else moved it.
        case _:
            return _when_told(order, reported)


def _when_told(order: Order, reported: Reported) -> Decision:
    if reported.money is not None and reported.money != order.total:
        return Refused(reason=Refusal.AMOUNT_MISMATCH)
    target = TRANSITIONS.get((order.state, reported.report))
    if target is not None:
        return Moved(order=_moved(order, target, reported))
    if order.state in HOLDS_MONEY:
        return _when_paid(order, reported)
    if reported.report is Report.CANCEL_ASKED:
        return Repeated()  # Asked before, or ended: it can no longer be paid, which is what was asked for.
    ending = _ENDED.get(order.state)
    if ending is not None:
        return Repeated() if ending is reported.report else Refused(reason=Refusal.ALREADY_ENDED)
    return Refused(reason=Refusal.NOT_ENDED if reported.report is Report.LATE_MONEY_KEPT else Refusal.NOT_CLOSING)


def _when_paid(order: Order, reported: Reported) -> Repeated | Refused:
    if reported.report in {Report.PAYABLE_CANCELLED, Report.PAYABLE_EXPIRED, Report.CANCEL_ASKED}:
        # After a reopening the payable's end is old news: it came before the money that was kept.
        ended_before = order.reopened and reported.report is not Report.CANCEL_ASKED
        return Repeated() if ended_before else Refused(reason=Refusal.ALREADY_PAID)
    if reported.payment_id != order.payment_id:
        return Refused(reason=Refusal.PAID_BY_ANOTHER)
    return Repeated()


def _when_fulfilled(order: Order, reported: Reported) -> Decision:
    if order.fulfilled_at is not None:
        return Repeated()
    if order.state is OrderState.PARTIALLY_REFUNDED:
        # What was not given back is fulfilled; the state goes on telling of the money.
        return Moved(order=msgspec.structs.replace(order, fulfilled_at=reported.at, version=order.version + 1))
    if order.state is OrderState.PAID:
        return Moved(order=_moved(order, OrderState.FULFILLED, reported))
    refusals = {OrderState.REFUNDED: Refusal.NOTHING_LEFT}
    refusals |= {OrderState.PLACED: Refusal.NOT_PAID, OrderState.CLOSING: Refusal.NOT_PAID}
    return Refused(reason=refusals.get(order.state, Refusal.ALREADY_ENDED))


def _when_refunded(order: Order, reported: Reported) -> Decision:
    assert reported.money is not None
    if order.payment_id is None or reported.payment_id != order.payment_id:
        return Repeated()  # Late or second money went back: the order was never paid with it.
    if reported.money.minor > order.total.minor:
        return Refused(reason=Refusal.REFUND_EXCEEDS_TOTAL)
    # The sum only grows; a smaller one is old news.
    if reported.money.minor <= order.refunded_minor:
        return Repeated()
    whole = reported.money == order.total
    return Moved(
        order=msgspec.structs.replace(
            order,
            state=OrderState.REFUNDED if whole else OrderState.PARTIALLY_REFUNDED,
            refunded_minor=reported.money.minor,
            version=order.version + 1,
        )
    )


def _moved(order: Order, target: OrderState, reported: Reported) -> Order:
    moved = msgspec.structs.replace(
        order, state=target, version=order.version + 1, closing_reason=reported.reason or order.closing_reason
    )
    if target is OrderState.PAID:
        return msgspec.structs.replace(
            moved,
            paid_at=reported.at,
            payment_id=reported.payment_id,
            reopened=reported.report is Report.LATE_MONEY_KEPT,
        )
    return msgspec.structs.replace(moved, fulfilled_at=reported.at) if target is OrderState.FULFILLED else moved
