"""What the order service announces: each event carries the order's full public state at that moment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from defray_kernel.contracts.envelope import EventData, Time

TOPIC = "order.order.events.v1"

Minor = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
OrderStatus = Literal[
    "PLACED", "CLOSING", "PAID", "FULFILLED", "PARTIALLY_REFUNDED", "REFUNDED", "CANCELLED", "EXPIRED"
]
ClosingReason = Literal["merchant", "customer", "system", "expired"]


class OrderItemV1(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `amount_minor` = quantity x unit_amount_minor - discount_minor, in minor units."""

    line: int
    sku: str
    title: str
    quantity: int
    unit_amount_minor: Minor
    discount_minor: Minor
    amount_minor: Minor


class OrderStateV1(EventData, frozen=True, kw_only=True):
    """The public state of an order. Amounts in minor units of `currency`; times UTC.

    `refunded_minor` is what has gone back of the payment that paid the order. `reopened`: its money came after it had
    ended (`closing_reason` tells how) and was kept. `coupons_minor` is what coupons took off: the items less this make
    `amount_minor`.
    """

    TOPIC: ClassVar[str] = TOPIC

    order_id: str
    merchant_id: str
    merchant_order_no: str
    status: OrderStatus
    amount_minor: Minor
    currency: Currency
    items: list[OrderItemV1]
    placed_at: Time
    expires_at: Time
    closing_reason: ClosingReason | None = None
    paid_at: Time | None = None
    payment_id: str | None = None
    refunded_minor: Minor = 0
    coupons_minor: Minor = 0
    fulfilled_at: Time | None = None
    reopened: bool = False


class OrderPlaced(OrderStateV1, frozen=True, kw_only=True):
    """An order was accepted and waits for its money. Consumers first: readers must know it before it is sent."""

    TYPE: ClassVar[str] = "order.placed.v1"


class OrderClosing(OrderStateV1, frozen=True, kw_only=True):
    """Somebody or the clock asked to end the order; the payment service answers with exactly one decision."""

    TYPE: ClassVar[str] = "order.closing.v1"


class OrderPaid(OrderStateV1, frozen=True, kw_only=True):
    """The order's money has arrived (or its total was zero). Told once per order."""

    TYPE: ClassVar[str] = "order.paid.v1"


class OrderFulfilled(OrderStateV1, frozen=True, kw_only=True):
    """All of a paid order was granted or delivered; told once. Parts of it may have been refunded. Consumers first."""

    TYPE: ClassVar[str] = "order.fulfilled.v1"


class OrderCancelled(OrderStateV1, frozen=True, kw_only=True):
    """The order ended on request; the payment service has closed everything that could still have been paid."""

    TYPE: ClassVar[str] = "order.cancelled.v1"


class OrderExpired(OrderStateV1, frozen=True, kw_only=True):
    """The order ended by the clock; the payment service has closed everything that could still have been paid."""

    TYPE: ClassVar[str] = "order.expired.v1"


class OrderRefunded(OrderStateV1, frozen=True, kw_only=True):
    """More of the order's money has gone back: PARTIALLY_REFUNDED, told with each part, or REFUNDED. Consumers first."""

    TYPE: ClassVar[str] = "order.refunded.v1"


class RefundLineV1(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one line is to go back, in minor units."""

    line: int
    amount_minor: Minor


class OrderRefundRequested(OrderStateV1, frozen=True, kw_only=True):
    """So much of a payment of this order is to go back: asked by the merchant, or because money came too late.

    What was granted for it has been recalled before this is told. The payment service answers once per request: with
    the refund (`refund.requested.v1` and what follows) or with `refund.refused.v1`. Consumers first.
    """

    TYPE: ClassVar[str] = "order.refund_requested.v1"

    refund_request_id: str
    refund_payment_id: str
    refund_minor: Minor
    refund_reason: Literal["merchant", "late_money"]
    refund_note: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    refund_lines: list[RefundLineV1]
