"""The attempts' rows: written before a channel is called, and due again until the channel has said how they ended."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId, PaymentId
from defray_kernel.sql import queries
from defray_payment.domain.attempt import LIVE, Attempt, AttemptStatus

Q = queries(__file__)

_STATUS: Final = {status.value: status for status in AttemptStatus}


async def insert(tx: WriteTx, attempts: Sequence[Attempt], at: dt.datetime) -> None:
    """Add new attempts."""
    await tx.execute(
        Q.insert,
        [a.attempt_no for a in attempts],
        [a.payment_id for a in attempts],
        [a.order_id for a in attempts],
        [a.channel for a in attempts],
        [a.status for a in attempts],
        [a.next_query_at for a in attempts],
        at,
        [a.account_id for a in attempts],
        [a.payer_sealed for a in attempts],
    )


async def orders_of(conn: ReadConn, attempt_nos: Sequence[str]) -> dict[str, OrderId]:
    """Which order each known attempt belongs to; it never changes."""
    rows = await conn.fetch(Q.orders_of, list(set(attempt_nos)))
    return {row["attempt_no"]: OrderId(row["order_id"]) for row in rows}


async def save(tx: WriteTx, attempts: Sequence[Attempt], at: dt.datetime) -> None:
    """Write changed attempts; the caller holds their payables' locks."""
    settled = [a for a in attempts if a.status not in LIVE]
    attempts = [a for a in attempts if a.status in LIVE]
    if settled:
        await tx.execute(Q.settle, [a.attempt_no for a in settled], [a.status for a in settled], at)
    if attempts:
        await tx.execute(
            Q.save,
            [a.attempt_no for a in attempts],
            [a.status for a in attempts],
            [a.closing for a in attempts],
            [a.next_query_at for a in attempts],
            [a.action_sealed for a in attempts],
            [a.action_expires_at for a in attempts],
            at,
        )


async def claim_due(tx: WriteTx, now: dt.datetime, lease_until: dt.datetime, limit: int) -> Sequence[Record]:
    """Attempts to be asked about, with their payments, taken for as long as the lease lasts."""
    return await tx.fetch(Q.claim_due, now, limit, lease_until)


async def postpone(tx: WriteTx, attempt_nos: Sequence[str], until: Sequence[dt.datetime], lease: dt.datetime) -> None:
    """Give back attempts that were claimed under this lease and not asked about; one that moved meanwhile stays."""
    await tx.execute(Q.postpone, list(attempt_nos), list(until), lease)


async def claim_one(
    tx: WriteTx, attempt_no: str, *, now: dt.datetime, asked_before: dt.datetime, lease_until: dt.datetime
) -> bool:
    """Take one attempt to ask about; False when it is not due, or somebody has asked after `asked_before`."""
    return await tx.fetchval(Q.claim_one, attempt_no, now, asked_before, lease_until) is not None


def attempt_of(row: Record) -> Attempt:
    """The attempt in a row that joins a payment with one of its attempts."""
    return Attempt(
        attempt_no=row["attempt_no"],
        payment_id=PaymentId(row["payment_id"]),
        order_id=OrderId(row["order_id"]),
        channel=row["channel"],
        status=_STATUS[row["attempt_status"]],
        closing=row["closing"],
        query_count=row["query_count"],
        next_query_at=row["next_query_at"],
        action_sealed=row["action_sealed"],
        action_expires_at=row["action_expires_at"],
        account_id=row["account_id"],
        payer_sealed=row["payer_sealed"],
    )
