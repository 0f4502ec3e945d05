"""Post late money that its order was reopened for: from suspense to the merchant less the fee, once both topics have told."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from defray_kernel import ids
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.order_v1 import OrderPaid
from defray_kernel.contracts.payment_v1 import PaymentPaidLate
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId
from defray_kernel.money import Money
from defray_settlement.commands import post_entries, post_payments
from defray_settlement.domain.posting import Flow, Kind
from defray_settlement.store import order_facts
from defray_settlement.store.order_facts import LateMoney, Reopening


async def handle_paid(events: Sequence[Event[OrderPaid]], tx: WriteTx, clock: Clock) -> None:
    """Note which orders were reopened, and post what is complete by that. Raises like `post_entries.handle`.

    Any other paid order is no news: its payment told of the money.
    """
    told = [reopening_of(event) for event in events if event.data.reopened]
    if not told:
        return
    noted = await order_facts.lock(tx, [each.order_id for each in told])
    if any(_content(noted[each.order_id]) != _content(each) for each in told if each.order_id in noted):
        raise Poison("reopened before for other money")
    await order_facts.note_reopened(tx, [each for each in told if each.order_id not in noted])
    await _post([noted.get(each.order_id, each) for each in told], tx, clock)


async def handle_late(events: Sequence[Event[PaymentPaidLate]], tx: WriteTx, clock: Clock) -> None:
    """Post late money, and at once what is complete by that. Raises like `post_entries.handle`."""
    noted = await order_facts.lock(tx, {post_payments.flow_of(event).order_id for event in events})
    await post_payments.handle(events, tx, clock)
    await _post(list(noted.values()), tx, clock)


async def flows_of(told: Iterable[Reopening], tx: WriteTx) -> list[Flow]:
    """The flows of reopened orders whose late money is posted. Raises Poison where the two topics disagree."""
    reopened = {each.payment_id: each for each in told}
    late = await order_facts.late_money(tx, list(reopened)) if reopened else {}
    return [_flow(reopened[payment_id], money) for payment_id, money in late.items()]


def reopening_of(event: Event[OrderPaid]) -> Reopening:
    """What an order that was reopened tells. Raises Poison for an event that contradicts itself."""
    data = event.data
    try:
        return Reopening(
            order_id=ids.parse("ord", data.order_id),
            payment_id=ids.parse("pay", data.payment_id or ""),
            merchant_id=MerchantId(ids.parse("mer", data.merchant_id)),
            amount=Money(minor=data.amount_minor, currency=data.currency),
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error


async def _post(told: Sequence[Reopening], tx: WriteTx, clock: Clock) -> None:
    flows = await flows_of(told, tx)
    if flows:
        await post_entries.handle(flows, tx, clock)


def _flow(reopening: Reopening, late: LateMoney) -> Flow:
    if (late.order_id, late.merchant_id, late.amount) != (
        reopening.order_id,
        reopening.merchant_id,
        reopening.amount,
    ):
        raise Poison("the order was reopened for other money than came late")
    return Flow(
        kind=Kind.REOPENED,
        payment_id=late.payment_id,
        order_id=late.order_id,
        merchant_id=late.merchant_id,
        channel=late.channel,
        gross=late.amount,
        returned_minor=late.returned_minor,
        at=late.paid_at,
        cause=reopening.cause,
    )


def _content(reopening: Reopening) -> tuple[UUID, MerchantId, Money]:
    return reopening.payment_id, reopening.merchant_id, reopening.amount
