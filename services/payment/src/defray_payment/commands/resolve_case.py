"""Resolve a case: a person has looked and says what was done; audited in the same transaction."""

from dataclasses import dataclass

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import CaseId, show
from defray_payment.store import cases


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveCase:
    """Who resolves which case, and what was done."""

    case_id: CaseId
    actor: str
    resolution: str


async def handle(command: ResolveCase, tx: WriteTx, clock: Clock) -> bool:
    """Close the case; False when it is not open."""
    if not await cases.resolve(tx, command.case_id, at=clock.now(), by=command.actor, resolution=command.resolution):
        return False
    await audit.append(
        tx,
        actor=command.actor,
        action="payment.case.resolve",
        subject=show("case", command.case_id),
        clock=clock,
        detail={"resolution": command.resolution},
    )
    return True
