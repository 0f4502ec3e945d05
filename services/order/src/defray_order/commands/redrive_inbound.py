"""Redrive or dismiss what was rejected: an operator's act, audited in the transaction of its effects."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import show
from defray_kernel.parking import ParkedRecord
from defray_order.commands import take_inbound
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.store import inbound


class EndRejected(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants what done about which rejected record; `note` for the audit log."""

    rejected_id: UUID
    actor: str
    note: str = ""


class Ended(StrEnum):
    """What came of it. REFUSED_AGAIN leaves the record open, under the reason of this time."""

    REDRIVEN = "REDRIVEN"
    REFUSED_AGAIN = "REFUSED_AGAIN"
    DISMISSED = "DISMISSED"
    CUT = "CUT"  # only a part of it was kept, so it can be looked at and no more
    NOT_OPEN = "NOT_OPEN"


_SUBJECT: Final = "rej"


async def redrive(command: EndRejected, tx: WriteTx, clock: Clock, vault: RejectedVault) -> Ended:
    """Take the record as if it had been published again now; whatever is wrong with it still is told.

    Raises CannotOpen when the key that sealed it is not in the ring.
    """
    found = await inbound.lock_open(tx, command.rejected_id)
    if found is None:
        return Ended.NOT_OPEN
    if found.truncated or found.sealed is None:
        return Ended.CUT
    content = vault.open(found.rejected_id, found.sealed)
    record = ParkedRecord(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        timestamp=found.timestamp,
        key=content.key,
        value=content.value,
        headers=content.headers,
    )
    taken = await take_inbound.handle([record], tx, clock, may_wait=False)
    ended = Ended.REDRIVEN
    for again in taken.rejected:
        ended = Ended.REFUSED_AGAIN
        await inbound.refused_again(
            tx, command.rejected_id, reason=again.reason, field=again.field, detail=again.detail
        )
    if ended is Ended.REDRIVEN:
        await inbound.end_rejected(tx, command.rejected_id, state=ended, at=clock.real(), by=command.actor)
    await _audit(command, "redrive", {"outcome": ended.value}, tx, clock)
    return ended


async def look(command: EndRejected, tx: WriteTx, clock: Clock) -> None:
    """Note that somebody is about to see what a stranger wrote."""
    await _audit(command, "show", {}, tx, clock)


async def dismiss(command: EndRejected, tx: WriteTx, clock: Clock) -> Ended:
    """Give the record up; what it asked for stays undone."""
    if await inbound.lock_open(tx, command.rejected_id) is None:
        return Ended.NOT_OPEN
    await inbound.end_rejected(tx, command.rejected_id, state=Ended.DISMISSED, at=clock.real(), by=command.actor)
    await _audit(command, "dismiss", {"note": command.note}, tx, clock)
    return Ended.DISMISSED


async def _audit(command: EndRejected, act: str, detail: Mapping[str, object], tx: WriteTx, clock: Clock) -> None:
    subject = show(_SUBJECT, command.rejected_id)
    await audit.append(
        tx, actor=command.actor, action=f"order.inbound.{act}", subject=subject, clock=clock, detail=detail
    )
