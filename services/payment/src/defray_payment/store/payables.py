"""The payables' rows: locked first by every writer of anything that belongs to their order."""

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_payment.domain.payable import OrderTerms, Payable, PayableStatus

Q = queries(__file__)

_STATUS: Final = {status.value: status for status in PayableStatus}


class PayableMove(msgspec.Struct, frozen=True, kw_only=True):
    """A changed payable: `before` as it was locked, `after` with its new content and the next version, and why."""

    before: Payable
    after: Payable
    cause: str

    def __post_init__(self) -> None:
        assert self.after.version == self.before.version + 1

    @property
    def is_transition(self) -> bool:
        """Whether its state or its claim changes; the projection's guard moves without one."""
        return (self.before.status, self.before.claimed_by) != (self.after.status, self.after.claimed_by)


async def ensure(tx: WriteTx, terms: Sequence[OrderTerms], at: dt.datetime) -> None:
    """Create the payables that are not there yet; existing ones stay as they are."""
    if terms:
        await tx.execute(
            Q.ensure,
            [t.order_id for t in terms],
            [t.merchant_id for t in terms],
            [t.amount.minor for t in terms],
            [t.amount.currency for t in terms],
            [t.expires_at for t in terms],
            [t.correlation_id for t in terms],
            at,
        )


async def lock(tx: WriteTx, order_ids: Sequence[OrderId]) -> dict[OrderId, Payable]:
    """Lock in order of id until the transaction ends."""
    return {row["order_id"]: _payable(row) for row in await tx.fetch(Q.lock, sorted(set(order_ids)))}


async def save(tx: WriteTx, moves: Sequence[PayableMove], at: dt.datetime) -> list[Payable]:
    """Write changed payables and log what moved; returns them as they are now."""
    if not moves:
        return []
    after = [move.after for move in moves]
    saved = await tx.fetchval(
        Q.save,
        [p.order_id for p in after],
        [move.before.version for move in moves],
        [p.status for p in after],
        [p.closing_reason for p in after],
        [p.claimed_by for p in after],
        [p.order_seq for p in after],
        [p.order_expires_at for p in after],
        [p.event_seq for p in after],
        at,
        [move.before.status if move.is_transition else None for move in moves],
        [move.cause for move in moves],
    )
    assert saved == len(moves), "a payable was written without its lock"
    return after


async def claim(tx: WriteTx, claims: Sequence[tuple[Payable, PaymentId, str]], at: dt.datetime) -> None:
    """Give each payable to the payment whose money is kept, with the cause; nobody has claimed it before."""
    if not claims:
        return
    claimed = await tx.fetchval(
        Q.claim,
        [payable.order_id for payable, _, _ in claims],
        [payable.version for payable, _, _ in claims],
        [payment_id for _, payment_id, _ in claims],
        [cause for _, _, cause in claims],
        at,
    )
    assert claimed == len(claims), "a payable was claimed twice, or without its lock"


async def late_money(conn: ReadConn, merchant_ids: Sequence[MerchantId]) -> dict[MerchantId, str]:
    """The policy for late money of each known merchant: return, reopen or case."""
    rows = await conn.fetch(Q.late_money, list(set(merchant_ids)))
    states = {row["merchant_id"]: row["state"] for row in rows if row["state"] is not None}
    return {key: msgspec.json.decode(state, type=MerchantState).late_money for key, state in states.items()}


async def terms_of(conn: ReadConn, order_id: OrderId) -> OrderTerms | None:
    """What is known of an order; None while it is not known here."""
    row = await conn.fetchrow(Q.read, order_id)
    if row is None:
        return None
    payable = _payable(row)
    return OrderTerms(
        order_id=payable.order_id,
        merchant_id=payable.merchant_id,
        amount=payable.amount,
        expires_at=payable.order_expires_at,
        correlation_id=payable.correlation_id,
    )


def _payable(row: Record) -> Payable:
    claimed_by: UUID | None = row["claimed_by"]
    return Payable(
        order_id=OrderId(row["order_id"]),
        merchant_id=MerchantId(row["merchant_id"]),
        amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        status=_STATUS[row["status"]],
        closing_reason=row["closing_reason"],
        claimed_by=None if claimed_by is None else PaymentId(claimed_by),
        order_expires_at=row["order_expires_at"],
        order_seq=row["order_seq"],
        correlation_id=row["correlation_id"],
        version=row["version"],
        event_seq=row["event_seq"],
    )
