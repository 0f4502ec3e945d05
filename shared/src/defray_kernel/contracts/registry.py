"""Every event type there is, by name; the event catalogue, schemas and samples are made and checked from it."""

from typing import Final

from defray_kernel.contracts import delivery_v1, grant_v1, ledger_v1, merchant_v1, order_v1, payment_v1
from defray_kernel.contracts.envelope import EventData

EVENTS: Final[dict[str, type[EventData]]] = {
    event.TYPE: event
    for event in (
        order_v1.OrderPlaced,
        order_v1.OrderClosing,
        order_v1.OrderPaid,
        order_v1.OrderCancelled,
        order_v1.OrderExpired,
        order_v1.OrderFulfilled,
        order_v1.OrderRefunded,
        order_v1.OrderRefundRequested,
        grant_v1.GrantGranted,
        grant_v1.GrantUsed,
        grant_v1.GrantRevoked,
        grant_v1.GrantOwed,
        grant_v1.GrantFailed,
        payment_v1.PaymentCreated,
        payment_v1.PaymentPending,
        payment_v1.PaymentSucceeded,
        payment_v1.PaymentFailed,
        payment_v1.PaymentClosed,
        payment_v1.PaymentPaidLate,
        payment_v1.PaymentDuplicate,
        payment_v1.PayableClosed,
        payment_v1.RefundRequested,
        payment_v1.RefundSucceeded,
        payment_v1.RefundFailed,
        payment_v1.RefundAbnormal,
        payment_v1.RefundRefused,
        merchant_v1.MerchantState,
        ledger_v1.AccountPosted,
        delivery_v1.DeliveryDelivered,
        delivery_v1.DeliveryExhausted,
    )
}
