"""Recall what was granted for money that goes back, in proportion and before the money is asked for; what is used is owed."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId
from defray_order.commands import record_grants
from defray_order.commands.record_grants import Change, Done
from defray_order.domain.coupon import Use, owed
from defray_order.domain.grant import GoneBack, Grant, GrantId, GrantStep, after_recall
from defray_order.domain.grant import recall as recalled_by
from defray_order.domain.order import Order
from defray_order.store import coupons, grants, orders


class Recall(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an order's money goes back, in all (minor units), and how it falls on the lines, in all."""

    order_id: OrderId
    refunded_minor: int
    lines: tuple[tuple[int, int], ...]
    cause: Cause


class Recalled(msgspec.Struct, frozen=True, kw_only=True):
    """How many grants this recall touched, and the order's debt: what could not be had back, in all (minor units)."""

    order_id: OrderId
    grants: int
    grant_debt_minor: int


async def recall(recalls: Sequence[Recall], tx: WriteTx, clock: Clock) -> list[Recalled]:
    """Recall in proportion, once per cumulative amount, at most one recall per order; the orders' rows are locked.

    A sum below an earlier one recalls nothing: what went back stays gone.
    """
    order_ids = [each.order_id for each in recalls]
    found = await grants.of_orders(tx, order_ids)
    if not found:
        return [Recalled(order_id=order_id, grants=0, grant_debt_minor=0) for order_id in order_ids]
    known = await orders.get(tx, order_ids)
    locked = await grants.get_for_update(tx, [grant.grant_id for grant in found])
    of_order: defaultdict[OrderId, list[Grant]] = defaultdict(list)
    for grant in found:  # in the order of lines, by which ties are decided
        of_order[grant.order_id].append(locked[grant.grant_id])
    uses: defaultdict[GrantId, list[Use]] = defaultdict(list)
    for use in await coupons.of_grants(tx, list(locked)):
        uses[use.grant_id].append(use)
    changes: list[Change] = []
    debts: list[tuple[Grant, Use]] = []
    for each in recalls:
        sums = recalled_by(of_order[each.order_id], _gone(known[each.order_id], each))
        for grant in of_order[each.order_id]:
            total = sums.get(grant.grant_id, grant.recalled)
            if total > grant.recalled:
                change, owing = _recalled(grant, total, uses[grant.grant_id], each.cause)
                changes.append(change)
                debts += [(change.after, use) for use in owing]
    await record_grants.record(tx, changes, clock)
    if debts:
        await coupons.owe(tx, debts)
    in_all = await coupons.debts(tx, order_ids)
    touched = [change.after.order_id for change in changes]
    return [Recalled(order_id=o, grants=touched.count(o), grant_debt_minor=in_all.get(o, 0)) for o in order_ids]


def _gone(order: Order, recall: Recall) -> GoneBack:
    costs = [item.amount_minor for item in order.items]
    # As refund requests see it: where coupons took something off, the lines bear it in proportion.
    paid = [share.minor for share in order.total.allocate(costs)] if sum(costs) else [0] * len(costs)
    return GoneBack(
        total_minor=order.total.minor,
        refunded_minor=recall.refunded_minor,
        paid=dict(enumerate(paid, start=1)),
        refunded=dict(recall.lines),
    )


def _recalled(grant: Grant, total: int, uses: Sequence[Use], cause: Cause) -> tuple[Change, list[Use]]:
    """The grant with so much recalled in all, and the uses of which more is owed now."""
    after = after_recall(grant, total)
    owing = [msgspec.structs.replace(use, owed_minor=owed(after, use)) for use in uses]
    before_minor, debt_minor = sum(use.owed_minor for use in uses), sum(use.owed_minor for use in owing)
    done = []
    if grant.taken < grant.uses_max:
        done.append(Done(kind=GrantStep.RECALLED, units=total - grant.recalled))
    if debt_minor > before_minor or not done:
        done.append(Done(kind=GrantStep.OWED, units=total - grant.recalled, minor=debt_minor - before_minor))
    changed = [use for use, was in zip(owing, uses, strict=True) if use.owed_minor != was.owed_minor]
    return Change(before=grant, after=after, done=tuple(done), debt_minor=debt_minor, cause=cause), changed
