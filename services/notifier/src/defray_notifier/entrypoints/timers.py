"""Due work of the notifier: deliveries."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Final

from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.timers import Timer
from defray_notifier.delivery.dispatcher import Dispatcher
from defray_notifier.domain.delivery import Claimed
from defray_notifier.store import deliveries

CLAIM_MAX: Final = 256
_EVERY_S: Final = 0.25


def deliver(dispatcher: Dispatcher, clock: Clock, wake: asyncio.Event) -> Timer:
    """Claims what is due as far as there is room, and leaves the sending to the dispatcher, which waits for nobody."""
    asked = 0

    async def claim(tx: WriteTx, now: dt.datetime, limit: int) -> Sequence[Claimed]:
        nonlocal asked
        asked = min(limit, dispatcher.room())
        if asked <= 0:
            return []
        return await deliveries.claim(
            tx,
            now=now,
            real=clock.real(),
            limit=asked,
            rooms=dispatcher.rooms(),
            endpoint_max=dispatcher.endpoint_in_flight_max,
        )

    async def apply(rows: Sequence[Claimed]) -> None:
        dispatcher.take(rows, room=asked)

    return Timer(name="deliver", claim=claim, apply=apply, every_s=_EVERY_S, wake=wake, batch_max=CLAIM_MAX)
