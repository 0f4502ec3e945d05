"""Place an order: once per idempotency key and once per merchant's own number, with its lines, log and event."""

import datetime as dt
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import msgspec

from defray_kernel import idempotency, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.idempotency import Answer, Claim, Claimed, Fresh, Resume
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import Money
from defray_order import announce
from defray_order.commands import apply_reports, place_extras
from defray_order.commands.effects import Move
from defray_order.commands.place_extras import Checked, Extras
from defray_order.commands.told import Told
from defray_order.domain.benefit import BenefitId
from defray_order.domain.order import Moved, Order, OrderItem, OrderState, Report, Reported, decide
from defray_order.store import buyers, order_payments, orders
from defray_order.store.buyers import SealedBuyer


class PlaceOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's wish, its totals already checked. `order_id` is used if the wish turns out to be new.

    `idempotency_key` is None when it came by event: the merchant's number alone tells a repeat then.
    """

    order_id: OrderId
    merchant_id: MerchantId
    merchant_order_no: str
    total: Money
    items: tuple[OrderItem, ...]
    expires_in: dt.timedelta
    content_hash: bytes
    idempotency_key: str | None
    request_hash: bytes
    cause: Cause
    buyer: SealedBuyer | None = None
    coupons: tuple[bytes, ...] = ()  # digests of the codes it is placed with
    benefits: tuple[tuple[int, BenefitId], ...] = ()  # by line, what they are sold with

    @property
    def lines_minor(self) -> int:
        """What the lines cost together, before coupons."""
        return sum(item.amount_minor for item in self.items)

    @property
    def scope(self) -> str:
        """Scope of the idempotency key."""
        return idempotency.scope_of(self.merchant_id, "place_order")

    @property
    def number(self) -> tuple[MerchantId, str]:
        """The natural key."""
        return self.merchant_id, self.merchant_order_no


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """The merchant's number is taken by an order of other content."""


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody asked to end the order of this number before it came: it never comes to life."""


class NotWith(msgspec.Struct, frozen=True, kw_only=True):
    """Not with this coupon, benefit or total: a stable code, and the field as the request names it."""

    code: str
    field: str


Outcome: TypeAlias = Told | Conflict | Cancelled | NotWith | Claimed


def serial_keys(command: PlaceOrder) -> list[str]:
    """What two commands of one round may not share."""
    keys = [f"no {command.merchant_id} {command.merchant_order_no}", *(f"coupon {d.hex()}" for d in command.coupons)]
    if command.idempotency_key is not None:
        keys.append(f"key {command.scope} {command.idempotency_key}")
    return keys


async def handle(commands: Sequence[PlaceOrder], tx: WriteTx, clock: Clock) -> list[Outcome]:
    """Answer each wish; a repeated key gives what was claimed of it (a replay, or a mismatch)."""
    keyed = [(c, c.idempotency_key) for c in commands if c.idempotency_key is not None]
    claims = [Claim(scope=c.scope, key=key, request_hash=c.request_hash) for c, key in keyed]
    claimed = await idempotency.claim(tx, claims, clock) if claims else []
    answered: dict[OrderId, Outcome] = {
        c.order_id: state
        for (c, _), state in zip(keyed, claimed, strict=True)
        if not isinstance(state, (Fresh, Resume))
    }
    open_ = [c for c in commands if c.order_id not in answered]
    if open_:
        answered |= await _place(open_, tx, clock)
    return [answered[c.order_id] for c in commands]


async def _place(asked: Sequence[PlaceOrder], tx: WriteTx, clock: Clock) -> dict[OrderId, Outcome]:
    commands = asked
    now = clock.now()
    extras = await place_extras.check([_extras(c) for c in commands if c.coupons or c.benefits], tx, clock)
    refused: dict[OrderId, Outcome] = {
        c.order_id: NotWith(code=extra.code, field=extra.field)
        for c in commands
        if isinstance(extra := extras.get(c.order_id), place_extras.Refused)
    }
    if refused:
        # What was placed before is told as it was, whatever has become of its coupons since.
        before = await _placed_before([c for c in commands if c.order_id in refused], tx)
        refused |= before
        commands = [c for c in commands if c.order_id not in refused]
    histories = {c.order_id: _history(c, now) for c in commands}
    latest = [histories[c.order_id][-1] for c in commands]
    inserted = await orders.insert(tx, latest, [c.content_hash for c in commands])
    new = [c for c in commands if c.order_id in inserted]
    await place_extras.keep([checked for c in new if isinstance(checked := extras.get(c.order_id), Checked)], tx, clock)
    await _tell(new, histories, tx, now)
    await _follow(new, histories, tx, clock)
    kept = [c.buyer for c in new if c.buyer is not None]
    if kept:
        await buyers.keep(tx, kept)
    outcomes: dict[OrderId, Outcome] = {
        c.order_id: Told(status=201, body=_encode(announce.shown(histories[c.order_id][-1], ()))) for c in new
    }
    outcomes |= await _placed_before([c for c in commands if c.order_id not in inserted], tx)
    outcomes |= refused
    answers = [
        Answer(scope=c.scope, key=c.idempotency_key, status=told.status, body=told.body)
        for c in asked
        if c.idempotency_key is not None and isinstance(told := outcomes[c.order_id], Told)
    ]
    if answers:
        await idempotency.finish(tx, answers)
    return outcomes


def _extras(command: PlaceOrder) -> Extras:
    return Extras(
        order_id=command.order_id,
        merchant_id=command.merchant_id,
        lines_minor=command.lines_minor,
        total=command.total,
        coupons=command.coupons,
        benefits=command.benefits,
        cause=command.cause,
    )


def _history(command: PlaceOrder, now: dt.datetime) -> list[Order]:
    """The states a new order goes through at once: PLACED, and PAID when nothing is due."""
    placed = Order(
        order_id=command.order_id,
        merchant_id=command.merchant_id,
        merchant_order_no=command.merchant_order_no,
        state=OrderState.PLACED,
        total=command.total,
        items=command.items,
        coupons_minor=command.lines_minor - command.total.minor,
        correlation_id=command.cause.correlation_id,
        placed_at=now,
        expires_at=now + command.expires_in,
    )
    if command.total.minor > 0:
        return [placed]
    nothing_due = Reported(report=Report.NOTHING_DUE, merchant_id=command.merchant_id, at=now)
    decision = decide(placed, nothing_due)
    assert isinstance(decision, Moved)
    return [placed, msgspec.structs.replace(decision.order, event_seq=placed.event_seq + 1)]


async def _tell(
    commands: Sequence[PlaceOrder], histories: dict[OrderId, list[Order]], tx: WriteTx, now: dt.datetime
) -> None:
    """Log every state and announce it."""
    transitions, events = [], []
    for command in commands:
        before: Order | None = None
        for order in histories[command.order_id]:
            event = apply_reports.event_of(before, order, command.cause, now)
            transitions.append(
                orders.Transition(
                    order_id=order.order_id,
                    version=order.version,
                    before=None if before is None else before.state,
                    after=order.state,
                    report=None if before is None else Report.NOTHING_DUE,
                    at=now,
                    cause=command.cause,
                    event_id=event.id,
                    event_type=event.type,
                )
            )
            events.append(event)
            before = order
    if transitions:
        await orders.log_transitions(tx, transitions)
        await outbox.append(tx, events)


async def _follow(
    commands: Sequence[PlaceOrder], histories: dict[OrderId, list[Order]], tx: WriteTx, clock: Clock
) -> None:
    """What follows from being paid at once."""
    moves = [
        Move(before=before, after=after, report=Report.NOTHING_DUE, cause=command.cause)
        for command in commands
        for before, after in pairwise(histories[command.order_id])
    ]
    if moves:
        moved = await apply_reports.carry_out(await apply_reports.consequences(moves, tx, clock), tx, clock)
        for order_id, order in moved.items():
            histories[order_id].append(order)


async def _placed_before(commands: Sequence[PlaceOrder], tx: WriteTx) -> dict[OrderId, Outcome]:
    """The order that holds the merchant's number, when it is the same order; else a conflict."""
    if not commands:
        return {}
    taken = await orders.by_numbers(tx, [c.number for c in commands])
    commands = [c for c in commands if c.number in taken]
    same = {c.order_id: taken[c.number][0] for c in commands if taken[c.number][1] == c.content_hash}
    ended = {c.order_id for c in commands if taken[c.number][1] == orders.NEVER_PLACED}
    existing = await orders.get(tx, list(same.values())) if same else {}
    payments = await order_payments.of_orders(tx, list(same.values())) if same else []
    outcomes: dict[OrderId, Outcome] = {
        c.order_id: Cancelled() if c.order_id in ended else Conflict() for c in commands
    }
    for wished, order_id in same.items():
        of_order = [p for p in payments if p.order_id == order_id]
        outcomes[wished] = Told(status=200, body=_encode(announce.shown(existing[order_id], of_order)))
    return outcomes


def _encode(answer: announce.OrderShown) -> bytes:
    # Without the payment token: it is made from these fields when the answer is sent, and never stored.
    return msgspec.json.encode(answer)
