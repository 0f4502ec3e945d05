"""What follows from an order's move, in the same transaction: the one place where grants, coupons and refunds listen."""

from collections.abc import Sequence
from typing import Final

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId
from defray_order.commands import plan_grants, redeem_coupon
from defray_order.commands.plan_grants import PlanGrants
from defray_order.domain.order import HOLDS_MONEY, Order, OrderState, Report

ENDED: Final = frozenset({OrderState.CANCELLED, OrderState.EXPIRED})


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An order before and after a report; its row is locked, written, logged and announced."""

    before: Order
    after: Order
    report: Report
    cause: Cause
    note: str | None = None  # what the asking side wrote


def asked_of(order: Order, asking: Cause) -> Cause:
    """Why an order moves that somebody asked to: its own correlation runs on, what asked is the cause."""
    return Cause(
        correlation_id=order.correlation_id,
        causation_id=asking.causation_id or asking.correlation_id,
        traceparent=asking.traceparent,
    )


class Consequence(msgspec.Struct, frozen=True, kw_only=True):
    """A report that an effect makes about the same order at once, such as FULFILLED when nothing is left to grant."""

    order_id: OrderId
    report: Report
    cause: Cause


async def follow(moves: Sequence[Move], tx: WriteTx, clock: Clock) -> list[Consequence]:
    """Do what follows from moves, at most one per order; the orders' rows are locked.

    A paid order brings what it was sold with and uses its coupons; one that ended unpaid gives them back.
    """
    paid = [m for m in moves if m.after.state in HOLDS_MONEY and m.before.state not in HOLDS_MONEY]
    ended = [m for m in moves if m.after.state in ENDED and m.before.state not in ENDED]
    if paid:
        await plan_grants.handle([PlanGrants(order=m.after, cause=m.cause) for m in paid], tx, clock)
    if paid or ended:
        await redeem_coupon.settle(
            {m.after.order_id: m.cause for m in paid}, {m.after.order_id: m.cause for m in ended}, tx, clock
        )
    return []


async def can_reopen(orders: Sequence[Order], tx: WriteTx, clock: Clock) -> set[OrderId]:
    """Which of these ended orders can still be kept, now that their money has come: their coupons allow it."""
    return await redeem_coupon.take_again([order.order_id for order in orders], tx, clock)
