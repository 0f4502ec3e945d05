"""What the notifier listens to: one line per event (beside merchants, which the kernel projects)."""

from typing import Any, Final

from defray_kernel.consumer import Subscription
from defray_kernel.contracts import grant_v1, order_v1, payment_v1
from defray_notifier.commands import tell_merchants

EVENTS_TOPICS: Final = (order_v1.TOPIC, payment_v1.TOPIC)
EVENTS: Final[tuple[Subscription[Any], ...]] = (
    Subscription(order_v1.OrderPlaced, tell_merchants.handle),
    Subscription(order_v1.OrderClosing, tell_merchants.handle),
    Subscription(order_v1.OrderPaid, tell_merchants.handle),
    Subscription(order_v1.OrderCancelled, tell_merchants.handle),
    Subscription(order_v1.OrderExpired, tell_merchants.handle),
    Subscription(order_v1.OrderFulfilled, tell_merchants.handle),
    Subscription(order_v1.OrderRefunded, tell_merchants.handle),
    Subscription(order_v1.OrderRefundRequested, tell_merchants.handle),
    Subscription(grant_v1.GrantGranted, tell_merchants.handle),
    Subscription(grant_v1.GrantUsed, tell_merchants.handle),
    Subscription(grant_v1.GrantRevoked, tell_merchants.handle),
    Subscription(grant_v1.GrantOwed, tell_merchants.handle),
    Subscription(grant_v1.GrantFailed, tell_merchants.handle),
    Subscription(payment_v1.PaymentCreated, tell_merchants.handle),
    Subscription(payment_v1.PaymentPending, tell_merchants.handle),
    Subscription(payment_v1.PaymentSucceeded, tell_merchants.handle),
    Subscription(payment_v1.PaymentFailed, tell_merchants.handle),
    Subscription(payment_v1.PaymentClosed, tell_merchants.handle),
    Subscription(payment_v1.PaymentPaidLate, tell_merchants.handle),
    Subscription(payment_v1.PaymentDuplicate, tell_merchants.handle),
    Subscription(payment_v1.RefundRequested, tell_merchants.handle),
    Subscription(payment_v1.RefundSucceeded, tell_merchants.handle),
    Subscription(payment_v1.RefundFailed, tell_merchants.handle),
    Subscription(payment_v1.RefundAbnormal, tell_merchants.handle),
    Subscription(payment_v1.RefundRefused, tell_merchants.handle),
)
