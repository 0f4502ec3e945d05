"""Refund requests, their lines and the log of their steps; all written under their order's lock."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Record

from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.order_v1 import OrderRefundRequested
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId, PaymentId, RefundId, show
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_order.domain.refund_request import (
    LineShare,
    Origin,
    RefundRequest,
    RefundRequestId,
    RequestState,
    Step,
    StepKind,
)
from defray_order.domain.timeline import StepKind as TimelineKind
from defray_order.domain.timeline import TimelineStep
from defray_order.store.orders import MovedByAnother

Q = queries(__file__)

PER_PAGE_MAX: Final = 100
FIRST: Final = RefundRequestId(UUID(int=0))


async def insert(tx: WriteTx, requests: Sequence[RefundRequest]) -> None:
    """Add new requests with their lines. Raises UniqueViolationError for a second one of the same refund or late money."""
    await tx.execute(
        Q.insert,
        [r.request_id for r in requests],
        [r.order_id for r in requests],
        [r.merchant_id for r in requests],
        [r.payment_id for r in requests],
        [r.origin for r in requests],
        [r.amount.currency for r in requests],
        [r.amount.minor for r in requests],
        [r.note for r in requests],
        [r.state for r in requests],
        [r.refund_id for r in requests],
        [r.refund_seq for r in requests],
        [r.grants_recalled for r in requests],
        [r.requested_at for r in requests],
        [r.correlation_id for r in requests],
        [r.version for r in requests],
    )
    lines = [(r.request_id, share.line, share.minor, share.quantity) for r in requests for share in r.lines]
    if lines:
        await tx.execute(Q.insert_lines, *map(list, zip(*lines, strict=True)))


async def live_of_orders(tx: WriteTx, order_ids: Sequence[OrderId]) -> list[RefundRequest]:
    """The requests of these orders that have not failed and were not refused; read under the orders' locks."""
    return await _with_lines(tx, await tx.fetch(Q.live_of_orders, order_ids))


async def known(
    conn: ReadConn, request_ids: Sequence[RefundRequestId], refund_ids: Sequence[RefundId]
) -> list[RefundRequest]:
    """Those that are known by their own id or by their refund's."""
    return await _with_lines(conn, await conn.fetch(Q.known, request_ids, refund_ids))


async def of_order(conn: ReadConn, order_id: OrderId, *, after: UUID = FIRST, limit: int) -> list[RefundRequest]:
    """An order's requests, oldest first, from behind `after`."""
    return await _with_lines(conn, await conn.fetch(Q.of_order, order_id, after, limit))


async def counts(tx: WriteTx, order_ids: Sequence[OrderId]) -> dict[OrderId, int]:
    """How many requests each order has had, whatever became of them; orders without any are left out."""
    rows = await tx.fetch(Q.counts, order_ids) if order_ids else []
    return {OrderId(row["order_id"]): row["requests"] for row in rows}


async def late_payments(tx: WriteTx, payment_ids: Sequence[PaymentId]) -> set[PaymentId]:
    """Which of these payments were asked back as late money."""
    return {PaymentId(row["payment_id"]) for row in await tx.fetch(Q.late_payments, payment_ids)}


async def move(tx: WriteTx, requests: Sequence[RefundRequest]) -> None:
    """Write moved requests over the version before theirs. Raises MovedByAnother when one is not there."""
    rows = await tx.fetch(
        Q.move,
        [r.request_id for r in requests],
        [r.state for r in requests],
        [r.refund_id for r in requests],
        [r.code for r in requests],
        [r.ended_at for r in requests],
        [r.version for r in requests],
        [r.refund_seq for r in requests],
    )
    if len(rows) != len(requests):
        raise MovedByAnother


async def log(tx: WriteTx, steps: Sequence[Step]) -> None:
    """Append to the log."""
    await tx.execute(
        Q.log,
        [s.request_id for s in steps],
        [s.step for s in steps],
        [s.kind for s in steps],
        [s.state for s in steps],
        [s.minor for s in steps],
        [s.at for s in steps],
        [s.event_id for s in steps],
        [s.cause.correlation_id for s in steps],
        [s.cause.causation_id for s in steps],
        [s.cause.traceparent for s in steps],
    )


async def steps(conn: ReadConn, request_ids: Sequence[RefundRequestId]) -> list[Step]:
    """What was done for these requests, in order."""
    return [_step(row) for row in await conn.fetch(Q.steps, request_ids)] if request_ids else []


async def timeline(conn: ReadConn, order_id: OrderId, limit: int) -> list[TimelineStep]:
    """The steps of an order's requests as its timeline shows them."""
    return [
        TimelineStep(
            at=row["at"],
            kind=TimelineKind.REFUND_REQUEST,
            subject=show("rrq", row["request_id"]),
            what=row["kind"],
            status=row["state"],
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            event_id=row["event_id"],
            event_type=None if row["event_id"] is None else OrderRefundRequested.TYPE,
            correlation_id=row["correlation_id"],
            causation_id=row["causation_id"],
        )
        for row in await conn.fetch(Q.steps_of_order, order_id, limit)
    ]


async def _with_lines(conn: ReadConn, rows: Sequence[Record]) -> list[RefundRequest]:
    lines: defaultdict[UUID, list[LineShare]] = defaultdict(list)
    for row in await conn.fetch(Q.lines, [row["request_id"] for row in rows]) if rows else ():
        share = LineShare(line=row["line"], minor=row["amount_minor"], quantity=row["quantity"])
        lines[row["request_id"]].append(share)
    return [_request(row, tuple(lines[row["request_id"]])) for row in rows]


def _request(row: Record, lines: tuple[LineShare, ...]) -> RefundRequest:
    return RefundRequest(
        request_id=row["request_id"],
        order_id=row["order_id"],
        merchant_id=row["merchant_id"],
        payment_id=row["payment_id"],
        origin=Origin(row["origin"]),
        amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        lines=lines,
        note=row["note"],
        state=RequestState(row["state"]),
        refund_id=row["refund_id"],
        refund_seq=row["refund_seq"],
        grants_recalled=row["grants_recalled"],
        code=row["code"],
        requested_at=row["requested_at"],
        ended_at=row["ended_at"],
        correlation_id=row["correlation_id"],
        version=row["version"],
    )


def _step(row: Record) -> Step:
    return Step(
        request_id=row["request_id"],
        step=row["step"],
        kind=StepKind(row["kind"]),
        state=RequestState(row["state"]),
        minor=row["amount_minor"],
        at=row["at"],
        event_id=row["event_id"],
        cause=Cause(
            correlation_id=row["correlation_id"], causation_id=row["causation_id"], traceparent=row["traceparent"]
        ),
    )
