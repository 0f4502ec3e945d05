"""The payments' rows: inserted, moved by compare-and-set, every move logged; all under their payable's lock."""

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_payment.domain.attempt import Attempt
from defray_payment.domain.payment import PAID, Payment, PaymentStatus
from defray_payment.store.attempts import attempt_of

Q = queries(__file__)

PER_ORDER_MAX: Final = 100
_STATUS: Final = {status.value: status for status in PaymentStatus}  # the enum's own look-up costs ten times as much


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A payment with one of its attempts; `txn_owner` is the payment that a claimed channel transaction already paid."""

    payment: Payment
    attempt: Attempt
    txn_owner: UUID | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which payments of a merchant; None = any."""

    merchant_id: UUID
    order_id: UUID | None = None
    status: PaymentStatus | None = None
    created_from: dt.datetime | None = None
    created_before: dt.datetime | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page ended."""

    created_at: dt.datetime
    payment_id: UUID


class PaymentMove(msgspec.Struct, frozen=True, kw_only=True):
    """`before` as read under the lock, `after` with its new state and the next version, and why."""

    before: Payment
    after: Payment
    cause: str

    def __post_init__(self) -> None:
        assert self.after.version == self.before.version + 1


async def insert(tx: WriteTx, payments: Sequence[Payment], cause: str, at: dt.datetime) -> None:
    """Add new payments and log their first state. Raises UniqueViolationError for a second live way to pay."""
    await tx.execute(
        Q.insert,
        [p.payment_id for p in payments],
        [p.order_id for p in payments],
        [p.merchant_id for p in payments],
        [p.amount.minor for p in payments],
        [p.amount.currency for p in payments],
        [p.channel for p in payments],
        [p.product for p in payments],
        [p.description for p in payments],
        [p.status for p in payments],
        [p.attempt_no for p in payments],
        [p.expires_at for p in payments],
        [p.correlation_id for p in payments],
        [p.version for p in payments],
        [p.event_seq for p in payments],
        at,
    )
    await tx.execute(
        Q.log_first,
        [p.payment_id for p in payments],
        [p.version for p in payments],
        [p.status for p in payments],
        cause,
        at,
        [p.correlation_id for p in payments],
    )


async def of_attempts(tx: WriteTx, claimed: Sequence[tuple[str, str, str | None]]) -> dict[str, Found]:
    """By attempt number, for (attempt number, channel, claimed channel transaction); read after locking the payables."""
    rows = await tx.fetch(Q.of_attempts, *map(list, zip(*claimed, strict=True))) if claimed else []
    return {row["attempt_no"]: found_of(row) for row in rows}


async def live_of_orders(conn: ReadConn, order_ids: Sequence[OrderId]) -> list[Found]:
    """The payments of these orders that are not decided, each with its latest attempt."""
    return [found_of(row) for row in await conn.fetch(Q.live_of_orders, list(order_ids))] if order_ids else []


async def by_ids(conn: ReadConn, payment_ids: Sequence[UUID]) -> dict[UUID, Found]:
    """With their latest attempts; unknown ids are left out."""
    rows = await conn.fetch(Q.by_ids, list(payment_ids)) if payment_ids else []
    return {row["payment_id"]: found_of(row) for row in rows}


async def of_order(conn: ReadConn, order_id: OrderId) -> list[Found]:
    """All payments of an order, oldest first, at most PER_ORDER_MAX."""
    return [found_of(row) for row in await conn.fetch(Q.of_order, order_id, PER_ORDER_MAX)]


async def page(conn: ReadConn, wanted: Wanted, *, after: Place | None, limit: int) -> list[Found]:
    """Payments with their latest attempts in order of creation, from behind `after`."""
    rows = await conn.fetch(
        Q.page,
        wanted.merchant_id,
        wanted.order_id,
        wanted.status,
        wanted.created_from,
        wanted.created_before,
        None if after is None else after.created_at,
        None if after is None else after.payment_id,
        limit,
    )
    return [found_of(row) for row in rows]


async def move(tx: WriteTx, moves: Sequence[PaymentMove], at: dt.datetime) -> list[Payment]:
    """Compare-and-set each payment and log the move; returns them as they are now."""
    if not moves:
        return []
    after = [m.after for m in moves]
    moved = await tx.fetchval(
        Q.move,
        [p.payment_id for p in after],
        [m.before.version for m in moves],
        [p.status for p in after],
        [p.channel_txn_id for p in after],
        [p.amount.minor if p.status in PAID else None for p in after],
        [p.paid_at for p in after],
        [p.failure_code for p in after],
        [p.event_seq for p in after],
        at,
        [m.before.status for m in moves],
        [m.cause for m in moves],
    )
    assert moved == len(moves), "a payment was written without its payable's lock"
    return after


def found_of(row: Record) -> Found:
    """The payment and attempt in a row that joins them."""
    payment = Payment(
        payment_id=PaymentId(row["payment_id"]),
        order_id=OrderId(row["order_id"]),
        merchant_id=MerchantId(row["merchant_id"]),
        amount=Money(minor=row["amount_minor"], currency=row["currency"]),
        channel=row["channel"],
        product=row["product"],
        description=row["description"],
        status=_STATUS[row["status"]],
        attempt_no=row["payment_attempt_no"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        channel_txn_id=row["channel_txn_id"],
        paid_at=row["paid_at"],
        failure_code=row["failure_code"],
        correlation_id=row["correlation_id"],
        version=row["version"],
        event_seq=row["event_seq"],
        refund_reserved_minor=row["refund_reserved_minor"],
        refunded_minor=row["refunded_minor"],
    )
    return Found(payment=payment, attempt=attempt_of(row), txn_owner=row["txn_owner"])
