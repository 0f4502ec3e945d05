"""Grants and the log of what was done with them; every statement takes a batch."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId, show
from defray_kernel.sql import queries
from defray_order.domain.benefit import WHOLE_ORDER, BenefitKind
from defray_order.domain.grant import Grant, GrantFailure, GrantId, GrantState, Step
from defray_order.domain.timeline import StepKind, TimelineStep
from defray_order.store.benefits import coupon_terms

Q = queries(__file__)

PER_ORDER_MAX: Final = 303
"""Grants of one order: three kinds for each of a hundred lines and for the whole."""
_LEASE_S: Final = 60.0


class MovedByAnother(Exception):
    """A row changed although it was locked: our bug, never to be passed over."""


async def insert(tx: WriteTx, grants: Sequence[Grant]) -> set[GrantId]:
    """Insert pending grants; returns those that were not there for their order, line and kind."""
    rows = await tx.fetch(
        Q.insert,
        [g.grant_id for g in grants],
        [g.order_id for g in grants],
        [g.merchant_id for g in grants],
        [g.line for g in grants],
        [g.kind for g in grants],
        [g.benefit_id for g in grants],
        [g.units for g in grants],
        [g.uses_max for g in grants],
        [g.due_at for g in grants],
        [g.planned_at for g in grants],
        [g.correlation_id for g in grants],
    )
    return {GrantId(row["grant_id"]) for row in rows}


async def get(conn: ReadConn, grant_ids: Sequence[GrantId]) -> dict[GrantId, Grant]:
    """The grants there are of those asked for."""
    return {GrantId(row["grant_id"]): _grant(row) for row in await conn.fetch(Q.get, grant_ids)}


async def of_orders(conn: ReadConn, order_ids: Sequence[OrderId]) -> list[Grant]:
    """What these orders brought, by line and kind; all of it."""
    rows = await conn.fetch(Q.of_orders, order_ids, PER_ORDER_MAX * len(order_ids))
    found = await get(conn, [row["grant_id"] for row in rows]) if rows else {}
    return [found[row["grant_id"]] for row in rows]


async def lock(tx: WriteTx, grant_ids: Sequence[GrantId]) -> None:
    """Lock the rows there are, in order of their ids."""
    await tx.execute(Q.lock, grant_ids)


async def get_for_update(tx: WriteTx, grant_ids: Sequence[GrantId]) -> dict[GrantId, Grant]:
    """Lock, then read: a second statement sees what the lock was waited for."""
    await lock(tx, grant_ids)
    return await get(tx, grant_ids)


async def lock_touched(tx: WriteTx, order_ids: Sequence[OrderId]) -> None:
    """Lock all grants that moves of these orders may move, in one order; the orders are locked."""
    touched = [row["grant_id"] for row in await tx.fetch(Q.touched_by, order_ids)]
    if touched:
        await lock(tx, sorted(touched))


async def claim_due(tx: WriteTx, now: dt.datetime, limit: int) -> list[tuple[GrantId, OrderId]]:
    """Grants to be tried now; their due time moves on by a lease, which leaves their version alone."""
    rows = await tx.fetch(Q.claim_due, now, limit, _LEASE_S)
    return [(GrantId(row["grant_id"]), OrderId(row["order_id"])) for row in rows]


async def move(tx: WriteTx, moves: Sequence[tuple[Grant, Grant]]) -> None:
    """Write (before, after); versions move with each. Raises MovedByAnother when one is not as it was."""
    after = [a for _, a in moves]
    rows = await tx.fetch(
        Q.move,
        [g.grant_id for g in after],
        [g.state for g in after],
        [g.recalled for g in after],
        [g.reserved for g in after],
        [g.used for g in after],
        [g.tries for g in after],
        [g.due_at for g in after],
        [g.failure for g in after],
        [g.granted_at for g in after],
        [g.valid_from for g in after],
        [g.valid_until for g in after],
        [g.version for g in after],
        [g.event_seq for g in after],
        [b.version for b, _ in moves],
    )
    if len(rows) != len(moves):
        raise MovedByAnother


async def log(tx: WriteTx, steps: Sequence[Step]) -> None:
    """Append to the log, in the order given."""
    numbers: dict[tuple[GrantId, int], int] = {}
    numbered = []
    for step in steps:
        key = step.grant.grant_id, step.grant.version
        numbers[key] = numbers.get(key, 0) + 1
        numbered.append(numbers[key])
    await tx.execute(
        Q.log,
        [s.grant.grant_id for s in steps],
        [s.grant.version for s in steps],
        numbered,
        [s.kind for s in steps],
        [s.grant.state for s in steps],
        [s.units for s in steps],
        [s.minor for s in steps],
        [s.used_on for s in steps],
        [s.at for s in steps],
        [s.cause.correlation_id for s in steps],
        [s.cause.causation_id for s in steps],
        [s.cause.traceparent for s in steps],
        [s.event_id for s in steps],
        [s.event_type for s in steps],
    )


async def timeline(conn: ReadConn, order_id: OrderId, limit: int) -> list[TimelineStep]:
    """What was done with the grants of an order and with the coupons it was placed with, oldest first."""
    return [
        TimelineStep(
            at=row["at"],
            kind=StepKind.GRANT,
            subject=show("grt", row["grant_id"]),
            what=f"{row['benefit_kind']}_{row['kind']}",
            status=row["state"],
            amount_minor=row["amount_minor"],
            currency=row["currency"] if row["amount_minor"] is not None else None,
            note=_note(row),
            event_id=row["event_id"],
            event_type=row["event_type"],
            correlation_id=row["correlation_id"],
            causation_id=row["causation_id"],
        )
        for row in await conn.fetch(Q.steps, order_id, limit)
    ]


async def complete(conn: ReadConn, order_ids: Sequence[OrderId]) -> set[OrderId]:
    """Which of these orders brought something for each of their lines, and have been given all of it."""
    return {OrderId(row["order_id"]) for row in await conn.fetch(Q.complete, order_ids)}


def _note(row: Record) -> str:
    place = "the order" if row["line"] == WHOLE_ORDER else f"line {row['line']}"
    units = "" if row["units"] is None else f"{row['units']} units, "
    return f"{units}{row['name']}, for {place}"


def _grant(row: Record) -> Grant:
    return Grant(
        grant_id=row["grant_id"],
        order_id=row["order_id"],
        merchant_id=row["merchant_id"],
        line=row["line"],
        kind=BenefitKind(row["kind"]),
        benefit_id=row["benefit_id"],
        name=row["name"],
        currency=row["currency"],
        coupon=coupon_terms(row),
        state=GrantState(row["state"]),
        units=row["units"],
        planned_at=row["planned_at"],
        due_at=row["due_at"],
        correlation_id=row["correlation_id"],
        recalled=row["recalled"],
        reserved=row["reserved"],
        used=row["used"],
        tries=row["tries"],
        failure=None if row["failure"] is None else GrantFailure(row["failure"]),
        granted_at=row["granted_at"],
        valid_from=row["from_at"],
        valid_until=row["until_at"],
        version=row["version"],
        event_seq=row["event_seq"],
    )
