"""Tell: which state becomes which public event, and the form in which an order is shown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal, assert_never

import msgspec

from defray_kernel.contracts.grant_v1 import (
    GrantFailed,
    GrantGranted,
    GrantOwed,
    GrantRevoked,
    GrantStateV1,
    GrantUsed,
)
from defray_kernel.contracts.order_v1 import (
    ClosingReason,
    OrderCancelled,
    OrderClosing,
    OrderExpired,
    OrderFulfilled,
    OrderItemV1,
    OrderPaid,
    OrderPlaced,
    OrderRefunded,
    OrderRefundRequested,
    OrderStateV1,
    OrderStatus,
    RefundLineV1,
)
from defray_kernel.contracts.payment_v1 import PaymentStatus, RefundReason, RefundStatus
from defray_kernel.ids import OrderId, show
from defray_order.domain.grant import Grant, GrantState, GrantStep, unit
from defray_order.domain.order import Order, OrderState
from defray_order.domain.payment import OrderPayment
from defray_order.domain.refund import OrderRefund
from defray_order.domain.refund_request import Origin, RefundRequest, Step


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


class RefundLineShown(msgspec.Struct, frozen=True, kw_only=True):
    """So much of a line; `quantity` where units were named."""

    line: int
    amount_minor: int
    quantity: int | None


class RefundStepShown(msgspec.Struct, frozen=True, kw_only=True):
    """What was done for a request; of `grants_recalled` the amount is what could not be had back."""

    step: int
    kind: Literal["asked", "grants_recalled", "money_asked", "taken", "abnormal", "succeeded", "failed", "refused"]
    amount_minor: int | None
    at: dt.datetime
    causation_id: str | None


class RefundRequestShown(msgspec.Struct, frozen=True, kw_only=True):
    """A wish that money goes back, with its steps in order; `code` says why it failed or was refused."""

    refund_request_id: str
    order_id: str
    merchant_id: str
    payment_id: str
    origin: Literal["order", "late_money", "payment"]
    status: Literal["REQUESTED", "SENT", "SUCCEEDED", "FAILED", "REFUSED"]
    amount_minor: int
    currency: str
    lines: list[RefundLineShown]
    reason: str
    refund_id: str | None
    code: str | None
    requested_at: dt.datetime
    ended_at: dt.datetime | None
    correlation_id: str
    steps: list[RefundStepShown]


class OrderShown(msgspec.Struct, frozen=True, kw_only=True):
    """An order as its merchant sees it; amounts in minor units of `currency`, times RFC 3339 in UTC.

    `payment_token` stands in the reply to `POST /v1/orders` alone, and only when there is something to pay.
    `coupons_minor` is what coupons took off: the lines less this make `amount_minor`. `grant_debt_minor` is what the order
    owes: it brought coupons that were used before its money went back.
    `refunded_minor` is what has gone back of the payment that paid the order; `refunds` are those of all its payments.
    `reopened`: its money came after it had ended (`closing_reason` tells how) and was kept.
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
    coupons_minor: int = 0
    grant_debt_minor: int = 0
    refunded_minor: int = 0
    fulfilled_at: dt.datetime | None = None
    reopened: bool = False
    refunds: list[RefundShown] = []
    refund_requests: list[RefundRequestShown] = []
    payment_token: str | msgspec.UnsetType = msgspec.UNSET


def for_move(before: Order | None, after: Order) -> OrderStateV1:
    """The event that tells of a move; a fulfilment is told although refunds may keep the state."""
    if before is not None and before.fulfilled_at is None and after.fulfilled_at is not None:
        return OrderFulfilled(**_public(after))
    return for_state(after)


def for_state(order: Order) -> OrderStateV1:
    """The event that tells of an order's arrival in its state."""
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
            return OrderFulfilled(**_public(order))
        case _:
            assert_never(order.state)


