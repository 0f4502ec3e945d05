"""What the settlement service listens to: one line per event."""

from typing import Any, Final

from defray_kernel.consumer import Subscription
from defray_kernel.contracts import payment_v1
from defray_settlement.commands import post_payments

PAYMENTS_TOPIC: Final = payment_v1.TOPIC
PAYMENTS: Final[tuple[Subscription[Any], ...]] = (
    Subscription(payment_v1.PaymentSucceeded, post_payments.handle),
    Subscription(payment_v1.PaymentPaidLate, post_payments.handle),
    Subscription(payment_v1.PaymentDuplicate, post_payments.handle),
)
