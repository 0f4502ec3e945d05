"""Fulfil orders on their merchant's word: what was paid has been delivered, as far as it was not granted here."""

from collections.abc import Sequence
from typing import TypeAlias, assert_never

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, OrderId
from defray_order.commands import apply_reports
from defray_order.commands.effects import Move, asked_of
from defray_order.domain import order as rules
from defray_order.domain.order import Moved, Order, Repeated, Report, Reported
from defray_order.store import orders


class FulfilOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's word on one order of its own."""

    merchant_id: MerchantId
    order_id: OrderId
    cause: Cause


class Fulfilled(msgspec.Struct, frozen=True, kw_only=True):
    """The order as it is now; saying so again changes nothing."""

    order: Order


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The order is not paid, has ended, or nothing of its money is left."""

    order: Order


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """This merchant has no such order."""


Outcome: TypeAlias = Fulfilled | Refused | Unknown


def serial_keys(command: FulfilOrder) -> list[str]:
    """What two commands of one round may not share."""
    return [f"order {command.order_id}"]


async def handle(commands: Sequence[FulfilOrder], tx: WriteTx, clock: Clock) -> list[Outcome]:
    """Answer each, no two about one order."""
    known = await orders.get_for_update(tx, sorted(c.order_id for c in commands))
    moves: list[Move] = []
    outcomes: dict[OrderId, Outcome] = {}
    for command in commands:
        order = known.get(command.order_id)
        if order is None or order.merchant_id != command.merchant_id:
            outcomes[command.order_id] = Unknown()
            continue
        said = Reported(report=Report.FULFILLED, merchant_id=command.merchant_id, at=clock.now())
        decision = rules.decide(order, said)
        match decision:
            case Moved(order=moved):
                moves.append(Move(before=order, after=moved, report=said.report, cause=asked_of(order, command.cause)))
            case Repeated():
                outcomes[command.order_id] = Fulfilled(order=order)
            case rules.Refused():
                outcomes[command.order_id] = Refused(order=order)
            case _:
                assert_never(decision)
    after = await apply_reports.carry_out(moves, tx, clock)
    outcomes |= {order_id: Fulfilled(order=order) for order_id, order in after.items()}
    return [outcomes[c.order_id] for c in commands]
