"""Cases: opened once for each payment, reason and cause, listed for people, resolved by one of them."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import CaseId, OrderId, PaymentId, uuid7
from defray_kernel.sql import queries
from defray_payment.domain.refusals import CaseReason

Q = queries(__file__)

_ATTEMPT_NO_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something for a person; `cause` leads to the callback, the evidence or the event."""

    reason: CaseReason
    cause: str
    order_id: OrderId | None = None
    payment_id: PaymentId | None = None
    attempt_no: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCase:
    """A case that waits."""

    case_id: CaseId
    case: Case
    opened_at: dt.datetime


async def open_all(tx: WriteTx, cases: Sequence[Case], at: dt.datetime) -> None:
    """Put cases before a person; one that is there already stays as it is."""
    if cases:
        ids: list[UUID] = [uuid7() for _ in cases]
        await tx.execute(
            Q.open,
            ids,
            [c.order_id for c in cases],
            [c.payment_id for c in cases],
            [None if c.attempt_no is None else c.attempt_no[:_ATTEMPT_NO_MAX] for c in cases],
            [c.reason for c in cases],
            [c.cause for c in cases],
            at,
        )


async def list_open(conn: ReadConn, *, after: UUID, limit: int) -> list[OpenCase]:
    """Open cases in the order they were opened, from behind `after`."""
    return [
        OpenCase(
            case_id=CaseId(row["case_id"]),
            case=Case(
                reason=CaseReason(row["reason"]),
                cause=row["cause"],
                order_id=row["order_id"],
                payment_id=row["payment_id"],
                attempt_no=row["attempt_no"],
            ),
            opened_at=row["opened_at"],
        )
        for row in await conn.fetch(Q.list_open, after, limit)
    ]


async def resolve(tx: WriteTx, case_id: CaseId, *, at: dt.datetime, by: str, resolution: str) -> bool:
    """Close an open case; False when there is none."""
    return await tx.fetchval(Q.resolve, case_id, at, by, resolution) is not None
