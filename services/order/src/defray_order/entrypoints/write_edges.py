"""The write edges of an order's life: what callers submit and wait for, in one group commit each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_order.commands import cancel_order, fulfil_order
from defray_order.commands.cancel_order import CancelOrder
from defray_order.commands.fulfil_order import FulfilOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeEdges:
    """Either finds its own first result again when run twice: asking again changes nothing."""

    cancelling: GroupCommit[CancelOrder, cancel_order.Outcome]
    fulfilling: GroupCommit[FulfilOrder, fulfil_order.Outcome]

    @property
    def all(self) -> tuple[GroupCommit[Any, Any], ...]:
        """For the roles that run them."""
        return self.cancelling, self.fulfilling


def life_edges(database: Database, clock: Clock, after_commit: Callable[[], None] | None) -> LifeEdges:
    """One connection each: most orders are neither cancelled nor fulfilled by hand."""
    return LifeEdges(
        cancelling=GroupCommit(
            "cancel_order",
            database,
            cancel_order.handle,
            clock,
            keys=cancel_order.serial_keys,
            natural_key=True,
            after_commit=after_commit,
            connections=1,
        ),
        fulfilling=GroupCommit(
            "fulfil_order",
            database,
            fulfil_order.handle,
            clock,
            keys=fulfil_order.serial_keys,
            natural_key=True,
            after_commit=after_commit,
            connections=1,
        ),
    )
