"""Orders page by page, without their lines: a merchant's in order of placing, or everybody's for operators."""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.contracts.order_v1 import ClosingReason
from defray_kernel.db import ReadConn
from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_order.domain.order import OrderState

Q = queries(__file__)


class ListedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order as a list shows it."""

    order_id: OrderId
    merchant_id: MerchantId
    merchant_order_no: str
    state: OrderState
    total: Money
    refunded_minor: int
    placed_at: dt.datetime
    expires_at: dt.datetime
    paid_at: dt.datetime | None
    closing_reason: ClosingReason | None
    payment_id: PaymentId | None
    correlation_id: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Whose orders, and which: placed in [created_from, created_before), of a buyer who has all `digests`."""

    merchant_id: MerchantId
    state: OrderState | None = None
    created_from: dt.datetime | None = None
    created_before: dt.datetime | None = None
    merchant_order_no: str | None = None
    digests: Sequence[bytes] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page ended."""

    placed_at: dt.datetime
    order_id: OrderId


async def page(conn: ReadConn, wanted: Wanted, *, after: Place | None, limit: int) -> list[ListedOrder]:
    """A merchant's orders in order of placing, from behind `after`."""
    query, more = Q.of_merchant, []
    if wanted.digests:
        query, more = Q.of_buyer, [list(wanted.digests), wanted.merchant_order_no]
    elif wanted.merchant_order_no is not None:
        query, more = Q.of_number, [wanted.merchant_order_no]
    rows = await conn.fetch(
        query,
        wanted.merchant_id,
        wanted.state,
        wanted.created_from,
        wanted.created_before,
        None if after is None else after.placed_at,
        None if after is None else after.order_id,
        limit,
        *more,
    )
    return [_listed(row) for row in rows]


async def of_all(
    conn: ReadConn, *, merchant_id: UUID | None, state: OrderState | None, before: UUID, limit: int
) -> list[ListedOrder]:
    """Orders of one merchant or of all, newest first, from before an id."""
    return [_listed(row) for row in await conn.fetch(Q.of_all, merchant_id, state, before, limit)]


def _listed(row: Record) -> ListedOrder:
    return ListedOrder(
        order_id=row["order_id"],
        merchant_id=row["merchant_id"],
        merchant_order_no=row["merchant_order_no"],
        state=OrderState(row["state"]),
        total=Money(minor=row["amount_minor"], currency=row["currency"]),
        refunded_minor=row["refunded_minor"],
        placed_at=row["placed_at"],
        expires_at=row["expires_at"],
        paid_at=row["paid_at"],
        closing_reason=row["closing_reason"],
        payment_id=row["payment_id"],
        correlation_id=row["correlation_id"],
    )
