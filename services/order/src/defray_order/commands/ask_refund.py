"""Ask for money to go back: reserved under the order's lock, grants recalled first, then told to the payment service."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import msgspec

from defray_kernel import idempotency, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.idempotency import Answer, Claim, Claimed, Fresh, Resume
from defray_kernel.ids import MerchantId, OrderId, PaymentId, show, uuid7
from defray_kernel.money import Money
from defray_kernel.outbox import OutboxEvent
from defray_order import announce
from defray_order.commands import recall_grants
from defray_order.commands.recall_grants import Recall, Recalled
from defray_order.commands.told import Told
from defray_order.domain.order import HOLDS_MONEY, Order
from defray_order.domain.refund_request import (
    REQUESTS_MAX,
    LineShare,
    LineWish,
    Origin,
    RefundRefusal,
    RefundRequest,
    RefundRequestId,
    RequestRefused,
    RequestState,
    Step,
    StepKind,
    account,
    allot_amount,
    allot_lines,
)
from defray_order.store import orders, refund_requests

LATE_MONEY_NOTE: Final = "paid after the order had ended"


class Answers(Protocol):
    """How refusals are put for callers; the answer of a key is stored as it was told."""

    def refusal(self, refused: RequestRefused, correlation_id: str) -> tuple[int, bytes]:
        """Status and body of a refusal."""
        ...


class AskRefund(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's wish: an amount (minor units), or lines. `request_id` is used if the wish turns out to be new."""

    key: Claim
    request_id: RefundRequestId
    order_id: OrderId
    merchant_id: MerchantId
    amount_minor: int | None
    lines: tuple[LineWish, ...]
    note: str
    cause: Cause


class LateMoney(msgspec.Struct, frozen=True, kw_only=True):
    """Money of an order that had ended and is not kept: all of this payment goes back."""

    order_id: OrderId
    payment_id: PaymentId
    amount: Money
    cause: Cause


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A new request with what led to it, the order as it is locked, and the order's requests that reserve, this one too."""

    request: RefundRequest
    order: Order
    live: tuple[RefundRequest, ...]
    cause: Cause

    @property
    def recalls(self) -> bool:
        """Whether grants go back: what was granted was granted for the money that paid the order."""
        return self.request.payment_id == self.order.payment_id


Outcome: TypeAlias = Told | Claimed


def serial_keys(command: AskRefund) -> list[str]:
    """What two commands of one round may not share."""
    return [f"order {command.order_id}", f"key {command.key.scope} {command.key.key}"]


async def handle(commands: Sequence[AskRefund], tx: WriteTx, clock: Clock, *, answers: Answers) -> list[Outcome]:
    """Answer wishes about different orders, each of them there. Locks keys, then orders."""
    claimed = await idempotency.claim(tx, [c.key for c in commands], clock)
    open_ = [c for c, state in zip(commands, claimed, strict=True) if isinstance(state, (Fresh, Resume))]
    locked = await orders.get_for_update(tx, [c.order_id for c in open_]) if open_ else {}
    live = await reserving(tx, list(locked))
    counts = await refund_requests.counts(tx, list(locked))
    told: dict[RefundRequestId, Told] = {}
    asked: list[Asked] = []
    for command in open_:
        order, before = locked[command.order_id], live[command.order_id]
        request = _decide(command, order, before, counts.get(order.order_id, 0), clock.now())
        if isinstance(request, RequestRefused):
            status, body = answers.refusal(request, command.cause.correlation_id)
            told[command.request_id] = Told(status=status, body=body)
        else:
            asked.append(Asked(request=request, order=order, live=(*before, request), cause=command.cause))
    steps = await _begin(asked, tx, clock)
    for each in asked:
        shown = announce.request_shown(each.request, steps)
        told[each.request.request_id] = Told(status=201, body=msgspec.json.encode(shown))
    final = [(c.key, told[c.request_id]) for c in open_]
    if final:
        await idempotency.finish(
            tx, [Answer(scope=key.scope, key=key.key, status=t.status, body=t.body) for key, t in final]
        )
    return [told.get(c.request_id, state) for c, state in zip(commands, claimed, strict=True)]


async def late_money(wishes: Sequence[LateMoney], tx: WriteTx, clock: Clock) -> None:
    """Ask for late money of different orders back, whole, once per payment; what was asked before changes nothing.

    No grants are recalled: the order was never paid with this money. The orders must be known.
    """
    locked = await orders.get_for_update(tx, [w.order_id for w in wishes]) if wishes else {}
    before = await refund_requests.late_payments(tx, [w.payment_id for w in wishes])
    asked = []
    for wish in wishes:
        if wish.payment_id in before:
            continue
        order = locked[wish.order_id]
        request = _request(
            RefundRequestId(uuid7()), order, wish.payment_id, wish.amount, (), LATE_MONEY_NOTE, clock.now()
        )
        request = msgspec.structs.replace(request, origin=Origin.LATE_MONEY)
        asked.append(Asked(request=request, order=order, live=(), cause=wish.cause))
    await _begin(asked, tx, clock)


