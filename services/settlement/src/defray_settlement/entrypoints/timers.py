"""Due work of the settlement service."""

import datetime as dt
from collections.abc import Callable, Sequence

from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.timers import Timer
from defray_settlement.commands import announce_merchants


def timers(clock: Clock, poke: Callable[[], None]) -> list[Timer]:
    """Everything that comes due; `poke` tells the relay."""

    async def announce(tx: WriteTx, _now: dt.datetime, limit: int) -> Sequence[object]:
        # The announcement is the whole work and commits with the claim.
        return [None] * await announce_merchants.handle(tx, clock, limit)

    async def announced(_rows: Sequence[object]) -> None:
        poke()

    return [Timer(name="announce_merchants", claim=announce, apply=announced, every_s=5.0)]
