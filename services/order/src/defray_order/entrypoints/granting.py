"""Give what paid orders bring, by the clock: pending grants are claimed in batches and tried until they are given or given up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence

from defray_kernel.clock import Clock
from defray_kernel.db import Database, WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.timers import Timer
from defray_order.commands import fulfil_grants
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.domain.grant import GrantId
from defray_order.store import grants


def granting_timer(
    database: Database, clock: Clock, codes: CouponCodes, after_commit: Callable[[], None] | None
) -> Timer:
    """The timer; a worker that dies costs its grants one lease, and gives none of them twice."""

    async def claim(tx: WriteTx, now: dt.datetime, limit: int) -> Sequence[tuple[GrantId, OrderId]]:
        return await grants.claim_due(tx, now, limit)

    async def apply(due: Sequence[tuple[GrantId, OrderId]]) -> None:
        async with database.transaction() as tx:
            await fulfil_grants.handle(due, tx, clock, codes=codes)
        if after_commit is not None:
            after_commit()

    return Timer(name="granting", claim=claim, apply=apply)
