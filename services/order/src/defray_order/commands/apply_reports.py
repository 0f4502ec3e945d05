"""Apply what others report about orders: read, decide, move, log, announce; what does not fit becomes a case."""

import datetime as dt
from collections.abc import Sequence
from typing import Final, assert_never

import msgspec

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.errors import RetryLater
from defray_kernel.ids import CaseId, OrderId, show, uuid7
from defray_kernel.outbox import OutboxEvent
from defray_order import announce
from defray_order.commands import effects
from defray_order.commands.effects import Move
from defray_order.domain.case import Case
from defray_order.domain.order import Moved, Order, Refused, Repeated, Reported, decide
from defray_order.store import cases, orders
from defray_order.store.orders import Transition

_CONSEQUENCES_MAX: Final = 4
"""How often a move may lead to the next one at once; more is a circle."""


class ApplyReport(msgspec.Struct, frozen=True, kw_only=True):
    """One report about one order."""

    order_id: OrderId
    reported: Reported
    cause: Cause


async def handle(commands: Sequence[ApplyReport], tx: WriteTx, clock: Clock) -> None:
    """Apply reports, at most one per order. Raises RetryLater when an order is not known (yet)."""
    assert len({c.order_id for c in commands}) == len(commands)
    known = await orders.get_for_update(tx, [c.order_id for c in commands])
    moves: list[Move] = []
    opened: list[Case] = []
    for command in commands:
        order = known.get(command.order_id)
        if order is None:
            raise RetryLater("the order is not known")
        decision = decide(order, command.reported)
        match decision:
            case Moved(order=moved):
                report = command.reported.report
                moves.append(Move(before=order, after=moved, report=report, cause=command.cause))
            case Repeated():
                pass
            case Refused():
                opened.append(_case(order, command, decision, clock))
            case _:
                assert_never(decision)
    await carry_out(moves, tx, clock)
    if opened:
        await cases.open_all(tx, opened)


async def carry_out(moves: Sequence[Move], tx: WriteTx, clock: Clock) -> dict[OrderId, Order]:
    """Write decided moves of different, locked orders, log and announce them, then do what follows.

    Returns the orders as they are when all is done.
    """
    after: dict[OrderId, Order] = {}
    pending = list(moves)
    for _ in range(_CONSEQUENCES_MAX):
        if not pending:
            return after
        moved = await _write(pending, tx, clock.now())
        after |= {move.after.order_id: move.after for move in moved}
        pending = await consequences(moved, tx, clock)
    raise AssertionError("moves that lead to moves without end")


async def consequences(moves: Sequence[Move], tx: WriteTx, clock: Clock) -> list[Move]:
    """Do what follows from moves that were written; returns the moves it leads to, not written yet."""
    follow_up = await effects.follow(moves, tx, clock)
    if not follow_up:
        return []
    # Read again: an effect may have told something of the order, which moves its counters.
    known = await orders.get(tx, [each.order_id for each in follow_up])
    further: list[Move] = []
    for each in follow_up:
        before = known[each.order_id]
        decision = decide(before, Reported(report=each.report, merchant_id=before.merchant_id, at=clock.now()))
        assert not isinstance(decision, Refused), decision
        if isinstance(decision, Moved):
            further.append(Move(before=before, after=decision.order, report=each.report, cause=each.cause))
    return further


async def _write(moves: Sequence[Move], tx: WriteTx, now: dt.datetime) -> list[Move]:
    moved = [
        msgspec.structs.replace(move, after=msgspec.structs.replace(move.after, event_seq=move.before.event_seq + 1))
        for move in moves
    ]
    await orders.move(tx, [move.after for move in moved])
    told = [event_of(move.before, move.after, move.cause, now) for move in moved]
    transitions = [
        Transition(
            order_id=move.after.order_id,
            version=move.after.version,
            before=move.before.state,
            after=move.after.state,
            report=move.report,
            at=now,
            cause=move.cause,
            note=move.note,
            event_id=event.id,
            event_type=event.type,
        )
        for move, event in zip(moved, told, strict=True)
    ]
    await orders.log_transitions(tx, transitions)
    await outbox.append(tx, told)
    return moved


def event_of(before: Order | None, after: Order, cause: Cause, now: dt.datetime) -> OutboxEvent:
    """What is announced of a move."""
    key = show("ord", after.order_id)
    data = announce.for_move(before, after)
    return outbox.event(data, key=key, aggregate_id=key, sequence=after.event_seq, cause=cause, at=now)


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
