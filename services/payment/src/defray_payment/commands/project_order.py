"""Keep what orders say about their payment, and end payables that orders ask to end."""

import contextlib
from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from defray_kernel import ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.order_v1 import OrderClosing, OrderPlaced, OrderStateV1
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import Money
from defray_payment.commands import end_payable
from defray_payment.domain.payable import OrderTerms, Payable, PayableStatus
from defray_payment.domain.refusals import CaseReason
from defray_payment.store import attempts, cases, payables, payments
from defray_payment.store.cases import Case
from defray_payment.store.payables import PayableMove

S = TypeVar("S", bound=OrderStateV1)


async def lock(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Create and lock the payables of all rounds at once, in order of id, before the first round.

    An order that is heard of first by its closing gets a row too: the tombstone that refuses a payment token later.
    """
    by_order: dict[OrderId, OrderTerms] = {}
    for event in events:
        # What cannot be read is its handler's to refuse; it must not hold up the others here.
        with contextlib.suppress(Poison):
            terms = _terms(event)
            by_order.setdefault(terms.order_id, terms)
    if by_order:
        await payables.ensure(tx, list(by_order.values()), max(event.time for event in events))
        await payables.lock(tx, list(by_order))


async def placed(events: Sequence[Event[OrderPlaced]], tx: WriteTx, clock: Clock) -> None:
    """The order is known now: payments may be started by API key. A token that told otherwise is a case."""
    await _project(events, tx, clock)


async def closing(events: Sequence[Event[OrderClosing]], tx: WriteTx, clock: Clock) -> None:
    """No new payments from now on; open ones are closed at their channels by the timer; `payable.closed` follows."""
    now = clock.now()
    projected = await _project(events, tx, clock)
    moves = [
        PayableMove(
            before=payable,
            after=replace(
                payable,
                status=PayableStatus.CLOSING,
                closing_reason=event.data.closing_reason or "system",
                version=payable.version + 1,
            ),
            cause=str(event.id),
        )
        for event, payable in projected
        if payable.status is PayableStatus.OPEN
    ]
    closing_now = await payables.save(tx, moves, now)
    unclaimed = [payable.order_id for payable in closing_now if payable.claimed_by is None]
    live = await payments.live_of_orders(tx, unclaimed)
    await attempts.save(tx, [replace(f.attempt, closing=True, next_query_at=now) for f in live], now)
    causes = {payable.order_id: event.cause() for event, payable in projected}
    await outbox.append(tx, await end_payable.if_nothing_is_open(tx, closing_now, causes, now))


async def _project(events: Sequence[Event[S]], tx: WriteTx, clock: Clock) -> list[tuple[Event[S], Payable]]:
    """Move the sequence guard; returns the events that are news, each with its payable."""
    terms = [_terms(event) for event in events]
    await payables.ensure(tx, terms, clock.now())
    locked = await payables.lock(tx, [each.order_id for each in terms])
    news = [
        (event, each, locked[each.order_id])
        for event, each in zip(events, terms, strict=True)
        if event.sequence > locked[each.order_id].order_seq
    ]
    moves = [
        PayableMove(
            before=payable,
            after=replace(
                payable,
                order_seq=event.sequence,
                order_expires_at=each.expires_at,
                version=payable.version + 1,
            ),
            cause=str(event.id),
        )
        for event, each, payable in news
    ]
    saved = await payables.save(tx, moves, clock.now())
    to_open = [
        Case(reason=CaseReason.ORDER_MISMATCH, cause=f"event:{event.id}", order_id=payable.order_id)
        for event, each, payable in news
        if not payable.agrees_with(each)
    ]
    await cases.open_all(tx, to_open, clock.now())
    return [(event, payable) for (event, _, _), payable in zip(news, saved, strict=True)]


def _terms(event: Event[S]) -> OrderTerms:
    data = event.data
    try:
        return OrderTerms(
            order_id=OrderId(ids.parse("ord", data.order_id)),
            merchant_id=MerchantId(ids.parse("mer", data.merchant_id)),
            amount=Money(minor=data.amount_minor, currency=data.currency),
            expires_at=data.expires_at,
            correlation_id=event.correlation_id,
        )
    except ValueError as error:
        raise Poison(str(error)) from None
