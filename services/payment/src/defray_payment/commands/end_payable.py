"""End a payable that is being closed, once none of its payments is open: exactly one `payable.closed` is told."""

import datetime as dt
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.outbox import OutboxEvent
from defray_payment import announce
from defray_payment.domain.payable import Payable, PayableStatus
from defray_payment.store import payables, payments
from defray_payment.store.payables import PayableMove


async def if_nothing_is_open(
    tx: WriteTx, locked: Sequence[Payable], causes: Mapping[OrderId, Cause], now: dt.datetime
) -> list[OutboxEvent]:
    """Close the payables that wait for it and tell so; a claimed one was told by its payment already.

    The caller holds the payables' locks and puts the events into the outbox after those of their payments.
    """
    waiting = [p for p in locked if p.status is PayableStatus.CLOSING and p.claimed_by is None]
    if not waiting:
        return []
    open_orders = {found.payment.order_id for found in await payments.live_of_orders(tx, [p.order_id for p in waiting])}
    moves = [
        PayableMove(
            before=payable,
            after=replace(
                payable,
                status=PayableStatus.CLOSED,
                event_seq=payable.event_seq + 1,
                version=payable.version + 1,
            ),
            cause=causes[payable.order_id].causation_id or "closing",
        )
        for payable in waiting
        if payable.order_id not in open_orders
    ]
    closed = await payables.save(tx, moves, now)
    return [announce.payable_closed(payable, causes[payable.order_id], now) for payable in closed]
