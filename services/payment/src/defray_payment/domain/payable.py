"""The payable: one row per order that decides which money is kept and whether anything may still be paid."""

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeAlias

import msgspec

from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import Money
from defray_payment.domain.attempt import UNSETTLED, Attempt
from defray_payment.domain.payment import Payment, Purse
from defray_payment.domain.refusals import StartRefusal


class PayableStatus(StrEnum):
    """OPEN: may be paid. CLOSING: no new payments, open ones are being closed. CLOSED: told; later money is late."""

    OPEN = "OPEN"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


class OrderTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an order says about its payment, by a payment token or by an order event."""

    order_id: OrderId
    merchant_id: MerchantId
    amount: Money
    expires_at: dt.datetime
    correlation_id: str


class Payable(msgspec.Struct, frozen=True, kw_only=True):
    """An order as far as its money is concerned; `order_seq` is 0 while it is known from a token only."""

    order_id: OrderId
    merchant_id: MerchantId
    amount: Money
    status: PayableStatus
    closing_reason: str | None
    claimed_by: PaymentId | None
    order_expires_at: dt.datetime
    order_seq: int
    correlation_id: str
    version: int
    event_seq: int

    def purse(self, late_money: str) -> Purse:
        """What becomes of money that arrives now; `late_money` is the merchant's policy: return, reopen or case."""
        if self.claimed_by is not None:
            return Purse.CLAIMED
        if self.status is not PayableStatus.CLOSED:
            return Purse.FREE
        return Purse.LATE_RETURNED if late_money == "return" else Purse.LATE_KEPT

    def agrees_with(self, terms: OrderTerms) -> bool:
        """Whether two sources tell the same order; the expiry may be told more exactly by one of them."""
        return (self.order_id, self.merchant_id, self.amount) == (terms.order_id, terms.merchant_id, terms.amount)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A new payment may be started."""


class Reuse(msgspec.Struct, frozen=True, kw_only=True):
    """The same way to pay is open already: no second live attempt."""

    payment: Payment
    attempt: Attempt


StartAnswer: TypeAlias = Start | Reuse | StartRefusal


def may_start(
    payable: Payable,
    live: Sequence[tuple[Payment, Attempt]],
    *,
    terms: OrderTerms | None,
    channel: str,
    product: str,
    now: dt.datetime,
) -> StartAnswer:
    """Whether another way to pay this order may be opened; `live` are its payments that are not decided.

    In order of precedence: identity, money, the order's end, what is open, what is unclear.
    """
    if terms is not None and not payable.agrees_with(terms):
        return StartRefusal.ORDER_MISMATCH
    if payable.claimed_by is not None or payable.amount.minor == 0:
        return StartRefusal.ORDER_PAID
    if payable.status is not PayableStatus.OPEN:
        return StartRefusal.ORDER_CLOSED
    if now >= payable.order_expires_at:
        return StartRefusal.ORDER_EXPIRED
    for payment, attempt in live:
        if (payment.channel, payment.product) == (channel, product):
            return StartRefusal.ATTEMPT_UNKNOWN if attempt.closing else Reuse(payment=payment, attempt=attempt)
    if any(attempt.status in UNSETTLED for _, attempt in live):
        return StartRefusal.ATTEMPT_UNKNOWN
    return Start()
