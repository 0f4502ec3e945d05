"""What is told: which state becomes which public event, for every state, and a payment's public JSON."""

from __future__ import annotations

import datetime as dt
from typing import Final, assert_never

import msgspec

from defray_kernel import ids, outbox
from defray_kernel.contracts import payment_v1
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.order_v1 import OrderRefundRequested
from defray_kernel.outbox import OutboxEvent
from defray_payment.domain.payable import Payable
from defray_payment.domain.payment import PAID, Payment, PaymentStatus
from defray_payment.domain.refund import Refund, RefundStatus

PAYABLE_PREFIX: Final = "pbl"
"""The payable's own aggregate: its sequence is not the order's."""


class NextActionBody(msgspec.Struct, frozen=True, kw_only=True):
    """What the payer does next: show `data.code_url` as a QR code."""

    type: str
    data: dict[str, str]
    expires_at: dt.datetime


class LinksBody(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look again."""

    self: str


class PaymentBody(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as merchants see it. Amounts in minor units; times UTC."""

    payment_id: str
    order_id: str
    merchant_id: str
    status: payment_v1.PaymentStatus
    amount_minor: int
    currency: str
    channel: str
    product: str
    attempt_no: str
    created_at: dt.datetime
    expires_at: dt.datetime
    paid_minor: int | None
    paid_at: dt.datetime | None
    refunded_minor: int
    channel_txn_id: str | None
    failure_code: str | None
    correlation_id: str
    next_action: NextActionBody | None
    links: LinksBody


class PaymentListBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of payments, oldest first; `?cursor=<next_cursor>` with the same filters gives the next one."""

    data: list[PaymentBody]
    next_cursor: str | None


class RefundBody(msgspec.Struct, frozen=True, kw_only=True):
    """A refund as merchants see it. Amounts in minor units; times UTC."""

    refund_id: str
    payment_id: str
    order_id: str
    merchant_id: str
    status: payment_v1.RefundStatus
    reason: payment_v1.RefundReason
    amount_minor: int
    currency: str
    channel: str
    refund_no: str
    note: str
    requested_at: dt.datetime
    done_at: dt.datetime | None
    channel_refund_id: str | None
    failure_code: str | None
    correlation_id: str
    refund_request_id: str | None
    links: LinksBody


class RefundListBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a payment's refunds, oldest first; `?after=<next_after>` gives the next one."""

    data: list[RefundBody]
    next_after: str | None


def event_class(status: PaymentStatus) -> type[payment_v1.PaymentStateV1] | None:
    """The event that tells of this state; None where nothing is told."""
    match status:
        case PaymentStatus.CREATED:
            return payment_v1.PaymentCreated
        case PaymentStatus.PENDING:
            return payment_v1.PaymentPending
        case PaymentStatus.AUTHORIZED:
            return None  # No channel that holds funds yet; its event comes with the first.
        case PaymentStatus.SUCCEEDED:
            return payment_v1.PaymentSucceeded
        case PaymentStatus.FAILED:
            return payment_v1.PaymentFailed
        case PaymentStatus.CLOSED:
            return payment_v1.PaymentClosed
        case PaymentStatus.PAID_LATE:
            return payment_v1.PaymentPaidLate
        case PaymentStatus.DUPLICATE:
            return payment_v1.PaymentDuplicate
        case _:
            assert_never(status)


def payment_event(payment: Payment, cause: Cause, at: dt.datetime) -> OutboxEvent | None:
    """The announcement of a payment's state; its `event_seq` was moved for it under the payable's lock."""
    told = event_class(payment.status)
    if told is None:
        return None
    data = told(
        payment_id=ids.show("pay", payment.payment_id),
        order_id=ids.show("ord", payment.order_id),
        merchant_id=ids.show("mer", payment.merchant_id),
        status=payment.status.value,
        amount_minor=payment.amount.minor,
        currency=payment.amount.currency,
        channel=payment.channel,
        product=payment.product,
        attempt_no=payment.attempt_no,
        created_at=payment.created_at,
        expires_at=payment.expires_at,
        channel_txn_id=payment.channel_txn_id,
        paid_minor=paid_minor(payment),
        paid_at=payment.paid_at,
        failure_code=payment.failure_code,
    )
    return outbox.event(
        data, key=data.order_id, aggregate_id=data.payment_id, sequence=payment.event_seq, cause=cause, at=at
    )


def refund_event_class(status: RefundStatus) -> type[payment_v1.RefundStateV1] | None:
    """The event that tells of this state; None where nothing is told."""
    match status:
        case RefundStatus.REQUESTED:
            return payment_v1.RefundRequested
        case RefundStatus.PROCESSING:
            return None  # The channel has taken it: nothing that anybody else acts on.
        case RefundStatus.SUCCEEDED:
            return payment_v1.RefundSucceeded
        case RefundStatus.FAILED:
            return payment_v1.RefundFailed
        case RefundStatus.ABNORMAL:
            return payment_v1.RefundAbnormal
        case _:
            assert_never(status)


def refund_event(refund: Refund, payment: Payment, cause: Cause, at: dt.datetime) -> OutboxEvent | None:
    """The announcement of a refund's state; `payment` with its sums as they are now."""
    told = refund_event_class(refund.status)
    if told is None:
        return None
    own_minor = refund.amount.minor if refund.status is RefundStatus.SUCCEEDED and not refund.reserves else 0
    data = told(
        refund_id=ids.show("rfd", refund.refund_id),
        payment_id=ids.show("pay", refund.payment_id),
        order_id=ids.show("ord", refund.order_id),
        merchant_id=ids.show("mer", refund.merchant_id),
        status=refund.status.value,
        reason=refund.reason.value,
        amount_minor=refund.amount.minor,
        currency=refund.amount.currency,
        channel=refund.channel,
        refund_no=refund.refund_no,
        requested_at=refund.created_at,
        payment_refunded_minor=payment.refunded_minor + own_minor,
        channel_refund_id=refund.channel_refund_id,
        done_at=refund.done_at,
        failure_code=refund.failure_code,
        refund_request_id=_request_id(refund),
    )
    return outbox.event(
        data, key=data.order_id, aggregate_id=data.refund_id, sequence=refund.event_seq, cause=cause, at=at
    )


def refund_refused(wish: OrderRefundRequested, code: str, cause: Cause, at: dt.datetime) -> OutboxEvent:
    """The announcement that no refund is made for the order service's request; its subject is the request."""
    data = payment_v1.RefundRefused(
        refund_request_id=wish.refund_request_id,
        payment_id=wish.refund_payment_id,
        order_id=wish.order_id,
        merchant_id=wish.merchant_id,
        amount_minor=wish.refund_minor,
        currency=wish.currency,
        code=code,
        refused_at=at,
    )
    return outbox.event(data, key=wish.order_id, aggregate_id=wish.refund_request_id, sequence=1, cause=cause, at=at)


def payable_closed(payable: Payable, cause: Cause, at: dt.datetime) -> OutboxEvent:
    """The announcement that nothing of this order can be paid any more."""
    order_id = ids.show("ord", payable.order_id)
    data = msgspec.convert(
        {
            "order_id": order_id,
            "merchant_id": ids.show("mer", payable.merchant_id),
            "reason": payable.closing_reason,
            "closed_at": at,
        },
        payment_v1.PayableClosed,
    )
    return outbox.event(
        data,
        key=order_id,
        aggregate_id=ids.show(PAYABLE_PREFIX, payable.order_id),
        sequence=payable.event_seq,
        cause=cause,
        at=at,
    )


def body(payment: Payment, action: bytes | None) -> PaymentBody:
    """A payment's public JSON; `action` is the stored JSON of what the payer does next, if anything."""
    payment_id = ids.show("pay", payment.payment_id)
    return PaymentBody(
        payment_id=payment_id,
        order_id=ids.show("ord", payment.order_id),
        merchant_id=ids.show("mer", payment.merchant_id),
        status=payment.status.value,
        amount_minor=payment.amount.minor,
        currency=payment.amount.currency,
        channel=payment.channel,
        product=payment.product,
        attempt_no=payment.attempt_no,
        created_at=payment.created_at,
        expires_at=payment.expires_at,
        paid_minor=paid_minor(payment),
        paid_at=payment.paid_at,
        refunded_minor=payment.refunded_minor,
        channel_txn_id=payment.channel_txn_id,
        failure_code=payment.failure_code,
        correlation_id=payment.correlation_id,
        next_action=None if action is None else msgspec.json.decode(action, type=NextActionBody),
        links=LinksBody(self=f"/v1/payments/{payment_id}"),
    )


def refund_body(refund: Refund) -> RefundBody:
    """A refund's public JSON."""
    refund_id = ids.show("rfd", refund.refund_id)
    return RefundBody(
        refund_id=refund_id,
        payment_id=ids.show("pay", refund.payment_id),
        order_id=ids.show("ord", refund.order_id),
        merchant_id=ids.show("mer", refund.merchant_id),
        status=refund.status.value,
        reason=refund.reason.value,
        amount_minor=refund.amount.minor,
        currency=refund.amount.currency,
        channel=refund.channel,
        refund_no=refund.refund_no,
        note=refund.note,
        requested_at=refund.created_at,
        done_at=refund.done_at,
        channel_refund_id=refund.channel_refund_id,
        failure_code=refund.failure_code,
        correlation_id=refund.correlation_id,
        refund_request_id=_request_id(refund),
        links=LinksBody(self=f"/v1/refunds/{refund_id}"),
    )


def _request_id(refund: Refund) -> str | None:
    return None if refund.request_id is None else ids.show("rrq", refund.request_id)


def paid_minor(payment: Payment) -> int | None:
    """What was paid: the whole amount, or nothing."""
    return payment.amount.minor if payment.status in PAID else None
