"""Cases: opened once for each payment, reason and cause, listed for people, claimed, annotated and resolved by them."""

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import CaseId, OrderId, PaymentId, RefundId, uuid7
from defray_kernel.sql import queries
from defray_payment.domain.refusals import CaseReason

Q = queries(__file__)

NOTES_MAX: Final = 200
_ATTEMPT_NO_MAX: Final = 64


class CaseState(StrEnum):
    """OPEN: nobody works on it. CLAIMED: its owner does. RESOLVED: somebody has said what was done."""

    OPEN = "OPEN"
    CLAIMED = "CLAIMED"
    RESOLVED = "RESOLVED"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """Something for a person; `cause` leads to the callback, the evidence or the event."""

    reason: CaseReason
    cause: str
    order_id: OrderId | None = None
    payment_id: PaymentId | None = None
    attempt_no: str | None = None
    refund_id: RefundId | None = None


class HeldCase(msgspec.Struct, frozen=True, kw_only=True):
    """A case with how far somebody is with it."""

    case_id: CaseId
    case: Case
    state: CaseState
    owner: str | None
    opened_at: dt.datetime
    claimed_at: dt.datetime | None
    resolved_at: dt.datetime | None
    resolved_by: str | None
    resolution: str | None


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wrote to a case; it is never changed."""

    author: str
    text: str
    written_at: dt.datetime


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which cases; None = all. Without a state: those that are not resolved."""

    state: CaseState | None = None
    reason: CaseReason | None = None
    owner: str | None = None
    order_id: UUID | None = None
    payment_id: UUID | None = None


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
            [c.refund_id for c in cases],
        )


async def page(conn: ReadConn, wanted: Wanted, *, after: UUID, limit: int) -> list[HeldCase]:
    """Cases in the order they were opened, from behind `after`."""
    rows = await conn.fetch(
        Q.page, after, limit, wanted.state, wanted.reason, wanted.owner, wanted.order_id, wanted.payment_id
    )
    return [_held(row) for row in rows]


async def find(conn: ReadConn, case_id: CaseId) -> HeldCase | None:
    """One case."""
    row = await conn.fetchrow(Q.find, case_id)
    return None if row is None else _held(row)


async def lock(tx: WriteTx, case_id: CaseId) -> HeldCase | None:
    """One case, locked until the transaction ends."""
    row = await tx.fetchrow(Q.lock, case_id)
    return None if row is None else _held(row)


async def notes(conn: ReadConn, case_id: CaseId) -> list[Note]:
    """The newest notes of a case, oldest first, at most NOTES_MAX."""
    rows = await conn.fetch(Q.notes, case_id, NOTES_MAX)
    return [Note(author=row["author"], text=row["text"], written_at=row["written_at"]) for row in reversed(rows)]


async def claim(tx: WriteTx, case_id: CaseId, *, owner: str, at: dt.datetime) -> None:
    """Give a locked case to its new owner."""
    await tx.execute(Q.claim, case_id, owner, at)


async def add_note(tx: WriteTx, case_id: CaseId, note: Note) -> None:
    """Write a note to a case."""
    await tx.execute(Q.add_note, uuid7(), case_id, note.author, note.text, note.written_at)


async def resolve(tx: WriteTx, case_id: CaseId, *, at: dt.datetime, by: str, resolution: str) -> None:
    """Close a locked case."""
    await tx.execute(Q.resolve, case_id, at, by, resolution)


def _held(row: Record) -> HeldCase:
    return HeldCase(
        case_id=CaseId(row["case_id"]),
        case=Case(
            reason=CaseReason(row["reason"]),
            cause=row["cause"],
            order_id=row["order_id"],
            payment_id=row["payment_id"],
            attempt_no=row["attempt_no"],
            refund_id=row["refund_id"],
        ),
        state=CaseState(row["state"]),
        owner=row["owner"],
        opened_at=row["opened_at"],
        claimed_at=row["claimed_at"],
        resolved_at=row["resolved_at"],
        resolved_by=row["resolved_by"],
        resolution=row["resolution"],
    )
