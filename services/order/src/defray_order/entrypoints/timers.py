"""What happens by the clock: orders whose time is up are asked to end."""

import datetime as dt
from collections.abc import Callable, Sequence

from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.timers import Timer
from defray_order.commands import expire_orders


def expiry_timer(clock: Clock, after_commit: Callable[[], None]) -> Timer:
    """The timer that looks for orders past their expiry, in business time.

    What it takes is locked without waiting and moved in the claim's own transaction: there is nothing to do outside of it,
    and a worker that dies leaves nothing half done.
    """

    async def take(tx: WriteTx, now: dt.datetime, limit: int) -> Sequence[object]:
        return await expire_orders.handle(now, tx, clock, limit=limit)

    async def taken(_rows: Sequence[object]) -> None:
        after_commit()

    return Timer(name="order_expiry", claim=take, apply=taken)
