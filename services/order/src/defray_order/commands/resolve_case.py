"""Resolve a case: a person has looked and says what was done; the act is audited in the same transaction."""

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import CaseId, show
from defray_order.store import cases


class ResolveCase(msgspec.Struct, frozen=True, kw_only=True):
    """Who resolves which case, and how."""

    case_id: CaseId
    actor: str
    resolution: str


async def handle(command: ResolveCase, tx: WriteTx, clock: Clock) -> bool:
    """Close the case; False when it is not open."""
    done = await cases.resolve(tx, command.case_id, at=clock.now(), by=command.actor, resolution=command.resolution)
    if done:
        await audit.append(
            tx,
            actor=command.actor,
            action="order.case.resolve",
            subject=show("case", command.case_id),
            clock=clock,
            detail={"resolution": command.resolution},
        )
    return done
