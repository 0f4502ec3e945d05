"""What the order service listens to: one line per event (beside merchants, which the kernel projects)."""

from collections.abc import Sequence
from typing import Any, Final

from defray_kernel.consumer import Subscription
from defray_kernel.contracts import payment_v1
from defray_kernel.contracts.envelope import Event
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, parse
from defray_order.commands import (
    end_order,
    follow_refunds,
    mark_order_paid,
    mark_order_refunded,
    note_heard,
    project_payment,
    reopen_order,
)
from defray_order.store import grants, orders

SUBSCRIPTIONS: Final = (
    Subscription(payment_v1.PaymentCreated, project_payment.handle),
    Subscription(payment_v1.PaymentPending, project_payment.handle),
    Subscription(payment_v1.PaymentSucceeded, mark_order_paid.handle),
    Subscription(payment_v1.PaymentFailed, project_payment.handle),
    Subscription(payment_v1.PaymentClosed, project_payment.handle),
    Subscription(payment_v1.PaymentPaidLate, reopen_order.handle),
    Subscription(payment_v1.PaymentDuplicate, project_payment.handle),
    Subscription(payment_v1.PayableClosed, end_order.handle),
    Subscription(payment_v1.RefundRequested, follow_refunds.handle),
    Subscription(payment_v1.RefundSucceeded, mark_order_refunded.handle),
    Subscription(payment_v1.RefundFailed, follow_refunds.handle),
    Subscription(payment_v1.RefundAbnormal, follow_refunds.handle),
    Subscription(payment_v1.RefundRefused, follow_refunds.handle_refused),
)


async def begin(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Before the first round of a batch: lock its orders, and note what was heard, also of what is then parked."""
    await lock_orders(events, tx)
    await note_heard.handle(events, tx)


async def lock_orders(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Lock the orders of a whole batch before its first round, in one order, then the grants that their moves may move."""
    order_ids = sorted({OrderId(parse("ord", event.key)) for event in events if _is_order(event.key)})
    await orders.lock(tx, order_ids)
    await grants.lock_touched(tx, order_ids)


def _is_order(key: str) -> bool:
    # A key that is none is poison for its own handler, not for the whole batch.
    try:
        parse("ord", key)
    except ValueError:
        return False
    return True
