"""A payment as the order service knows it: a copy of what the payment service told last."""

import datetime as dt

import msgspec

from defray_kernel.contracts.payment_v1 import PaymentStatus
from defray_kernel.ids import OrderId, PaymentId
from defray_kernel.money import Money


class OrderPayment(msgspec.Struct, frozen=True, kw_only=True):
    """`sequence` is that of the event told last; an event that is not above it changes nothing."""

    payment_id: PaymentId
    order_id: OrderId
    status: PaymentStatus
    amount: Money
    channel: str
    paid_minor: int | None
    paid_at: dt.datetime | None
    sequence: int
