"""Give what orders bring: each pending grant once, from stock, coupons with their codes; what cannot be given is tried again."""

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId
from defray_order.commands import coupon_codes, fulfil_order, record_grants
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.commands.fulfil_order import FulfilOrder
from defray_order.commands.record_grants import Change, Done
from defray_order.domain.benefit import BenefitId, BenefitKind
from defray_order.domain.grant import GaveUp, Given, Grant, GrantId, GrantState, GrantStep, TryLater, fulfil
from defray_order.store import benefits, coupons, grants, orders


async def handle(due: Sequence[tuple[GrantId, OrderId]], tx: WriteTx, clock: Clock, *, codes: CouponCodes) -> None:
    """Try due grants. An order is fulfilled when each of its lines brought something and all of it was given.

    Locks the orders, then the grants, then the templates that have a stock.
    """
    await orders.lock(tx, sorted({order_id for _, order_id in due}))
    locked = await grants.get_for_update(tx, [grant_id for grant_id, _ in due])
    pending = [grant for _, grant in sorted(locked.items()) if grant.state is GrantState.PENDING]
    if not pending:
        return
    stock = await benefits.lock_stock(tx, sorted({grant.benefit_id for grant in pending}))
    taken: Counter[BenefitId] = Counter()
    moves: list[tuple[Grant, Grant]] = []
    changes: list[Change] = []
    given: dict[OrderId, FulfilOrder] = {}
    for grant in pending:
        left = stock.get(grant.benefit_id)
        outcome = fulfil(grant, in_stock=left is None or left > taken[grant.benefit_id], at=clock.now())
        cause = Cause(correlation_id=grant.correlation_id)
        match outcome:
            case Given(grant=after):
                taken[grant.benefit_id] += left is not None
                given[grant.order_id] = FulfilOrder(merchant_id=grant.merchant_id, order_id=grant.order_id, cause=cause)
                changes.append(_change(grant, after, GrantStep.GIVEN, cause))
            case GaveUp(grant=after):
                changes.append(_change(grant, after, GrantStep.GAVE_UP, cause))
            case TryLater(grant=after):
                moves.append((grant, after))
            case _:
                assert_never(outcome)
    if moves:
        await grants.move(tx, moves)
    await record_grants.record(tx, changes, clock)
    if taken:
        await benefits.take_from_stock(tx, sorted(taken.items()))
    await _keep_codes([change.after for change in changes], tx, codes)
    complete = await grants.complete(tx, list(given)) if given else set()
    await fulfil_order.handle([given[order_id] for order_id in sorted(complete)], tx, clock)


async def _keep_codes(after: Sequence[Grant], tx: WriteTx, codes: CouponCodes) -> None:
    new = [g for g in after if g.state is GrantState.GRANTED and g.kind is BenefitKind.COUPON]
    kept = []
    for grant in new:
        found_by = coupon_codes.digest(await codes.code(grant.grant_id))
        assert found_by is not None
        kept.append((found_by, grant.grant_id))
    if kept:
        await coupons.keep_codes(tx, kept)


def _change(before: Grant, after: Grant, kind: GrantStep, cause: Cause) -> Change:
    done = Done(kind=kind, units=after.worth if kind is GrantStep.GIVEN else None)
    return Change(before=before, after=after, done=(done,), debt_minor=0, cause=cause)
