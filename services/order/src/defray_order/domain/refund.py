"""A refund as the order service knows it: a copy of what the payment service told last."""

import datetime as dt

import msgspec

from defray_kernel.contracts.payment_v1 import RefundReason, RefundStatus
from defray_kernel.ids import OrderId, PaymentId, RefundId
from defray_kernel.money import Money


class OrderRefund(msgspec.Struct, frozen=True, kw_only=True):
    """`sequence` is that of the event told last; an event that is not above it changes nothing."""

    refund_id: RefundId
    payment_id: PaymentId
    order_id: OrderId
    status: RefundStatus
    reason: RefundReason
    amount: Money
    requested_at: dt.datetime
    done_at: dt.datetime | None
    sequence: int
