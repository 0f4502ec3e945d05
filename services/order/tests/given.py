"""What tests start from: an order in any state."""

import datetime as dt

from defray_kernel.ids import MerchantId, OrderId, PaymentId, uuid7
from defray_kernel.money import Money
from defray_order.domain.order import HOLDS_MONEY, Order, OrderItem, OrderState

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
MERCHANT, PAYMENT = MerchantId(uuid7()), PaymentId(uuid7())


def order(state: OrderState) -> Order:
    paid = state in HOLDS_MONEY
    refunded = {OrderState.PARTIALLY_REFUNDED: 100, OrderState.REFUNDED: 300}.get(state, 0)
    ended = state in {OrderState.CLOSING, OrderState.CANCELLED, OrderState.EXPIRED}
    return Order(
        order_id=OrderId(uuid7()),
        merchant_id=MERCHANT,
        merchant_order_no="no-1",
        state=state,
        total=Money(minor=300, currency="CNY"),
        items=(OrderItem(sku="a", title="A", quantity=3, unit_amount_minor=110, discount_minor=30),),
        correlation_id="c" * 32,
        placed_at=NOW,
        expires_at=NOW + dt.timedelta(hours=2),
        closing_reason="customer" if ended else None,
        paid_at=NOW if paid else None,
        payment_id=PAYMENT if paid else None,
        refunded_minor=refunded,
        fulfilled_at=NOW if state is OrderState.FULFILLED else None,
        version=3,
        event_seq=2,
    )
