"""Ask orders to end whose time is up: CLOSING, which the payment service decides."""

import datetime as dt
from collections.abc import Sequence

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId
from defray_order.commands import apply_reports
from defray_order.commands.effects import Move
from defray_order.domain.order import Moved, Report, Reported, decide
from defray_order.store import orders


async def handle(now: dt.datetime, tx: WriteTx, clock: Clock, *, limit: int) -> Sequence[OrderId]:
    """Take up to `limit` orders that are due and not locked by anybody, those due longest first; returns them."""
    due = await orders.lock_due(tx, now, limit)
    known = await orders.get(tx, due) if due else {}
    moves = []
    for order in known.values():
        asked = Reported(report=Report.EXPIRY_DUE, merchant_id=order.merchant_id, at=now, reason="expired")
        decision = decide(order, asked)
        assert isinstance(decision, Moved), decision  # Found by what the rule asks for, and locked since.
        cause = Cause(correlation_id=order.correlation_id)
        moves.append(Move(before=order, after=decision.order, report=asked.report, cause=cause))
    await apply_reports.carry_out(moves, tx, clock)
    return due
