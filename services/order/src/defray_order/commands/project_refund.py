"""Keep what the payment service told last about each refund, whatever state it is in."""

from collections.abc import Sequence
from typing import TypeVar

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import RefundStateV1
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import OrderId, PaymentId, RefundId, parse
from defray_kernel.money import Money
from defray_order.domain.refund import OrderRefund
from defray_order.store import order_refunds

R = TypeVar("R", bound=RefundStateV1)


async def handle(events: Sequence[Event[R]], tx: WriteTx, _clock: Clock) -> None:
    """Write the news; what is not newer than what is known changes nothing. Raises Poison for a bad id."""
    await order_refunds.project(tx, [_refund(event) for event in events])


def _refund(event: Event[R]) -> OrderRefund:
    data = event.data
    try:
        return OrderRefund(
            refund_id=RefundId(parse("rfd", data.refund_id)),
            payment_id=PaymentId(parse("pay", data.payment_id)),
            order_id=OrderId(parse("ord", data.order_id)),
            status=data.status,
            reason=data.reason,
            amount=Money(minor=data.amount_minor, currency=data.currency),
            requested_at=data.requested_at,
            done_at=data.done_at,
            sequence=event.sequence,
        )
    except ValueError as error:
        raise Poison(str(error)) from error