def refund_requested(order: Order, request: RefundRequest) -> OrderRefundRequested:
    """The event that asks the payment service for a refund of this order."""
    return OrderRefundRequested(
        **_public(order),
        refund_request_id=show("rrq", request.request_id),
        refund_payment_id=show("pay", request.payment_id),
        refund_minor=request.amount.minor,
        refund_reason="late_money" if request.origin is Origin.LATE_MONEY else "merchant",
        refund_note=request.note,
        refund_lines=[RefundLineV1(line=share.line, amount_minor=share.minor) for share in request.lines],
    )


def request_shown(request: RefundRequest, steps: Sequence[Step]) -> RefundRequestShown:
    """A refund request with its steps among these, as the API shows it."""
    return RefundRequestShown(
        refund_request_id=show("rrq", request.request_id),
        order_id=show("ord", request.order_id),
        merchant_id=show("mer", request.merchant_id),
        payment_id=show("pay", request.payment_id),
        origin=request.origin.value,
        status=request.state.value,
        amount_minor=request.amount.minor,
        currency=request.amount.currency,
        lines=[RefundLineShown(line=s.line, amount_minor=s.minor, quantity=s.quantity) for s in request.lines],
        reason=request.note,
        refund_id=None if request.refund_id is None else show("rfd", request.refund_id),
        code=request.code,
        requested_at=request.requested_at,
        ended_at=request.ended_at,
        correlation_id=request.correlation_id,
        steps=[
            RefundStepShown(
                step=s.step, kind=s.kind.value, amount_minor=s.minor, at=s.at, causation_id=s.cause.causation_id
            )
            for s in steps
            if s.request_id == request.request_id
        ],
    )


def shown(
    order: Order,
    payments: Sequence[OrderPayment],
    refunds: Sequence[OrderRefund] = (),
    requests: Sequence[RefundRequestShown] = (),
    grant_debt_minor: int = 0,
) -> OrderShown:
    """The order with its payments, refunds and refund requests, as the API shows it."""
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
        refund_requests=list(requests),
        grant_debt_minor=grant_debt_minor,
    )


def for_grant_step(
    kind: GrantStep, grant: Grant, *, debt_minor: int, used_on: OrderId | None, minor: int | None
) -> GrantStateV1 | None:
    """The event that tells what was done with a grant; None where none is told: its holder does not have it yet."""
    match kind:
        case GrantStep.PLANNED | GrantStep.RESERVED | GrantStep.RELEASED:
            return None
        case GrantStep.GIVEN:
            return GrantGranted(**_grant(grant, debt_minor))
        case GrantStep.GAVE_UP:
            return GrantFailed(**_grant(grant, debt_minor))
        case GrantStep.USED:
            assert used_on is not None
            assert minor is not None
            return GrantUsed(**_grant(grant, debt_minor), used_on_order_id=show("ord", used_on), discount_minor=minor)
        case GrantStep.RECALLED:
            return None if grant.state is GrantState.PENDING else GrantRevoked(**_grant(grant, debt_minor))
        case GrantStep.OWED:
            return GrantOwed(**_grant(grant, debt_minor))
        case _:
            assert_never(kind)


def _grant(grant: Grant, debt_minor: int) -> dict[str, Any]:
    return {
        "grant_id": show("grt", grant.grant_id),
        "order_id": show("ord", grant.order_id),
        "merchant_id": show("mer", grant.merchant_id),
        "benefit_id": show("bft", grant.benefit_id),
        "line": grant.line,
        "kind": grant.kind.value,
        "status": grant.state.value,
        "unit": unit(grant),
        "units": grant.units,
        "recalled_units": grant.recalled,
        "currency": grant.currency,
        "uses": grant.used,
        "uses_max": grant.uses_max,
        "debt_minor": debt_minor,
        "granted_at": grant.granted_at,
        "valid_from": grant.valid_from,
        "valid_until": grant.valid_until,
        "reason": grant.failure,
    }


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
        "coupons_minor": order.coupons_minor,
        "refunded_minor": order.refunded_minor,
        "fulfilled_at": order.fulfilled_at,
        "reopened": order.reopened,
    }
