"""Recall what was granted for money that goes back; called before the money is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """How much of an order's money goes back, in all (minor units), and how it falls on the lines, in all."""

    order_id: OrderId
    refunded_minor: int
    lines: tuple[tuple[int, int], ...]
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """How many grants this recall touched, and the order's debt: what could not be had back, in all (minor units)."""

    order_id: OrderId
    grants: int
    grant_debt_minor: int


async def recall(recalls: Sequence[Recall], _tx: WriteTx, _clock: Clock) -> list[Recalled]:
    """Recall in proportion, once per cumulative amount. Nothing is granted yet, so there is nothing to recall."""
    return [Recalled(order_id=each.order_id, grants=0, grant_debt_minor=0) for each in recalls]
