"""Coupons in use: what their codes are found by, which orders use them, and what is owed of them."""

from collections.abc import Sequence

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.sql import queries
from defray_order.domain.coupon import Use, UseState
from defray_order.domain.grant import Grant, GrantId

Q = queries(__file__)


async def keep_codes(tx: WriteTx, codes: Sequence[tuple[bytes, GrantId]]) -> None:
    """Note what the codes of new coupons are found by."""
    await tx.execute(Q.keep_codes, [c[0] for c in codes], [c[1] for c in codes])


async def by_digests(conn: ReadConn, digests: Sequence[bytes]) -> dict[bytes, GrantId]:
    """The coupons there are."""
    return {row["digest"]: GrantId(row["grant_id"]) for row in await conn.fetch(Q.by_digests, digests)}


async def reserve(tx: WriteTx, uses: Sequence[tuple[int, Use]]) -> None:
    """Insert uses with their position among the order's codes, counted from 1; the grants are locked."""
    await tx.execute(
        Q.reserve,
        [use.order_id for _, use in uses],
        [use.grant_id for _, use in uses],
        [position for position, _ in uses],
        [use.worth for _, use in uses],
        [use.base_minor for _, use in uses],
        [use.minor for _, use in uses],
    )


async def of_orders(conn: ReadConn, order_ids: Sequence[OrderId]) -> list[Use]:
    """The coupons that these orders were placed with, in the order of their codes."""
    return [_use(row) for row in await conn.fetch(Q.of_orders, order_ids)]


async def of_grants(conn: ReadConn, grant_ids: Sequence[GrantId]) -> list[Use]:
    """The uses of these coupons."""
    return [_use(row) for row in await conn.fetch(Q.of_grants, grant_ids)]


async def move(tx: WriteTx, uses: Sequence[Use]) -> None:
    """Write the states of uses; their grants are locked."""
    await tx.execute(Q.move, [u.order_id for u in uses], [u.grant_id for u in uses], [u.state for u in uses])


async def owe(tx: WriteTx, debts: Sequence[tuple[Grant, Use]]) -> None:
    """Write what is owed of each use, in place of what was."""
    await tx.execute(
        Q.owe,
        [grant.grant_id for grant, _ in debts],
        [use.order_id for _, use in debts],
        [grant.order_id for grant, _ in debts],
        [grant.currency for grant, _ in debts],
        [use.owed_minor for _, use in debts],
    )


async def debts(conn: ReadConn, order_ids: Sequence[OrderId]) -> dict[OrderId, int]:
    """What these orders owe in all, in minor units of their currency; those that owe nothing may be missing."""
    return {OrderId(row["order_id"]): row["debt_minor"] for row in await conn.fetch(Q.debts, order_ids)}


async def debts_of_grants(conn: ReadConn, grant_ids: Sequence[GrantId]) -> dict[GrantId, int]:
    """What is owed of these grants in all; those of which nothing is may be missing."""
    rows = await conn.fetch(Q.debts_of_grants, grant_ids)
    return {GrantId(row["grant_id"]): row["debt_minor"] for row in rows}


def _use(row: Record) -> Use:
    return Use(
        grant_id=row["grant_id"],
        order_id=row["order_id"],
        state=UseState(row["state"]),
        worth=row["worth"],
        base_minor=row["base_minor"],
        minor=row["amount_minor"],
        owed_minor=row["debt_minor"],
    )
