"""Tell merchants' states again, so that compaction keeps the newest even when an old record was sent behind it."""

import dataclasses

from defray_kernel import ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_settlement import announce
from defray_settlement.store import merchants


async def handle(tx: WriteTx, clock: Clock, limit: int) -> int:
    """Announce merchants that are due, under their locks; returns how many."""
    due = await merchants.lock_to_announce(tx, clock.real(), limit)
    if due:
        cause = Cause(correlation_id=f"announce-{ids.uuid7().hex}")
        again = [dataclasses.replace(m, version=m.version + 1, event_seq=m.event_seq + 1) for m in due]
        await merchants.announced_again(tx, again, clock.real())
        await outbox.append(tx, [announce.merchant(m, cause=cause, at=clock.now()) for m in again])
    return len(due)
