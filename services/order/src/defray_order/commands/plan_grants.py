"""Plan what paid orders bring: one pending grant for each line and kind, once, whatever is told again."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, uuid7
from defray_order.commands import record_grants
from defray_order.domain.benefit import Benefit, PaidOrder, Planned, plan
from defray_order.domain.grant import Grant, GrantId, GrantState
from defray_order.domain.order import Order
from defray_order.store import benefits, grants


class PlanGrants(msgspec.Struct, frozen=True, kw_only=True):
    """An order that has just been paid; its row is locked."""

    order: Order
    cause: Cause


async def handle(commands: Sequence[PlanGrants], tx: WriteTx, clock: Clock) -> set[OrderId]:
    """Plan; returns the orders that bring something."""
    order_ids = [c.order.order_id for c in commands]
    attached = await benefits.attached(tx, order_ids)
    templates = await benefits.get(tx, sorted({benefit_id for _, _, benefit_id in attached})) if attached else {}
    rules = await benefits.rules(tx, sorted({c.order.merchant_id for c in commands}))
    by_order: defaultdict[OrderId, list[tuple[int, Benefit]]] = defaultdict(list)
    for order_id, line, benefit_id in attached:
        by_order[order_id].append((line, templates[benefit_id]))
    new: dict[GrantId, tuple[Grant, Cause]] = {}
    for command in commands:
        order = command.order
        for planned in plan(_paid(order), by_order[order.order_id], rules):
            grant = _grant(order, planned, clock)
            new[grant.grant_id] = grant, command.cause
    if not new:
        return set()
    inserted = await grants.insert(tx, [grant for grant, _ in new.values()])
    await record_grants.planned(tx, [pair for grant_id, pair in new.items() if grant_id in inserted], clock)
    return {grant.order_id for grant, _ in new.values()}


def _paid(order: Order) -> PaidOrder:
    assert order.paid_at is not None
    return PaidOrder(
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        currency=order.total.currency,
        total_minor=order.total.minor,
        quantities=tuple(item.quantity for item in order.items),
        paid_at=order.paid_at,
    )


def _grant(order: Order, planned: Planned, clock: Clock) -> Grant:
    benefit = planned.benefit
    return Grant(
        grant_id=GrantId(uuid7()),
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        line=planned.line,
        kind=benefit.kind,
        benefit_id=benefit.benefit_id,
        name=benefit.name,
        currency=benefit.currency,
        coupon=benefit.coupon,
        state=GrantState.PENDING,
        units=planned.units,
        planned_at=clock.now(),
        due_at=clock.now(),
        correlation_id=order.correlation_id,
    )
