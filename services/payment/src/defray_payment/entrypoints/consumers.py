"""What the payment service listens to: one line per event (beside merchants, which the kernel projects)."""

from typing import Final

from defray_kernel.consumer import Subscription
from defray_kernel.contracts import order_v1
from defray_payment.commands import project_order, take_refund_requests

ORDERS_TOPIC: Final = order_v1.TOPIC
SUBSCRIPTIONS: Final = (
    Subscription(order_v1.OrderPlaced, project_order.placed),
    Subscription(order_v1.OrderClosing, project_order.closing),
    Subscription(order_v1.OrderRefundRequested, take_refund_requests.handle),
)
