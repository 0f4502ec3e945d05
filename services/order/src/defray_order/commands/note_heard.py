"""Note what was heard of orders: the evidence that their timelines show."""

from collections.abc import Iterator, Sequence
from typing import Any

from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PayableClosed, PaymentStateV1, RefundRefused, RefundStateV1
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, parse
from defray_order.store import heard_events
from defray_order.store.heard_events import HeardEvent


async def handle(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Note events of orders; one whose ids cannot be read is its own handler's to refuse."""
    heard = list(_heard(events))
    if heard:
        await heard_events.note(tx, heard)


def _heard(events: Sequence[Event[Any]]) -> Iterator[HeardEvent]:
    subject: str
    status: str
    for event in events:
        data = event.data
        match data:
            case PaymentStateV1():
                subject, status = data.payment_id, data.status
            case RefundStateV1():
                subject, status = data.refund_id, data.status
            case RefundRefused():
                subject, status = data.refund_request_id, data.code
            case PayableClosed():
                subject, status = data.order_id, data.reason
            case _:
                continue
        try:
            order_id = OrderId(parse("ord", data.order_id))
        except ValueError:
            continue
        yield HeardEvent(
            order_id=order_id,
            event_id=event.id,
            event_type=data.TYPE,
            subject=subject[:64] or "?",
            status=status[:32],
            currency=None if isinstance(data, PayableClosed) else data.currency,
            amount_minor=None if isinstance(data, PayableClosed) else data.amount_minor,
            occurred_at=event.time,
            cause=event.cause(),
        )
