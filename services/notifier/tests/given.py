"""What tests begin with: public events as the other services announce them."""

import datetime as dt
from typing import Any
from uuid import UUID

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentSucceeded
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, show, uuid7
from defray_notifier.commands import tell_merchants
from defray_notifier.domain.message import Told

AT = dt.datetime(2026, 3, 1, 11, 59, tzinfo=dt.UTC)


def succeeded(merchant_id: MerchantId, *, sequence: int = 3) -> Event[Told]:
    """A payment of 199.00 CNY that succeeded."""
    payment_id, order_id = show("pay", uuid7()), show("ord", uuid7())
    data: dict[str, Any] = {
        "payment_id": payment_id,
        "order_id": order_id,
        "merchant_id": show("mer", merchant_id),
        "status": "SUCCEEDED",
        "amount_minor": 19_900,
        "currency": "CNY",
        "channel": "wechat",
        "product": "native",
        "attempt_no": "A1",
        "created_at": AT,
        "expires_at": AT,
        "paid_minor": 19_900,
        "paid_at": AT,
    }
    return Event(
        id=uuid7(),
        source="/payment",
        subject=payment_id,
        key=order_id,
        sequence=sequence,
        time=AT,
        correlation_id=f"corr-{order_id}",
        causation_id=None,
        traceparent=None,
        data=PaymentSucceeded(**data),
    )


async def tell(database: Database, clock: Clock, *events: Event[Told]) -> None:
    """Consume events."""
    async with database.transaction() as tx:
        await tell_merchants.handle(events, tx, clock)


async def states(database: Database) -> dict[UUID, tuple[str, int]]:
    """Deliveries by endpoint: state and attempts of the newest."""
    async with database.read() as conn:
        rows = await conn.fetch("SELECT endpoint_id, state, attempts FROM delivery ORDER BY delivery_id")
    return {row["endpoint_id"]: (row["state"], row["attempts"]) for row in rows}


async def count(database: Database, state: str) -> int:
    """Deliveries in a state."""
    async with database.read() as conn:
        return int(await conn.fetchval("SELECT count(*) FROM delivery WHERE state = $1", state))
