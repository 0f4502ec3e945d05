"""Orders, their lines and the log of their moves; every statement takes a batch."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_order.domain.order import Order, OrderItem, OrderState, Report

Q = queries(__file__)

NEVER_PLACED: Final = bytes(32)
"""Content hash of an order that was cancelled before it came: no content has it."""


class MovedByAnother(Exception):
    """A row changed although it was locked: our bug, never to be passed over."""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log; `before` and `report` are None for the first.

    `note` is what the asking side wrote, `event_id` and `event_type` are of the event that told of it.
    """

    order_id: OrderId
    version: int
    before: OrderState | None
    after: OrderState
    report: Report | None
    at: dt.datetime
    cause: Cause
    note: str | None = None
    event_id: UUID | None = None
    event_type: str | None = None


async def insert(tx: WriteTx, orders: Sequence[Order], content_hashes: Sequence[bytes]) -> set[OrderId]:
    """Insert orders with their lines; returns the ids of those whose merchant's number was free."""
    rows = await tx.fetch(
        Q.insert,
        [o.order_id for o in orders],
        [o.merchant_id for o in orders],
        [o.merchant_order_no for o in orders],
        [o.state for o in orders],
        [o.total.currency for o in orders],
        [o.total.minor for o in orders],
        [o.coupons_minor for o in orders],
        content_hashes,
        [o.correlation_id for o in orders],
        [o.placed_at for o in orders],
        [o.expires_at for o in orders],
        [o.closing_reason for o in orders],
        [o.paid_at for o in orders],
        [o.version for o in orders],
        [o.event_seq for o in orders],
    )
    inserted = {OrderId(row["order_id"]) for row in rows}
    lines = [
        (o.order_id, line, i.sku, i.title, i.quantity, i.unit_amount_minor, i.discount_minor, i.amount_minor)
        for o in orders
        if o.order_id in inserted
        for line, i in enumerate(o.items, start=1)
    ]
    if lines:
        await tx.execute(Q.insert_items, *map(list, zip(*lines, strict=True)))
    return inserted


async def by_numbers(
    conn: ReadConn, numbers: Sequence[tuple[MerchantId, str]]
) -> dict[tuple[MerchantId, str], tuple[OrderId, bytes]]:
    """For each (merchant, merchant's number) that is taken: the order's id and content hash."""
    rows = await conn.fetch(Q.by_numbers, [n[0] for n in numbers], [n[1] for n in numbers])
    return {
        (MerchantId(row["merchant_id"]), row["merchant_order_no"]): (OrderId(row["order_id"]), row["content_hash"])
        for row in rows
    }


async def get(conn: ReadConn, order_ids: Sequence[OrderId]) -> dict[OrderId, Order]:
    """The orders there are of those asked for."""
    rows = await conn.fetch(Q.get, order_ids)
    items: defaultdict[UUID, list[OrderItem]] = defaultdict(list)
    for row in await conn.fetch(Q.items, order_ids) if rows else ():
        items[row["order_id"]].append(_item(row))
    return {OrderId(row["order_id"]): _order(row, items) for row in rows}


async def lock(tx: WriteTx, order_ids: Sequence[OrderId]) -> None:
    """Lock the rows there are, in order of their ids."""
    await tx.execute(Q.lock, order_ids)


async def get_for_update(tx: WriteTx, order_ids: Sequence[OrderId]) -> dict[OrderId, Order]:
    """Lock, then read: a second statement sees what the lock was waited for."""
    await lock(tx, order_ids)
    return await get(tx, order_ids)


async def move(tx: WriteTx, orders: Sequence[Order]) -> None:
    """Write moved orders over the version before theirs. Raises MovedByAnother when one is not there."""
    rows = await tx.fetch(
        Q.move,
        [o.order_id for o in orders],
        [o.state for o in orders],
        [o.closing_reason for o in orders],
        [o.paid_at for o in orders],
        [o.payment_id for o in orders],
        [o.refunded_minor for o in orders],
        [o.fulfilled_at for o in orders],
        [o.reopened for o in orders],
        [o.version for o in orders],
        [o.event_seq for o in orders],
    )
    if len(rows) != len(orders):
        raise MovedByAnother


async def log_transitions(tx: WriteTx, transitions: Sequence[Transition]) -> None:
    """Append to the log."""
    await tx.execute(
        Q.log_transitions,
        [t.order_id for t in transitions],
        [t.version for t in transitions],
        [t.before for t in transitions],
        [t.after for t in transitions],
        [t.report for t in transitions],
        [t.at for t in transitions],
        [t.cause.correlation_id for t in transitions],
        [t.cause.causation_id for t in transitions],
        [t.cause.traceparent for t in transitions],
        [t.note for t in transitions],
        [t.event_id for t in transitions],
        [t.event_type for t in transitions],
    )


async def transitions(conn: ReadConn, order_id: OrderId, *, limit: int) -> list[Transition]:
    """How an order moved, in order, at most `limit` lines."""
    return [
        Transition(
            order_id=order_id,
            version=row["version"],
            before=None if row["from_state"] is None else OrderState(row["from_state"]),
            after=OrderState(row["to_state"]),
            report=None if row["report"] is None else Report(row["report"]),
            at=row["at"],
            cause=Cause(
                correlation_id=row["correlation_id"],
                causation_id=row["causation_id"],
                traceparent=row["traceparent"],
            ),
            note=row["note"],
            event_id=row["event_id"],
            event_type=row["event_type"],
        )
        for row in await conn.fetch(Q.transitions, order_id, limit)
    ]


async def lock_due(tx: WriteTx, now: dt.datetime, limit: int) -> list[OrderId]:
    """Lock orders that wait for money although their time is up, those that have waited longest first."""
    return [OrderId(row["order_id"]) for row in await tx.fetch(Q.lock_due, now, limit)]


def _item(row: Record) -> OrderItem:
    return OrderItem(
        sku=row["sku"],
        title=row["title"],
        quantity=row["quantity"],
        unit_amount_minor=row["unit_amount_minor"],
        discount_minor=row["discount_minor"],
    )


def _order(row: Record, items: Mapping[UUID, Sequence[OrderItem]]) -> Order:
    return Order(
        order_id=row["order_id"],
        merchant_id=row["merchant_id"],
        merchant_order_no=row["merchant_order_no"],
        state=OrderState(row["state"]),
        total=Money(minor=row["amount_minor"], currency=row["currency"]),
        items=tuple(items[row["order_id"]]),
        correlation_id=row["correlation_id"],
        placed_at=row["placed_at"],
        expires_at=row["expires_at"],
        closing_reason=row["closing_reason"],
        paid_at=row["paid_at"],
        payment_id=row["payment_id"],
        coupons_minor=row["coupons_minor"],
        refunded_minor=row["refunded_minor"],
        fulfilled_at=row["fulfilled_at"],
        reopened=row["reopened"],
        version=row["version"],
        event_seq=row["event_seq"],
    )
