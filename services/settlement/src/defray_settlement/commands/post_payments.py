"""Post money that channels have taken: one entry per payment."""

from collections.abc import Sequence
from typing import Final, TypeVar

from defray_kernel import ids
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentDuplicate, PaymentPaidLate, PaymentStateV1, PaymentSucceeded
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId
from defray_kernel.money import Money
from defray_settlement.commands import post_entries
from defray_settlement.domain.posting import Flow, Kind

P = TypeVar("P", bound=PaymentStateV1)
KINDS: Final[dict[type[PaymentStateV1], Kind]] = {
    PaymentSucceeded: Kind.SUCCEEDED,
    PaymentPaidLate: Kind.PAID_LATE,
    PaymentDuplicate: Kind.DUPLICATE,
}


async def handle(events: Sequence[Event[P]], tx: WriteTx, clock: Clock) -> None:
    """Post each payment once. Raises like `post_entries.handle`."""
    await post_entries.handle([flow_of(event) for event in events], tx, clock)


def flow_of(event: Event[P]) -> Flow:
    """The money that came in. Raises Poison for an event that contradicts itself."""
    data = event.data
    # What the channel took is what counts; a payment that succeeded took its own amount.
    gross = data.amount_minor if data.paid_minor is None else data.paid_minor
    try:
        flow = Flow(
            kind=KINDS[type(data)],
            payment_id=ids.parse("pay", data.payment_id),
            order_id=ids.parse("ord", data.order_id),
            merchant_id=MerchantId(ids.parse("mer", data.merchant_id)),
            channel=data.channel,
            gross=Money(minor=gross, currency=data.currency),
            at=data.paid_at or event.time,
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
    if gross <= 0 or (flow.kind is Kind.SUCCEEDED and gross != data.amount_minor):
        raise Poison("the amount taken does not fit the payment")
    return flow