async def reserving(tx: WriteTx, order_ids: Sequence[OrderId]) -> Mapping[OrderId, list[RefundRequest]]:
    """The requests of locked orders that count against what was paid."""
    found: defaultdict[OrderId, list[RefundRequest]] = defaultdict(list)
    for request in await refund_requests.live_of_orders(tx, order_ids) if order_ids else ():
        found[request.order_id].append(request)
    return found


async def recall(asked: Sequence[Asked], tx: WriteTx, clock: Clock) -> dict[OrderId, Recalled]:
    """Recall what was granted for money that goes back; returns what came of it for each order.

    Sums are those of all requests that reserve: after one that failed, the next recalls only what goes beyond it.
    """
    recalls = []
    for each in asked:
        of = account(each.order, each.live)
        lines = tuple(
            (line.line, line.by_amount_minor + line.by_units_minor)
            for line in of.lines
            if line.by_amount_minor + line.by_units_minor > 0
        )
        refunded_minor = min(of.taken_minor, of.paid.minor)
        recalls.append(
            Recall(order_id=each.order.order_id, refunded_minor=refunded_minor, lines=lines, cause=each.cause)
        )
    done = await recall_grants.recall(recalls, tx, clock) if recalls else []
    return {each.order_id: each for each in done}


def _decide(
    command: AskRefund, order: Order, live: Sequence[RefundRequest], requests: int, now: dt.datetime
) -> RefundRequest | RequestRefused:
    if order.state not in HOLDS_MONEY or order.payment_id is None:
        return RequestRefused(code=RefundRefusal.ORDER_NOT_PAID)
    if requests >= REQUESTS_MAX:
        return RequestRefused(code=RefundRefusal.TOO_MANY_REFUNDS)
    of = account(order, live)
    if command.amount_minor is not None:
        shares = allot_amount(of, command.amount_minor)
    else:
        shares = allot_lines(of, command.lines)
    if isinstance(shares, RequestRefused):
        return shares
    amount = Money(minor=sum(share.minor for share in shares), currency=order.total.currency)
    return _request(command.request_id, order, order.payment_id, amount, shares, command.note, now)


def _request(
    request_id: RefundRequestId,
    order: Order,
    payment_id: PaymentId,
    amount: Money,
    lines: tuple[LineShare, ...],
    note: str,
    now: dt.datetime,
) -> RefundRequest:
    return RefundRequest(
        request_id=request_id,
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        payment_id=payment_id,
        origin=Origin.ORDER,
        amount=amount,
        lines=lines,
        note=note,
        state=RequestState.REQUESTED,
        refund_id=None,
        refund_seq=0,
        grants_recalled=0,
        code=None,
        requested_at=now,
        ended_at=None,
        correlation_id=order.correlation_id,
        version=1,
    )


async def _begin(asked: Sequence[Asked], tx: WriteTx, clock: Clock) -> list[Step]:
    """Recall grants, write the requests, tell; returns the steps. The caller holds the orders' locks."""
    if not asked:
        return []
    now = clock.now()
    recalled = await recall([each for each in asked if each.recalls], tx, clock)
    written: list[RefundRequest] = []
    steps: list[Step] = []
    for each, event_id in zip(asked, await _tell(asked, tx, now), strict=True):
        of = recalled.get(each.order.order_id)
        taken = [_step(each, StepKind.ASKED, each.request.amount.minor, now)]
        if of is not None:
            taken.append(_step(each, StepKind.GRANTS_RECALLED, of.grant_debt_minor, now))
        taken.append(_step(each, StepKind.MONEY_ASKED, each.request.amount.minor, now, event_id))
        steps += [msgspec.structs.replace(step, step=number) for number, step in enumerate(taken, start=1)]
        grants = 0 if of is None else of.grants
        written.append(msgspec.structs.replace(each.request, version=len(taken), grants_recalled=grants))
    await refund_requests.insert(tx, written)
    await refund_requests.log(tx, steps)
    return steps


def _step(asked: Asked, kind: StepKind, minor: int, now: dt.datetime, event_id: UUID | None = None) -> Step:
    return Step(
        request_id=asked.request.request_id,
        step=1,
        kind=kind,
        state=RequestState.REQUESTED,
        minor=minor,
        at=now,
        event_id=event_id,
        cause=asked.cause,
    )


async def _tell(asked: Sequence[Asked], tx: WriteTx, now: dt.datetime) -> list[UUID]:
    """The order's own event: its sequence moves with it, its state does not. Returns the events' ids.

    The orders are read anew: the recall may have told something of them too.
    """
    fresh = await orders.get(tx, [each.order.order_id for each in asked])
    moved: list[Order] = []
    events: list[OutboxEvent] = []
    for each in asked:
        order = fresh[each.order.order_id]
        order = msgspec.structs.replace(order, version=order.version + 1, event_seq=order.event_seq + 1)
        moved.append(order)
        key = show("ord", order.order_id)
        data = announce.refund_requested(order, each.request)
        events.append(outbox.event(data, key=key, aggregate_id=key, sequence=order.event_seq, cause=each.cause, at=now))
    await orders.move(tx, moved)
    await outbox.append(tx, events)
    return [event.id for event in events]
