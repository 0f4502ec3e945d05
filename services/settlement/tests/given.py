"""What tests begin with: events as the payment service and the order service announce them."""

import datetime as dt
from typing import Any, TypeVar

from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.order_v1 import OrderPaid
from defray_kernel.contracts.payment_v1 import PaymentStateV1, RefundStateV1
from defray_kernel.ids import show, uuid7
from defray_settlement.domain.merchant import Merchant

P = TypeVar("P", bound=PaymentStateV1)
R = TypeVar("R", bound=RefundStateV1)
PAID_AT = dt.datetime(2026, 3, 1, 16, 30, tzinfo=dt.UTC)


def paid(kind: type[P], merchant: Merchant, *, sequence: int = 3, **changes: object) -> Event[P]:
    """An event of a payment of 199.00 CNY by WeChat."""
    order_id = show("ord", uuid7())
    payment_id = show("pay", uuid7())
    fields: dict[str, Any] = {
        "payment_id": payment_id,
        "order_id": order_id,
        "merchant_id": show("mer", merchant.merchant_id),
        "status": "SUCCEEDED",
        "amount_minor": 19_900,
        "currency": "CNY",
        "channel": "wechat",
        "product": "native",
        "attempt_no": "A1",
        "created_at": PAID_AT,
        "expires_at": PAID_AT,
        "paid_minor": 19_900,
        "paid_at": PAID_AT,
    } | changes
    return Event(
        id=uuid7(),
        source="/payment",
        subject=fields["payment_id"],
        key=fields["order_id"],
        sequence=sequence,
        time=PAID_AT,
        correlation_id=f"corr-{fields['payment_id']}",
        causation_id=None,
        traceparent=None,
        data=kind(**fields),
    )


def refund(kind: type[R], of: Event[P], *, amount: int, sequence: int = 2, **changes: object) -> Event[R]:
    """An event of a refund of that payment."""
    fields: dict[str, Any] = {
        "refund_id": show("rfd", uuid7()),
        "payment_id": of.data.payment_id,
        "order_id": of.data.order_id,
        "merchant_id": of.data.merchant_id,
        "status": "SUCCEEDED",
        "reason": "merchant",
        "amount_minor": amount,
        "currency": of.data.currency,
        "channel": of.data.channel,
        "refund_no": "R1",
        "requested_at": PAID_AT,
        "payment_refunded_minor": amount,
        "done_at": PAID_AT + dt.timedelta(days=1),
    } | changes
    return Event(
        id=uuid7(),
        source="/payment",
        subject=fields["refund_id"],
        key=of.key,
        sequence=sequence,
        time=PAID_AT,
        correlation_id=of.correlation_id,
        causation_id=None,
        traceparent=None,
        data=kind(**fields),
    )


def order_paid(by: Event[P], *, reopened: bool = True, **changes: object) -> Event[OrderPaid]:
    """The order of that payment, paid by it; late, unless told otherwise."""
    fields: dict[str, Any] = {
        "order_id": by.data.order_id,
        "merchant_id": by.data.merchant_id,
        "merchant_order_no": "n-1",
        "status": "PAID",
        "amount_minor": by.data.amount_minor,
        "currency": by.data.currency,
        "items": [],
        "placed_at": PAID_AT,
        "expires_at": PAID_AT,
        "paid_at": PAID_AT,
        "payment_id": by.data.payment_id,
        "reopened": reopened,
    } | changes
    return Event(
        id=uuid7(),
        source="/order",
        subject=fields["order_id"],
        key=by.key,
        sequence=4,
        time=PAID_AT,
        correlation_id=by.correlation_id,
        causation_id=str(by.id),
        traceparent=None,
        data=OrderPaid(**fields),
    )
