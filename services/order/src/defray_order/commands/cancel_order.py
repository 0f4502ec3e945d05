"""Ask for orders to end: CLOSING, which the payment service decides; an order never heard of leaves a tombstone."""

import datetime as dt
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, assert_never

import msgspec

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, OrderId, uuid7
from defray_kernel.money import Money
from defray_order.commands import apply_reports
from defray_order.commands.effects import Move, asked_of
from defray_order.domain import order as rules
from defray_order.domain.order import Moved, Order, OrderState, Repeated, Report, Reported
from defray_order.store import orders

NOTE_MAX: Final = 200
_TOMBSTONE_LIFE: Final = dt.timedelta(
    minutes=1
)  # An order needs an end after its beginning; nobody waits for this one.

By: TypeAlias = Literal["merchant", "customer", "system"]


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks to end which order: named by its id, or by the merchant's number.

    An order that is not known by its number is remembered as cancelled, so that it never comes to life, with nothing due
    in `tombstone_currency` (any that the merchant sells in); without one, or when named by id, it is `Unknown`.
    """

    merchant_id: MerchantId
    order_id: OrderId | None = None
    merchant_order_no: str | None = None
    by: By
    reason: str | None = None
    tombstone_currency: str | None = None
    cause: Cause

    def __post_init__(self) -> None:
        assert (self.order_id is None) != (self.merchant_order_no is None), "named by one of both"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The order as it is now: CLOSING, or ended already (asking again changes nothing)."""

    order: Order


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The order was paid before; the money is given back by a refund, not by a cancel."""

    order: Order


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """This merchant has no such order."""


Outcome: TypeAlias = Asked | Refused | Unknown


def serial_keys(command: CancelOrder) -> list[str]:
    """What two commands of one round may not share; one round names its orders in one way."""
    if command.order_id is not None:
        return [f"order {command.order_id}"]
    return [f"no {command.merchant_id} {command.merchant_order_no}"]


async def handle(commands: Sequence[CancelOrder], tx: WriteTx, clock: Clock) -> list[Outcome]:
    """Answer each wish, no two about one order. Asking again changes nothing. Locks the numbers, then the orders."""
    ids = await _resolve(commands, tx, clock)
    known = await orders.get_for_update(tx, sorted({each for each in ids if each is not None}))
    moves: list[Move] = []
    outcomes: dict[OrderId, Outcome] = {}
    for command, order_id in zip(commands, ids, strict=True):
        order = None if order_id is None else known.get(order_id)
        if order is None or order.merchant_id != command.merchant_id:
            continue
        assert order.order_id not in outcomes, "two commands of one round about one order"
        outcomes[order.order_id] = _decide(command, order, moves, clock.now())
    after = await apply_reports.carry_out(moves, tx, clock)
    outcomes |= {order_id: Asked(order=order) for order_id, order in after.items()}
    return [Unknown() if each is None else outcomes.get(each, Unknown()) for each in ids]


def _decide(command: CancelOrder, order: Order, moves: list[Move], now: dt.datetime) -> Outcome:
    asked = Reported(report=Report.CANCEL_ASKED, merchant_id=command.merchant_id, at=now, reason=command.by)
    decision = rules.decide(order, asked)
    match decision:
        case Moved(order=moved):
            note = None if command.reason is None else command.reason[:NOTE_MAX]
            moves.append(
                Move(before=order, after=moved, report=asked.report, cause=asked_of(order, command.cause), note=note)
            )
            return Asked(order=moved)
        case Repeated():
            return Asked(order=order)
        case rules.Refused():
            return Refused(order=order)
        case _:
            assert_never(decision)


async def _resolve(commands: Sequence[CancelOrder], tx: WriteTx, clock: Clock) -> list[OrderId | None]:
    """The id of each command's order; one that its merchant's number does not find gets its tombstone first."""
    numbered = [c for c in commands if c.merchant_order_no is not None]
    if not numbered:
        return [c.order_id for c in commands]
    taken = await orders.by_numbers(tx, [_number(c) for c in numbered])
    missing = [c for c in numbered if _number(c) not in taken and c.tombstone_currency is not None]
    if missing:
        await _bury(missing, tx, clock)
        # A second statement: an order that came in between is found, not buried.
        taken |= await orders.by_numbers(tx, [_number(c) for c in missing])
    found = {number: order_id for number, (order_id, _) in taken.items()}
    return [c.order_id if c.merchant_order_no is None else found.get(_number(c)) for c in commands]


async def _bury(commands: Sequence[CancelOrder], tx: WriteTx, clock: Clock) -> None:
    """An order that ended before it began holds the number: whoever places it waits for this, and finds it taken."""
    now = clock.now()
    stones = {_number(c): (c, _tombstone(c, now)) for c in commands}
    made = [stone for _, stone in stones.values()]
    inserted = await orders.insert(tx, made, [orders.NEVER_PLACED] * len(made))
    told, transitions = [], []
    for command, stone in stones.values():
        if stone.order_id not in inserted:
            continue
        event = apply_reports.event_of(None, stone, command.cause, now)
        told.append(event)
        transitions.append(
            orders.Transition(
                order_id=stone.order_id,
                version=stone.version,
                before=None,
                after=stone.state,
                report=None,
                at=now,
                cause=command.cause,
                note=None if command.reason is None else command.reason[:NOTE_MAX],
                event_id=event.id,
                event_type=event.type,
            )
        )
    if told:
        await orders.log_transitions(tx, transitions)
        await outbox.append(tx, told)


def _tombstone(command: CancelOrder, now: dt.datetime) -> Order:
    assert command.merchant_order_no is not None
    assert command.tombstone_currency is not None
    return Order(
        order_id=OrderId(uuid7()),
        merchant_id=command.merchant_id,
        merchant_order_no=command.merchant_order_no,
        state=OrderState.CANCELLED,
        total=Money(minor=0, currency=command.tombstone_currency),
        items=(),
        correlation_id=command.cause.correlation_id,
        placed_at=now,
        expires_at=now + _TOMBSTONE_LIFE,
        closing_reason=command.by,
    )


def _number(command: CancelOrder) -> tuple[MerchantId, str]:
    assert command.merchant_order_no is not None
    return command.merchant_id, command.merchant_order_no
