"""Resolve a case: a person has looked and says what was done; audited in the same transaction."""

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import CaseId, show
from defray_payment.domain.refusals import CaseRefusal
from defray_payment.store import cases
from defray_payment.store.cases import CaseState


class ResolveCase(msgspec.Struct, frozen=True, kw_only=True):
    """Who resolves which case, and what was done."""

    case_id: CaseId
    actor: str
    resolution: str


async def handle(command: ResolveCase, tx: WriteTx, clock: Clock) -> CaseRefusal | None:
    """Close the case, unless somebody else works on it. None when done."""
    held = await cases.lock(tx, command.case_id)
    if held is None or held.state is CaseState.RESOLVED:
        return CaseRefusal.NOT_FOUND
    if held.owner not in {None, command.actor}:
        return CaseRefusal.CLAIMED
    await cases.resolve(tx, command.case_id, at=clock.now(), by=command.actor, resolution=command.resolution)
    await audit.append(
        tx,
        actor=command.actor,
        action="payment.case.resolve",
        subject=show("case", command.case_id),
        clock=clock,
        detail={"resolution": command.resolution},
    )
    return None
