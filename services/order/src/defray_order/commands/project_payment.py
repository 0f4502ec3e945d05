"""Keep what the payment service told last about each payment, whatever state it is in."""

from collections.abc import Sequence
from typing import TypeVar

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentStateV1
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import OrderId, PaymentId, parse
from defray_kernel.money import Money
from defray_order.domain.payment import OrderPayment
from defray_order.store import order_payments

P = TypeVar("P", bound=PaymentStateV1)


async def handle(events: Sequence[Event[P]], tx: WriteTx, _clock: Clock) -> None:
    """Write the news; what is not newer than what is known changes nothing. Raises Poison for a bad id."""
    await order_payments.project(tx, [_payment(event) for event in events])


def _payment(event: Event[P]) -> OrderPayment:
    data = event.data
    try:
        return OrderPayment(
            payment_id=PaymentId(parse("pay", data.payment_id)),
            order_id=OrderId(parse("ord", data.order_id)),
            status=data.status,
            amount=Money(minor=data.amount_minor, currency=data.currency),
            channel=data.channel,
            paid_minor=data.paid_minor,
            paid_at=data.paid_at,
            sequence=event.sequence,
        )
    except ValueError as error:
        raise Poison(str(error)) from error
