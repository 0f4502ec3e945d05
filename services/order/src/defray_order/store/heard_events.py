"""What was heard of orders from other services: each event once, as evidence."""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

import msgspec

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.sql import queries

Q = queries(__file__)


class HeardEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as far as a timeline shows it; amounts in minor units."""

    order_id: OrderId
    event_id: UUID
    event_type: str
    subject: str
    status: str | None
    currency: str | None
    amount_minor: int | None
    occurred_at: dt.datetime
    cause: Cause


async def note(tx: WriteTx, events: Sequence[HeardEvent]) -> None:
    """Keep events; what was noted before is left as it is."""
    await tx.execute(
        Q.note,
        [e.order_id for e in events],
        [e.event_id for e in events],
        [e.event_type for e in events],
        [e.subject for e in events],
        [e.status for e in events],
        [e.currency for e in events],
        [e.amount_minor for e in events],
        [e.occurred_at for e in events],
        [e.cause.correlation_id for e in events],
        [e.cause.causation_id for e in events],
    )


async def of_order(conn: ReadConn, order_id: OrderId, *, limit: int) -> list[HeardEvent]:
    """What was heard of an order, in the order it happened, at most `limit` events."""
    return [
        HeardEvent(
            order_id=order_id,
            event_id=row["event_id"],
            event_type=row["event_type"],
            subject=row["subject"],
            status=row["status"],
            currency=row["currency"],
            amount_minor=row["amount_minor"],
            occurred_at=row["occurred_at"],
            cause=Cause(correlation_id=row["correlation_id"], causation_id=row["causation_id"]),
        )
        for row in await conn.fetch(Q.of_order, order_id, limit)
    ]
