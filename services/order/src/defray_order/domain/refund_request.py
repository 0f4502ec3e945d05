"""A wish that money goes back: its states, how its amount falls on the order's lines, and what may be asked at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NewType, TypeAlias
from uuid import UUID

import msgspec

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import MerchantId, OrderId, PaymentId, RefundId
from defray_kernel.money import Money
from defray_order.domain.order import Order

RefundRequestId = NewType("RefundRequestId", UUID)


class RequestState(StrEnum):
    """REQUESTED (reserved, told) → SENT (the payment service made the refund) → SUCCEEDED | FAILED; or REFUSED."""

    REQUESTED = "REQUESTED"
    SENT = "SENT"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REFUSED = "REFUSED"


REQUESTS_MAX: Final = 1000
"""So many requests an order may have, whatever becomes of them; no channel takes more refunds of a payment."""

ENDED: Final = frozenset({RequestState.SUCCEEDED, RequestState.FAILED, RequestState.REFUSED})


class Origin(StrEnum):
    """Who asked: the merchant here, the rule for money that came too late, or somebody at the payment service."""

    ORDER = "order"
    LATE_MONEY = "late_money"
    PAYMENT = "payment"


class RequestReport(StrEnum):
    """What the payment service says of a request."""

    TAKEN = "taken"  # the refund exists, its amount is reserved there
    ABNORMAL = "abnormal"  # stuck at the channel; a person acts there
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"


class RefundRefusal(StrEnum):
    """Why a request is not taken; told to merchants."""

    ORDER_NOT_PAID = "order_not_paid"
    REFUND_EXCEEDS_PAID = "refund_exceeds_paid"
    REFUND_EXCEEDS_LINE = "refund_exceeds_line"
    REFUND_OF_NOTHING = "refund_of_nothing"
    LINE_UNKNOWN = "line_unknown"
    LINE_REPEATED = "line_repeated"
    TOO_MANY_REFUNDS = "too_many_refunds"


class StepKind(StrEnum):
    """What was done for a request; grants are recalled before money is asked for."""

    ASKED = "asked"
    GRANTS_RECALLED = "grants_recalled"  # the step's amount is what could not be recalled: the order's debt
    MONEY_ASKED = "money_asked"
    TAKEN = "taken"
    ABNORMAL = "abnormal"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"


class LineShare(msgspec.Struct, frozen=True, kw_only=True):
    """So much of a line, in minor units; `quantity` where units were named."""

    line: int
    minor: int
    quantity: int | None = None


class LineWish(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a wish: so many units, or so much of what was paid for it (minor units)."""

    line: int
    quantity: int | None = None
    minor: int | None = None


class RefundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One wish; `lines` add up to `amount`, except of money that did not pay the order: that has none.

    `refund_seq` is the sequence of its refund's event heard last, `grants_recalled` how many grants its recall touched;
    `version` counts its steps.
    """

    request_id: RefundRequestId
    order_id: OrderId
    merchant_id: MerchantId
    payment_id: PaymentId
    origin: Origin
    amount: Money
    lines: tuple[LineShare, ...]
    note: str
    state: RequestState
    refund_id: RefundId | None
    refund_seq: int
    grants_recalled: int
    code: str | None
    requested_at: dt.datetime
    ended_at: dt.datetime | None
    correlation_id: str
    version: int

    @property
    def reserves(self) -> bool:
        """Whether its amount counts against what was paid."""
        return self.state not in {RequestState.FAILED, RequestState.REFUSED}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a request's log; `event_id` is of what was told with it."""

    request_id: RefundRequestId
    step: int
    kind: StepKind
    state: RequestState
    minor: int | None
    at: dt.datetime
    event_id: UUID | None = None
    cause: Cause


class RequestMoved(msgspec.Struct, frozen=True, kw_only=True):
    """The request goes to another state, or stays and notes what was told."""

    to: RequestState


class RequestRepeated(msgspec.Struct, frozen=True, kw_only=True):
    """Known already, or older than what is known."""


class RequestContradicted(msgspec.Struct, frozen=True, kw_only=True):
    """What was told before stands; a person must look at it."""


RequestDecision: TypeAlias = RequestMoved | RequestRepeated | RequestContradicted

_S, _R = RequestState, RequestReport
_CONTRADICTION: Final = RequestContradicted()

# Every pair that is not here is old news and moves nothing.
ANSWERS: Final[Mapping[tuple[RequestState, RequestReport], RequestDecision]] = {
    (_S.REQUESTED, _R.TAKEN): RequestMoved(to=_S.SENT),
    (_S.REQUESTED, _R.ABNORMAL): RequestMoved(to=_S.SENT),
    (_S.REQUESTED, _R.SUCCEEDED): RequestMoved(to=_S.SUCCEEDED),
    (_S.REQUESTED, _R.FAILED): RequestMoved(to=_S.FAILED),
    (_S.REQUESTED, _R.REFUSED): RequestMoved(to=_S.REFUSED),
    (_S.SENT, _R.ABNORMAL): RequestMoved(to=_S.SENT),
    (_S.SENT, _R.SUCCEEDED): RequestMoved(to=_S.SUCCEEDED),
    (_S.SENT, _R.FAILED): RequestMoved(to=_S.FAILED),
    (_S.SENT, _R.REFUSED): _CONTRADICTION,
    (_S.SUCCEEDED, _R.FAILED): _CONTRADICTION,
    (_S.SUCCEEDED, _R.REFUSED): _CONTRADICTION,
    (_S.FAILED, _R.SUCCEEDED): _CONTRADICTION,
    (_S.FAILED, _R.REFUSED): _CONTRADICTION,
    (_S.REFUSED, _R.TAKEN): _CONTRADICTION,
    (_S.REFUSED, _R.ABNORMAL): _CONTRADICTION,
    (_S.REFUSED, _R.SUCCEEDED): _CONTRADICTION,
    (_S.REFUSED, _R.FAILED): _CONTRADICTION,
}


