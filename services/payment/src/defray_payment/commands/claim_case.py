"""Claim a case: one person works on it, and everybody sees who; audited in the same transaction."""

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import CaseId, show
from defray_payment.domain.refusals import CaseRefusal
from defray_payment.store import cases
from defray_payment.store.cases import CaseState


class ClaimCase(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes which case; `take_over` takes it from its owner."""

    case_id: CaseId
    actor: str
    take_over: bool = False


async def handle(command: ClaimCase, tx: WriteTx, clock: Clock) -> CaseRefusal | None:
    """Give the case to the actor; one that is the actor's already stays as it is. None when done."""
    held = await cases.lock(tx, command.case_id)
    if held is None:
        return CaseRefusal.NOT_FOUND
    if held.state is CaseState.RESOLVED:
        return CaseRefusal.RESOLVED
    if held.owner == command.actor:
        return None
    if held.owner is not None and not command.take_over:
        return CaseRefusal.CLAIMED
    await cases.claim(tx, command.case_id, owner=command.actor, at=clock.now())
    await audit.append(
        tx,
        actor=command.actor,
        action="payment.case.claim",
        subject=show("case", command.case_id),
        clock=clock,
        detail={"from": held.owner or ""},
    )
    return None
