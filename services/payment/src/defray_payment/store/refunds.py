"""The refunds' rows and the sums they reserve of their payments; every move logged, all under their payable's lock."""

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId, PaymentId, RefundId, uuid7
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_payment.domain.checks import Check
from defray_payment.domain.payment import Payment
from defray_payment.domain.refund import Refund, RefundReason, RefundStatus
from defray_payment.domain.reports import RefundClaim

Q = queries(__file__)

PER_PAGE_MAX: Final = 100
_NATIVE_STATE_MAX: Final = 64
_REFUND_NO_MAX: Final = 64
_encode = msgspec.json.Encoder().encode


class RefundMove(msgspec.Struct, frozen=True, kw_only=True):
    """`before` as read under the lock, `after` with its new content and the next version, and why."""

    before: Refund
    after: Refund
    cause: str

    def __post_init__(self) -> None:
        assert self.after.version == self.before.version + 1


class RefundRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the order service that no refund is made for, and why."""

    request_id: UUID
    order_id: OrderId
    payment_id: UUID
    amount_minor: int
    code: str
    cause: Cause


class RefundEvidence(msgspec.Struct, frozen=True, kw_only=True):
    """One report with its checks and what became of it."""

    claim: RefundClaim
    cause: str
    refund_id: RefundId | None
    checks: tuple[Check, ...]
    verdict: str


async def insert(tx: WriteTx, refunds: Sequence[Refund], causes: Sequence[str], at: dt.datetime) -> None:
    """Add new refunds and log their first state. Raises UniqueViolationError for a second return by the same rule."""
    if not refunds:
        return
    await tx.execute(
        Q.insert,
        [r.refund_id for r in refunds],
        [r.payment_id for r in refunds],
        [r.order_id for r in refunds],
        [r.merchant_id for r in refunds],
        [r.channel for r in refunds],
        [r.account_id for r in refunds],
        [r.attempt_no for r in refunds],
        [r.channel_txn_id for r in refunds],
        [r.total.minor for r in refunds],
        [r.amount.minor for r in refunds],
        [r.amount.currency for r in refunds],
        [r.reason for r in refunds],
        [r.note for r in refunds],
        [r.refund_no for r in refunds],
        [r.doubt for r in refunds],
        [r.next_query_at for r in refunds],
        [r.correlation_id for r in refunds],
        at,
        list(causes),
        [r.request_id for r in refunds],
    )


async def reserve(tx: WriteTx, before: Sequence[Payment], after: Sequence[Payment], at: dt.datetime) -> None:
    """Write payments' refund sums. Raises CheckViolationError when they would exceed what was paid."""
    if not after:
        return
    moved = await tx.fetchval(
        Q.reserve,
        [p.payment_id for p in after],
        [p.version for p in before],
        [p.refund_reserved_minor for p in after],
        [p.refunded_minor for p in after],
        at,
    )
    assert moved == len(after), "a payment was written without its payable's lock"


async def counts(conn: ReadConn, payment_ids: Sequence[PaymentId]) -> dict[UUID, int]:
    """How many refunds each payment has had; payments without any are left out."""
    rows = await conn.fetch(Q.counts, list(payment_ids)) if payment_ids else []
    return {row["payment_id"]: row["refunds"] for row in rows}


async def sent_back(conn: ReadConn, payment_ids: Sequence[PaymentId]) -> set[tuple[UUID, RefundReason]]:
    """What rules have sent back of these payments."""
    rows = await conn.fetch(Q.sent_back, list(payment_ids)) if payment_ids else []
    return {(row["payment_id"], RefundReason(row["reason"])) for row in rows}


async def answered(tx: WriteTx, request_ids: Sequence[UUID]) -> set[UUID]:
    """Which of the order service's requests have been answered, by a refund or by a refusal."""
    return {row["request_id"] for row in await tx.fetch(Q.answered, list(request_ids))}


async def refuse(tx: WriteTx, refusals: Sequence[RefundRefusal], at: dt.datetime) -> None:
    """Keep that these requests were refused. Raises UniqueViolationError for one that was refused before."""
    await tx.execute(
        Q.refuse,
        [r.request_id for r in refusals],
        [r.order_id for r in refusals],
        [r.payment_id for r in refusals],
        [r.amount_minor for r in refusals],
        [r.code for r in refusals],
        [r.cause.causation_id for r in refusals],
        [r.cause.correlation_id for r in refusals],
        at,
    )