def decide(state: RequestState, report: RequestReport) -> RequestDecision:
    """The one answer to a report."""
    return ANSWERS.get((state, report), RequestRepeated())


class RequestRefused(msgspec.Struct, frozen=True, kw_only=True):
    """Not so; `field` is the part of the wish that is wrong, as the request names it."""

    code: RefundRefusal
    field: str | None = None


class LineAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What was paid for one line and what of it is spoken for: by amount, by units, and how many units."""

    line: int
    quantity: int
    paid_minor: int
    by_amount_minor: int
    by_units_minor: int
    units: int

    @property
    def left_minor(self) -> int:
        """What may still go back. Not below zero, although the payment service may know of more than was asked here."""
        return max(0, self.paid_minor - self.by_amount_minor - self.by_units_minor)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What was paid for an order and what of it is spoken for."""

    paid: Money
    taken_minor: int
    lines: tuple[LineAccount, ...]

    @property
    def left_minor(self) -> int:
        """What may still go back of the whole."""
        return max(0, self.paid.minor - self.taken_minor)


def account(order: Order, requests: Sequence[RefundRequest]) -> Account:
    """The account of a paid order. Where its total is not what its lines cost, they share it by largest remainder."""
    live = [r for r in requests if r.reserves and r.payment_id == order.payment_id]
    costs = [item.amount_minor for item in order.items]
    paid = [share.minor for share in order.total.allocate(costs)] if sum(costs) else [0] * len(costs)
    lines = []
    for number, (item, minor) in enumerate(zip(order.items, paid, strict=True), start=1):
        shares = [share for request in live for share in request.lines if share.line == number]
        lines.append(
            LineAccount(
                line=number,
                quantity=item.quantity,
                paid_minor=minor,
                by_amount_minor=sum(share.minor for share in shares if share.quantity is None),
                by_units_minor=sum(share.minor for share in shares if share.quantity is not None),
                units=sum(share.quantity or 0 for share in shares),
            )
        )
    return Account(paid=order.total, taken_minor=sum(r.amount.minor for r in live), lines=tuple(lines))


def allot_amount(of: Account, minor: int) -> tuple[LineShare, ...] | RequestRefused:
    """How an amount falls on the lines: by what is left of each."""
    if minor > of.left_minor:
        return RequestRefused(code=RefundRefusal.REFUND_EXCEEDS_PAID, field="amount_minor")
    return _spread(of, minor, [line.left_minor for line in of.lines])


def allot_told(of: Account, minor: int) -> tuple[LineShare, ...]:
    """The same for a refund that exists already, whatever is left here."""
    left = [line.left_minor for line in of.lines]
    return _spread(of, minor, left if minor <= sum(left) else [line.paid_minor for line in of.lines])


def allot_lines(of: Account, wishes: Sequence[LineWish]) -> tuple[LineShare, ...] | RequestRefused:
    """What the named lines come to, each within what is left of it and together within what is left of the order."""
    lines = {line.line: line for line in of.lines}
    shares: list[LineShare] = []
    for index, wish in enumerate(wishes):
        named = lines.get(wish.line)
        if named is None:
            return RequestRefused(code=RefundRefusal.LINE_UNKNOWN, field=f"lines[{index}].line")
        if any(share.line == wish.line for share in shares):
            return RequestRefused(code=RefundRefusal.LINE_REPEATED, field=f"lines[{index}].line")
        minor = wish.minor if wish.quantity is None else _units(named, wish.quantity)
        if minor is None or minor > named.left_minor:
            wrong = "amount_minor" if wish.quantity is None else "quantity"
            return RequestRefused(code=RefundRefusal.REFUND_EXCEEDS_LINE, field=f"lines[{index}].{wrong}")
        shares.append(LineShare(line=wish.line, minor=minor, quantity=wish.quantity))
    total = sum(share.minor for share in shares)
    if total == 0:
        return RequestRefused(code=RefundRefusal.REFUND_OF_NOTHING, field="lines")
    if total > of.left_minor:
        return RequestRefused(code=RefundRefusal.REFUND_EXCEEDS_PAID, field="lines")
    return tuple(shares)


def _units(line: LineAccount, quantity: int) -> int | None:
    """What so many more units cost, so that all units together cost the line; None when there are not so many."""
    units = line.units + quantity
    if units > line.quantity:
        return None
    if units == line.quantity and line.by_amount_minor == 0:
        return line.left_minor  # the rest, whatever was rounded before
    return line.paid_minor * units // line.quantity - line.paid_minor * line.units // line.quantity


def _spread(of: Account, minor: int, weights: Sequence[int]) -> tuple[LineShare, ...]:
    shares = Money(minor=minor, currency=of.paid.currency).allocate(weights)
    pairs = zip(of.lines, shares, strict=True)
    return tuple(LineShare(line=line.line, minor=share.minor) for line, share in pairs if share.minor)
