"""Tell: which state becomes which public event, and the form in which an order is shown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from defray_kernel.contracts.order_v1 import (
    ClosingReason,
    OrderCancelled,
    OrderClosing,
    OrderExpired,
    OrderItemV1,
    OrderPaid,
    OrderPlaced,
    OrderRefunded,
    OrderStateV1,
    OrderStatus,
)
from defray_kernel.contracts.payment_v1 import PaymentStatus, RefundReason, RefundStatus
from defray_kernel.ids import show
from defray_order.domain.order import Order, OrderState
from defray_order.domain.payment import OrderPayment
from defray_order.domain.refund import OrderRefund


class PaymentShown(msgspec.Struct, frozen=True, kw_only=True):
    """A payment of the order as the payment service told it last; amounts in minor units."""

    payment_id: str
    status: PaymentStatus
    channel: str
    amount_minor: int
    currency: str
    paid_minor: int | None
    paid_at: dt.datetime | None


class RefundShown(msgspec.Struct, frozen=True, kw_only=True):
    """A refund of one of the order's payments as the payment service told it last; amounts in minor units."""

    refund_id: str
    payment_id: str
    status: RefundStatus
    reason: RefundReason
    amount_minor: int
    currency: str
    requested_at: dt.datetime
    done_at: dt.datetime | None


class OrderShown(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its merchant sees it; amounts in minor units of `currency`, times RFC 3339 in UTC.

    `payment_token` stands in the reply to `POST /v1/orders` alone, and only when there is something to pay.
    `refunded_minor` is what has gone back of the payment that paid the order; `refunds` are those of all its payments.
    """

    order_id: str
    merchant_id: str
    merchant_order_no: str
    status: OrderStatus
    amount_minor: int
    currency: str
    items: list[OrderItemV1]
    payments: list[PaymentShown]
    placed_at: dt.datetime
    expires_at: dt.datetime
    closing_reason: ClosingReason | None
    paid_at: dt.datetime | None
    payment_id: str | None
    correlation_id: str
    # Defaults, because answers that were stored before there were refunds are still replayed.
    refunded_minor: int = 0
    refunds: list[RefundShown] = []
    payment_token: str | msgspec.UnsetType = msgspec.UNSET


def for_state(order: Order) -> OrderStateV1 | None:
    """The event that tells of an order's arrival in its state; None where none is told."""
    match order.state:
        case OrderState.PLACED:
            return OrderPlaced(**_public(order))
        case OrderState.CLOSING:
            return OrderClosing(**_public(order))
        case OrderState.PAID:
            return OrderPaid(**_public(order))
        case OrderState.CANCELLED:
            return OrderCancelled(**_public(order))
        case OrderState.EXPIRED:
            return OrderExpired(**_public(order))
        case OrderState.PARTIALLY_REFUNDED | OrderState.REFUNDED:
            return OrderRefunded(**_public(order))
        case OrderState.FULFILLED:
            return None  # No report leads there yet; its event is defined with the report that does.
        case _:
            assert_never(order.state)


def shown(order: Order, payments: Sequence[OrderPayment], refunds: Sequence[OrderRefund] = ()) -> OrderShown:
    """The order with its payments and refunds, as the API shows it."""
    return OrderShown(
        **_public(order),
        correlation_id=order.correlation_id,
        payments=[
            PaymentShown(
                payment_id=show("pay", p.payment_id),
                status=p.status,
                channel=p.channel,
                amount_minor=p.amount.minor,
                currency=p.amount.currency,
                paid_minor=p.paid_minor,
                paid_at=p.paid_at,
            )
            for p in payments
        ],
        refunds=[
            RefundShown(
                refund_id=show("rfd", r.refund_id),
                payment_id=show("pay", r.payment_id),
                status=r.status,
                reason=r.reason,
                amount_minor=r.amount.minor,
                currency=r.amount.currency,
                requested_at=r.requested_at,
                done_at=r.done_at,
            )
            for r in refunds
        ],
    )


def _public(order: Order) -> dict[str, Any]:
    return {
        "order_id": show("ord", order.order_id),
        "merchant_id": show("mer", order.merchant_id),
        "merchant_order_no": order.merchant_order_no,
        "status": order.state.value,
        "amount_minor": order.total.minor,
        "currency": order.total.currency,
        "items": [
            OrderItemV1(
                line=line,
                sku=item.sku,
                title=item.title,
                quantity=item.quantity,
                unit_amount_minor=item.unit_amount_minor,
                discount_minor=item.discount_minor,
                amount_minor=item.amount_minor,
            )
            for line, item in enumerate(order.items, start=1)
        ],
        "placed_at": order.placed_at,
        "expires_at": order.expires_at,
        "closing_reason": order.closing_reason,
        "paid_at": order.paid_at,
        "payment_id": None if order.payment_id is None else show("pay", order.payment_id),
        "refunded_minor": order.refunded_minor,
    }
