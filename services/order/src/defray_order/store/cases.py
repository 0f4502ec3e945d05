"""Cases: opened once each, listed for people, resolved by one of them."""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import CaseId
from defray_kernel.sql import queries
from defray_order.domain.case import Case
from defray_order.domain.order import Refusal

Q = queries(__file__)


async def open_all(tx: WriteTx, cases: Sequence[Case]) -> None:
    """Open cases; one that was opened before, for the same reason and subject, is left as it is."""
    await tx.execute(
        Q.open,
        [c.case_id for c in cases],
        [c.order_id for c in cases],
        [c.reason for c in cases],
        [c.subject for c in cases],
        [c.detail for c in cases],
        [c.opened_at for c in cases],
        [c.cause.correlation_id for c in cases],
        [c.cause.causation_id for c in cases],
    )


async def list_open(conn: ReadConn, *, after: UUID, limit: int) -> list[Case]:
    """Open cases in the order they were opened, from behind `after`."""
    return [
        Case(
            case_id=row["case_id"],
            order_id=row["order_id"],
            reason=Refusal(row["reason"]),
            subject=row["subject"],
            detail=row["detail"],
            opened_at=row["opened_at"],
            cause=Cause(correlation_id=row["correlation_id"], causation_id=row["causation_id"]),
        )
        for row in await conn.fetch(Q.list_open, after, limit)
    ]


async def resolve(tx: WriteTx, case_id: CaseId, *, at: dt.datetime, by: str, resolution: str) -> bool:
    """Close an open case; False when there is none."""
    return await tx.fetchval(Q.resolve, case_id, at, by, resolution) is not None