async def orders_of(conn: ReadConn, refund_nos: Sequence[str]) -> dict[str, OrderId]:
    """Which order each known refund belongs to; it never changes."""
    rows = await conn.fetch(Q.orders_of, list(set(refund_nos)))
    return {row["refund_no"]: OrderId(row["order_id"]) for row in rows}


async def by_numbers(tx: WriteTx, refund_nos: Sequence[str]) -> dict[str, Refund]:
    """By the channel's number, locked; unknown ones are left out."""
    rows = await tx.fetch(Q.by_numbers, list(refund_nos)) if refund_nos else []
    return {row["refund_no"]: refund_of(row) for row in rows}


async def by_ids(conn: ReadConn, refund_ids: Sequence[UUID]) -> dict[UUID, Refund]:
    """By id; unknown ones are left out."""
    rows = await conn.fetch(Q.by_ids, list(refund_ids)) if refund_ids else []
    return {row["refund_id"]: refund_of(row) for row in rows}


async def of_payment(conn: ReadConn, payment_id: UUID, *, after: UUID, limit: int) -> list[Refund]:
    """Refunds of a payment, oldest first, from behind `after`."""
    return [refund_of(row) for row in await conn.fetch(Q.of_payment, payment_id, after, limit)]


async def move(tx: WriteTx, moves: Sequence[RefundMove], at: dt.datetime) -> list[Refund]:
    """Compare-and-set each refund and log changes of state; returns them as they are now."""
    if not moves:
        return []
    after = [m.after for m in moves]
    moved = await tx.fetchval(
        Q.move,
        [r.refund_id for r in after],
        [m.before.version for m in moves],
        [r.status for r in after],
        [r.doubt for r in after],
        [r.next_query_at for r in after],
        [r.channel_refund_id for r in after],
        [r.done_at for r in after],
        [r.failure_code for r in after],
        [r.event_seq for r in after],
        at,
        [m.before.status for m in moves],
        [m.cause for m in moves],
    )
    assert moved == len(moves), "a refund was written without its payable's lock"
    return after


async def claim_due(tx: WriteTx, now: dt.datetime, lease_until: dt.datetime, limit: int) -> Sequence[Record]:
    """Refunds to be asked about, taken for as long as the lease lasts; `again` says whether an earlier call may count."""
    return await tx.fetch(Q.claim_due, now, limit, lease_until)


async def postpone(tx: WriteTx, rows: Sequence[Record], until: Sequence[dt.datetime]) -> None:
    """Give back claimed refunds that were not asked about, unless somebody has moved them since."""
    ids, again = [row["refund_id"] for row in rows], [row["again"] for row in rows]
    await tx.execute(Q.postpone, ids, list(until), again, rows[0]["next_query_at"])


async def add_evidence(tx: WriteTx, rows: Sequence[RefundEvidence], at: dt.datetime) -> None:
    """Write what was claimed, how each check went, and the verdict."""
    if rows:
        claims = [row.claim for row in rows]
        await tx.execute(
            Q.add_evidence,
            [uuid7() for _ in rows],
            [c.channel for c in claims],
            [c.refund_no[:_REFUND_NO_MAX] or None for c in claims],
            [row.refund_id for row in rows],
            [c.source for c in claims],
            [row.cause for row in rows],
            [c.report for c in claims],
            [c.native_state[:_NATIVE_STATE_MAX] for c in claims],
            [_encode(c).decode() for c in claims],
            [_encode(row.checks).decode() for row in rows],
            [row.verdict for row in rows],
            at,
        )


def refund_of(row: Record) -> Refund:
    """The refund in a row."""
    currency = row["currency"]
    return Refund(
        refund_id=RefundId(row["refund_id"]),
        payment_id=PaymentId(row["payment_id"]),
        order_id=OrderId(row["order_id"]),
        merchant_id=MerchantId(row["merchant_id"]),
        channel=row["channel"],
        account_id=row["account_id"],
        attempt_no=row["attempt_no"],
        channel_txn_id=row["channel_txn_id"],
        total=Money(minor=row["total_minor"], currency=currency),
        amount=Money(minor=row["amount_minor"], currency=currency),
        reason=RefundReason(row["reason"]),
        note=row["note"],
        refund_no=row["refund_no"],
        status=RefundStatus(row["status"]),
        doubt=row["doubt"],
        query_count=row["query_count"],
        next_query_at=row["next_query_at"],
        channel_refund_id=row["channel_refund_id"],
        done_at=row["done_at"],
        failure_code=row["failure_code"],
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
        version=row["version"],
        event_seq=row["event_seq"],
        request_id=row["request_id"],
    )
