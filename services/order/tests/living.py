"""What tests of an order's life act with: cancels, closed payables, orders placed by command."""

import datetime as dt
from typing import Any

from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import Database
from defray_kernel.ids import OrderId, show, uuid7
from defray_kernel.money import Money
from defray_order.commands import cancel_order, end_order, place_order
from defray_order.commands.cancel_order import CancelOrder
from defray_order.commands.place_order import Outcome, PlaceOrder
from defray_order.domain.order import OrderItem

from .given import NOW
from .test_reports import CLOCK, MERCHANT, event

CAUSE = Cause(correlation_id="c" * 32, causation_id="because")


async def cancel(database: Database, *commands: CancelOrder) -> list[cancel_order.Outcome]:
    async with database.transaction() as tx:
        return await cancel_order.handle(commands, tx, CLOCK)


def wish(order_id: OrderId, by: cancel_order.By = "merchant", **changes: Any) -> CancelOrder:  # noqa: ANN401
    facts: dict[str, Any] = {"merchant_id": MERCHANT, "order_id": order_id, "by": by, "cause": CAUSE}
    return CancelOrder(**(facts | changes))


def by_number(number: str, **changes: Any) -> CancelOrder:  # noqa: ANN401
    facts: dict[str, Any] = {"merchant_order_no": number, "by": "merchant", "tombstone_currency": "CNY", "cause": CAUSE}
    return CancelOrder(**({"merchant_id": MERCHANT} | facts | changes))


async def closed(database: Database, order_id: OrderId, reason: Any = "merchant") -> None:  # noqa: ANN401
    data = v1.PayableClosed(
        order_id=show("ord", order_id), merchant_id=show("mer", MERCHANT), reason=reason, closed_at=NOW
    )
    async with database.transaction() as tx:
        await end_order.handle([event(data)], tx, CLOCK)


def wished(number: str, **changes: Any) -> PlaceOrder:  # noqa: ANN401
    facts: dict[str, Any] = {
        "order_id": OrderId(uuid7()),
        "merchant_id": MERCHANT,
        "merchant_order_no": number,
        "total": Money(minor=300, currency="CNY"),
        "items": (OrderItem(sku="a", title="A", quantity=1, unit_amount_minor=300, discount_minor=0),),
        "expires_in": dt.timedelta(hours=2),
        "content_hash": b"\1" * 32,
        "idempotency_key": None,
        "request_hash": b"",
        "cause": CAUSE,
    }
    return PlaceOrder(**(facts | changes))


async def place(database: Database, *commands: PlaceOrder) -> list[Outcome]:
    async with database.transaction() as tx:
        return await place_order.handle(commands, tx, CLOCK)
