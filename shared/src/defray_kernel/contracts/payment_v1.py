"""What the payment service announces: payments with their full public state, and the payable's end."""

from __future__ import annotations

from typing import ClassVar, Literal

from defray_kernel.contracts.envelope import EventData, Time
from defray_kernel.contracts.order_v1 import Currency, Minor

TOPIC = "payment.payment.events.v1"

PaymentStatus = Literal["CREATED", "PENDING", "AUTHORIZED", "SUCCEEDED", "FAILED", "CLOSED", "PAID_LATE", "DUPLICATE"]


class PaymentStateV1(EventData, frozen=True, kw_only=True):
    """The public state of a payment; the Kafka key is its order's id. Amounts in minor units; times UTC.

    `attempt_no` is the business number of the latest attempt at the channel; `channel_txn_id` the channel's own.
    """

    TOPIC: ClassVar[str] = TOPIC

    payment_id: str
    order_id: str
    merchant_id: str
    status: PaymentStatus
    amount_minor: Minor
    currency: Currency
    channel: str
    product: str
    attempt_no: str
    created_at: Time
    expires_at: Time
    channel_txn_id: str | None = None
    paid_minor: Minor | None = None
    paid_at: Time | None = None
    failure_code: str | None = None


class PaymentCreated(PaymentStateV1, frozen=True, kw_only=True):
    """A payment and its first attempt are recorded; the channel has not been asked yet."""

    TYPE: ClassVar[str] = "payment.created.v1"


class PaymentPending(PaymentStateV1, frozen=True, kw_only=True):
    """The channel was asked (its answer may be outstanding); the payer may pay."""

    TYPE: ClassVar[str] = "payment.pending.v1"


class PaymentSucceeded(PaymentStateV1, frozen=True, kw_only=True):
    """The money of the order has arrived and may be kept. At most one payment of an order ever says so."""

    TYPE: ClassVar[str] = "payment.succeeded.v1"


class PaymentFailed(PaymentStateV1, frozen=True, kw_only=True):
    """The channel said for certain that this payment will not happen; `failure_code` is ours and stable."""

    TYPE: ClassVar[str] = "payment.failed.v1"


class PaymentClosed(PaymentStateV1, frozen=True, kw_only=True):
    """The payment was closed at the channel; it can no longer be paid there."""

    TYPE: ClassVar[str] = "payment.closed.v1"


class PaymentPaidLate(PaymentStateV1, frozen=True, kw_only=True):
    """Money arrived after the payable was closed; the merchant's policy for late money decides."""

    TYPE: ClassVar[str] = "payment.paid_late.v1"


class PaymentDuplicate(PaymentStateV1, frozen=True, kw_only=True):
    """Money arrived although the order was already paid; it is to be sent back."""

    TYPE: ClassVar[str] = "payment.duplicate.v1"


class PayableClosed(EventData, frozen=True, kw_only=True):
    """Nothing of this order can be paid any more: the one answer to `order.closing.v1` unless it was paid first."""

    TYPE: ClassVar[str] = "payable.closed.v1"
    TOPIC: ClassVar[str] = TOPIC

    order_id: str
    merchant_id: str
    reason: Literal["merchant", "customer", "system", "expired"]
    closed_at: Time


RefundStatus = Literal["REQUESTED", "PROCESSING", "SUCCEEDED", "FAILED", "ABNORMAL"]
RefundReason = Literal["merchant", "late", "duplicate", "mismatch"]


class RefundStateV1(EventData, frozen=True, kw_only=True):
    """The public state of a refund; the Kafka key is its order's id. Amounts in minor units; times UTC.

    `refund_no` is the latest business number at the channel. `reason` says who wants the money back: the merchant, or
    the rule for money that came late, twice or in a wrong amount. `payment_refunded_minor` is the sum of this payment's
    refunds that succeeded, this one included. `refund_request_id` is there when the order service asked for it.
    """

    TOPIC: ClassVar[str] = TOPIC

    refund_id: str
    payment_id: str
    order_id: str
    merchant_id: str
    status: RefundStatus
    reason: RefundReason
    amount_minor: Minor
    currency: Currency
    channel: str
    refund_no: str
    requested_at: Time
    payment_refunded_minor: Minor
    channel_refund_id: str | None = None
    done_at: Time | None = None
    failure_code: str | None = None
    refund_request_id: str | None = None


class RefundRequested(RefundStateV1, frozen=True, kw_only=True):
    """A refund's amount is reserved; the channel has not been asked yet. Consumers first."""

    TYPE: ClassVar[str] = "refund.requested.v1"


class RefundSucceeded(RefundStateV1, frozen=True, kw_only=True):
    """The channel has given the money back."""

    TYPE: ClassVar[str] = "refund.succeeded.v1"


class RefundFailed(RefundStateV1, frozen=True, kw_only=True):
    """The channel said for certain that this refund will not happen; its amount is free again."""

    TYPE: ClassVar[str] = "refund.failed.v1"


class RefundAbnormal(RefundStateV1, frozen=True, kw_only=True):
    """The money is stuck at the channel and a person must act there; its amount stays reserved."""

    TYPE: ClassVar[str] = "refund.abnormal.v1"


class RefundRefused(EventData, frozen=True, kw_only=True):
    """A refund that the order service asked for cannot be made; `code` is ours and stable. Its subject is the request.

    Told once per request; nothing was reserved and the channel was not asked. Consumers first.
    """

    TYPE: ClassVar[str] = "refund.refused.v1"
    TOPIC: ClassVar[str] = TOPIC

    refund_request_id: str
    payment_id: str
    order_id: str
    merchant_id: str
    amount_minor: Minor
    currency: Currency
    code: str
    refused_at: Time
