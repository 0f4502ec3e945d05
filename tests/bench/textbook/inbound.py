"""The twin's inbound door: orders that other services publish, one event a transaction, as the tutorials have it."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tests.bench.textbook import base
from tests.bench.textbook.base import Received, Service
from tests.bench.textbook.order import TABLES, Merchant, Order, OrderBody, move, new_order

TOPIC = "textbook.order.inbound"


async def order_requested(session: AsyncSession, event: Received) -> None:
    """Place the order, once per merchant's number."""
    wish = OrderBody.model_validate({name: value for name, value in event.data.items() if name != "merchant_id"})
    merchant = await session.get(Merchant, event.data["merchant_id"])
    if merchant is None:
        raise LookupError("unknown merchant")
    if sum(item.quantity * item.unit_amount_minor for item in wish.items) != wish.amount_minor:
        raise ValueError("amounts do not add up")
    query = select(Order).where(Order.merchant_id == merchant.id, Order.merchant_order_no == wish.merchant_order_no)
    if (await session.execute(query)).scalar_one_or_none() is not None:
        return
    placed = new_order(wish, merchant)
    session.add(placed)
    await session.flush()
    move(session, placed, "PLACED", "order.placed")


SERVICE = Service(name="order-inbound", tables=TABLES, topics=(TOPIC,), handlers={"order.requested": order_requested})

if __name__ == "__main__":
    base.main(SERVICE)
