"""Apply what others report about orders: read, decide, move, log, announce; what does not fit becomes a case."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.errors import RetryLater
from defray_kernel.ids import CaseId, OrderId, show, uuid7
from defray_order import announce
from defray_order.domain.case import Case
from defray_order.domain.order import Moved, Order, Refused, Repeated, Reported, decide
from defray_order.store import cases, orders


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyReport:
    """One report about one order."""

    order_id: OrderId
    reported: Reported
    cause: Cause


async def handle(commands: Sequence[ApplyReport], tx: WriteTx, clock: Clock) -> None:
    """Apply reports, at most one per order. Raises RetryLater when an order is not known (yet)."""
    assert len({c.order_id for c in commands}) == len(commands)
    known = await orders.get_for_update(tx, [c.order_id for c in commands])
    moves: list[tuple[ApplyReport, Order]] = []
    opened: list[Case] = []
    for command in commands:
        order = known.get(command.order_id)
        if order is None:
            raise RetryLater("the order is not known")
        decision = decide(order, command.reported)
        match decision:
            case Moved(order=moved):
                moves.append((command, moved))
            case Repeated():
                pass
            case Refused():
                opened.append(_case(order, command, decision, clock))
            case _:
                assert_never(decision)
    if moves:
        await _move(moves, known, tx, clock)
    if opened:
        await cases.open_all(tx, opened)


async def _move(
    moves: Sequence[tuple[ApplyReport, Order]], known: dict[OrderId, Order], tx: WriteTx, clock: Clock
) -> None:
    now = clock.now()
    moved, events = [], []
    for command, order in moves:
        data = announce.for_state(order)
        if data is None:
            moved.append(order)
            continue
        numbered = dataclasses.replace(order, event_seq=order.event_seq + 1)
        moved.append(numbered)
        key = show("ord", order.order_id)
        events.append(
            outbox.event(data, key=key, aggregate_id=key, sequence=numbered.event_seq, cause=command.cause, at=now)
        )
    await orders.move(tx, moved)
    await orders.log_transitions(
        tx,
        [
            orders.Transition(
                order_id=order.order_id,
                version=order.version,
                before=known[order.order_id].state,
                after=order.state,
                report=command.reported.report,
                at=now,
                cause=command.cause,
            )
            for command, order in moves
        ],
    )
    await outbox.append(tx, events)


def _case(order: Order, command: ApplyReport, refused: Refused, clock: Clock) -> Case:
    reported = command.reported
    subject = "payable" if reported.payment_id is None else show("pay", reported.payment_id)
    money = "" if reported.money is None else f" of {reported.money}"
    return Case(
        case_id=CaseId(uuid7()),
        order_id=order.order_id,
        reason=refused.reason,
        subject=subject,
        detail=f"{reported.report}{money} by {show('mer', reported.merchant_id)}; order {order.state}, {order.total}",
        opened_at=clock.now(),
        cause=command.cause,
    )
