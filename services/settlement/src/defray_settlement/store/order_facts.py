"""What different topics tell of one order, collected under one row's lock until a posting has all that it needs."""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Record

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId
from defray_kernel.money import Money
from defray_kernel.sql import queries

Q = queries(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopening:
    """An order that was reopened for the late money of a payment, and what told of it."""

    order_id: UUID
    payment_id: UUID
    merchant_id: MerchantId
    amount: Money
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class LateMoney:
    """Late money as it was posted; `returned_minor` of it has gone back from suspense."""

    payment_id: UUID
    order_id: UUID
    merchant_id: MerchantId
    amount: Money
    channel: str
    paid_at: dt.datetime
    returned_minor: int


async def lock(tx: WriteTx, orders: Iterable[UUID], *, beside: Iterable[UUID] = ()) -> dict[UUID, Reopening]:
    """Open rows that are missing and lock all, in id order; returns which orders are known to be reopened.

    Those `beside` are locked where there are any.
    """
    opened = sorted(set(orders))
    if opened:
        await tx.execute(Q.open, opened)
    found = [_reopening(row) for row in await tx.fetch(Q.lock, sorted({*opened, *beside}))]
    return {each.order_id: each for each in found if each is not None}


async def note_reopened(tx: WriteTx, told: Sequence[Reopening]) -> None:
    """Keep who was reopened, in locked rows; what was noted before stays."""
    await tx.execute(
        Q.note_reopened,
        [each.order_id for each in told],
        [each.payment_id for each in told],
        [each.merchant_id for each in told],
        [each.amount.minor for each in told],
        [each.amount.currency for each in told],
        [each.cause.correlation_id for each in told],
        [each.cause.causation_id for each in told],
    )


async def late_money(tx: WriteTx, payment_ids: Sequence[UUID]) -> dict[UUID, LateMoney]:
    """Late money that is posted, by its payment."""
    return {
        row["payment_id"]: LateMoney(
            payment_id=row["payment_id"],
            order_id=row["order_id"],
            merchant_id=MerchantId(row["merchant_id"]),
            amount=Money(minor=row["gross_minor"], currency=row["currency"]),
            channel=row["channel"],
            paid_at=row["paid_at"],
            returned_minor=row["returned_minor"],
        )
        for row in await tx.fetch(Q.late_money, payment_ids)
    }


def _reopening(row: Record) -> Reopening | None:
    if row["reopened_payment_id"] is None:
        return None
    return Reopening(
        order_id=row["order_id"],
        payment_id=row["reopened_payment_id"],
        merchant_id=MerchantId(row["reopened_merchant_id"]),
        amount=Money(minor=row["reopened_minor"], currency=row["reopened_currency"]),
        cause=Cause(correlation_id=row["reopened_correlation_id"], causation_id=row["reopened_causation_id"]),
    )
