"""The timeline of an order, gathered from whatever keeps a part of it; a further part is one more line in SOURCES."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from defray_kernel.db import ReadConn
from defray_kernel.ids import OrderId, show
from defray_order.domain.timeline import StepKind, TimelineStep, in_order
from defray_order.store import grants, heard_events, orders, refund_requests

STEPS_MAX: Final = 500
"""Of each source; no order has so many, but everything has a limit."""

Source: TypeAlias = Callable[[ReadConn, OrderId, int], Awaitable[Sequence[TimelineStep]]]


async def of_order(conn: ReadConn, order_id: OrderId) -> tuple[list[TimelineStep], bool]:
    """All steps in order, and whether there are more than are shown."""
    parts = [await source(conn, order_id, STEPS_MAX + 1) for source in SOURCES]
    steps = sorted((step for part in parts for step in part[:STEPS_MAX]), key=in_order)
    return steps, any(len(part) > STEPS_MAX for part in parts)


async def _heard(conn: ReadConn, order_id: OrderId, limit: int) -> list[TimelineStep]:
    return [
        TimelineStep(
            at=event.occurred_at,
            kind=StepKind.HEARD,
            subject=event.subject,
            what=event.event_type,
            status=event.status,
            amount_minor=event.amount_minor,
            currency=event.currency,
            event_id=event.event_id,
            event_type=event.event_type,
            correlation_id=event.cause.correlation_id,
            causation_id=event.cause.causation_id,
        )
        for event in await heard_events.of_order(conn, order_id, limit=limit)
    ]


async def _moved(conn: ReadConn, order_id: OrderId, limit: int) -> list[TimelineStep]:
    return [
        TimelineStep(
            at=move.at,
            kind=StepKind.MOVED,
            subject=show("ord", order_id),
            what=move.report or "placed",
            status=move.after,
            status_before=move.before,
            note=move.note,
            event_id=move.event_id,
            event_type=move.event_type,
            correlation_id=move.cause.correlation_id,
            causation_id=move.cause.causation_id,
        )
        for move in await orders.transitions(conn, order_id, limit=limit)
    ]


SOURCES: Final[tuple[Source, ...]] = (_heard, _moved, grants.timeline, refund_requests.timeline)
"""Who keeps a part of the timeline; each gives its steps in the order they were taken, at most as many as asked."""
