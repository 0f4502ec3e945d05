"""A grant: one benefit given for one line of one order, its states, and how much of it goes back with the order's money."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Final, Literal, NewType, TypeAlias
from uuid import UUID

import msgspec

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import MerchantId, OrderId
from defray_order.domain.benefit import WHOLE_ORDER, BenefitId, BenefitKind, CouponTerms, CouponValue

GrantId = NewType("GrantId", UUID)

TRIES_MAX: Final = 8
_FIRST_PAUSE: Final = dt.timedelta(minutes=1)
_PAUSE_MAX: Final = dt.timedelta(hours=1)


class GrantState(StrEnum):
    """PENDING → GRANTED → USED | REVOKED; or FAILED, or REVOKED before it was given."""

    PENDING = "PENDING"
    GRANTED = "GRANTED"
    USED = "USED"
    REVOKED = "REVOKED"
    FAILED = "FAILED"


class GrantReport(StrEnum):
    """What happens to a grant."""

    GIVEN = "given"
    GAVE_UP = "gave_up"
    USED_UP = "used_up"  # its last use was paid for
    TAKEN_BACK = "taken_back"  # all of it, but for what is used already


class GrantFailure(StrEnum):
    """Why a grant could not be given; told to merchants."""

    STOCK_USED_UP = "stock_used_up"
    VALIDITY_OVER = "validity_over"


class GrantStep(StrEnum):
    """What was done with a grant: one line of its log each."""

    PLANNED = "planned"
    GIVEN = "given"
    GAVE_UP = "gave_up"
    RESERVED = "reserved"  # by an order that was placed with it
    USED = "used"
    RELEASED = "released"
    RECALLED = "recalled"
    OWED = "owed"  # what was used already could not be recalled


ANSWERS: Final[Mapping[tuple[GrantState, GrantReport], GrantState]] = {
    (GrantState.PENDING, GrantReport.GIVEN): GrantState.GRANTED,
    (GrantState.PENDING, GrantReport.GAVE_UP): GrantState.FAILED,
    (GrantState.PENDING, GrantReport.TAKEN_BACK): GrantState.REVOKED,
    (GrantState.GRANTED, GrantReport.USED_UP): GrantState.USED,
    (GrantState.GRANTED, GrantReport.TAKEN_BACK): GrantState.REVOKED,
}
"""Every move; a pair that is not here leaves the grant in its state."""


def decide(state: GrantState, report: GrantReport) -> GrantState:
    """The state after a report."""
    return ANSWERS.get((state, report), state)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One grant. `units` was given for the order's whole money, `recalled` of it has gone back since; see Benefit.units.

    A coupon of `uses_max` uses is worth that to each use: `reserved` of them are spoken for by orders not yet paid,
    `used` were paid for. `version` moves with every write, `event_seq` with every event.
    """

    grant_id: GrantId
    order_id: OrderId
    merchant_id: MerchantId
    line: int
    kind: BenefitKind
    benefit_id: BenefitId
    name: str
    currency: str | None
    coupon: CouponTerms | None
    state: GrantState
    units: int
    planned_at: dt.datetime
    due_at: dt.datetime | None
    correlation_id: str
    recalled: int = 0
    reserved: int = 0
    used: int = 0
    tries: int = 0
    failure: GrantFailure | None = None
    granted_at: dt.datetime | None = None
    valid_from: dt.datetime | None = None
    valid_until: dt.datetime | None = None
    version: int = 1
    event_seq: int = 0

    @property
    def worth(self) -> int:
        """What is left of `units`."""
        return self.units - self.recalled

    @property
    def uses_max(self) -> int:
        """How often it may be used."""
        return 1 if self.coupon is None else self.coupon.uses_max

    @property
    def taken(self) -> int:
        """Uses that are spoken for or paid for."""
        return self.reserved + self.used


def unit(grant: Grant) -> Literal["minor", "basis_points", "points", "entitlement"]:
    """What its units count."""
    if grant.coupon is not None:
        return "minor" if grant.coupon.value is CouponValue.FIXED else "basis_points"
    return "points" if grant.kind is BenefitKind.POINTS else "entitlement"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a grant's log. `units` of the grant, `minor` of the currency, `used_on` the order that uses a coupon."""

    grant: Grant
    kind: GrantStep
    at: dt.datetime
    cause: Cause
    units: int | None = None
    minor: int | None = None
    used_on: OrderId | None = None
    event_id: UUID | None = None  # of the event that told of it
    event_type: str | None = None


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The grant is given now."""

    grant: Grant


class TryLater(msgspec.Struct, frozen=True, kw_only=True):
    """It cannot be given now, perhaps later."""

    grant: Grant


class GaveUp(msgspec.Struct, frozen=True, kw_only=True):
    """It cannot be given."""

    grant: Grant


Fulfilment: TypeAlias = Given | TryLater | GaveUp


def fulfil(grant: Grant, *, in_stock: bool, at: dt.datetime) -> Fulfilment:
    """Try to give a pending grant, of which there is one in stock or not."""
    assert grant.state is GrantState.PENDING
    tried = msgspec.structs.replace(grant, version=grant.version + 1, tries=grant.tries + 1)
    start, end = (None, None) if grant.coupon is None else grant.coupon.window(at)
    if start is not None and end is not None and end <= start:
        return GaveUp(grant=_ended(tried, GrantFailure.VALIDITY_OVER))
    if in_stock:
        state = decide(grant.state, GrantReport.GIVEN)
        given = msgspec.structs.replace(
            tried, state=state, due_at=None, granted_at=at, valid_from=start, valid_until=end
        )
        return Given(grant=given)
    if tried.tries >= TRIES_MAX:
        return GaveUp(grant=_ended(tried, GrantFailure.STOCK_USED_UP))
    pause = min(_FIRST_PAUSE * 2 ** (tried.tries - 1), _PAUSE_MAX)
    return TryLater(grant=msgspec.structs.replace(tried, due_at=at + pause))


def _ended(grant: Grant, failure: GrantFailure) -> Grant:
    state = decide(grant.state, GrantReport.GAVE_UP)
    return msgspec.structs.replace(grant, state=state, due_at=None, failure=failure)


class GoneBack(msgspec.Struct, frozen=True, kw_only=True):
    """Of an order's money: so much of its total, and of each line (minor units), has gone back or is about to."""

    total_minor: int
    refunded_minor: int
    paid: Mapping[int, int]
    refunded: Mapping[int, int]

    def part(self, line: int) -> Fraction:
        """What part of the money went back for which a grant of this line was given; at most 1."""
        paid, back = self.total_minor, self.refunded_minor
        if line != WHOLE_ORDER and self.paid.get(line, 0) > 0:
            paid, back = self.paid[line], self.refunded.get(line, 0)
        # A line that cost nothing, and an order's grant as a whole, go back as the order does.
        return Fraction(min(back, paid), paid) if paid > 0 else Fraction(0)


def recall(grants: Sequence[Grant], gone: GoneBack) -> dict[GrantId, int]:
    """How much is recalled of each of an order's grants in all: never less than before, never more than was given.

    Units of one sort (points; a coupon's money) are shared out by largest remainder, so that together they are the part
    that went back, to the unit and to the holder's favour. Percentages do not add up: each stands alone. An entitlement
    goes when the money for it has gone whole.
    """
    sorts: defaultdict[object, list[Grant]] = defaultdict(list)
    for grant in grants:
        if grant.state in {GrantState.PENDING, GrantState.GRANTED, GrantState.USED, GrantState.REVOKED}:
            sorts[_sort(grant)].append(grant)
    result: dict[GrantId, int] = {}
    for sort in sorts.values():
        shares = [gone.part(grant.line) * grant.units for grant in sort]
        more = _share_out(shares, [grant.recalled for grant in sort])
        result |= {grant.grant_id: grant.recalled + plus for grant, plus in zip(sort, more, strict=True)}
    return result


def _sort(grant: Grant) -> object:
    if grant.kind is BenefitKind.POINTS:
        return grant.kind
    if grant.coupon is not None and grant.coupon.value is CouponValue.FIXED:
        return grant.kind
    return grant.grant_id


def _share_out(shares: Sequence[Fraction], had: Sequence[int]) -> list[int]:
    """Whole numbers to add to what was had, so that the sums meet; the largest remainders are rounded up.

    Only what is still missing is shared out: what a smaller sum rounded up is not taken back by a larger one.
    """
    missing = math.floor(sum(shares, Fraction(0))) - sum(had)
    if missing <= 0:
        return [0] * len(shares)
    rests = [max(share - before, Fraction(0)) for share, before in zip(shares, had, strict=True)]
    quotas = [rest * missing / sum(rests) for rest in rests]
    more = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(more)), key=lambda i: (more[i] - quotas[i], i))
    for i in by_remainder[: missing - sum(more)]:
        more[i] += 1
    return more


def after_recall(grant: Grant, recalled: int) -> Grant:
    """The grant with so much recalled in all; when nothing is left and a use or all of it was free, it is revoked."""
    assert grant.recalled <= recalled <= grant.units
    state = grant.state
    if recalled == grant.units:
        state = decide(state, GrantReport.TAKEN_BACK)
    ended = state in {GrantState.REVOKED, GrantState.FAILED}
    return msgspec.structs.replace(
        grant, state=state, recalled=recalled, due_at=None if ended else grant.due_at, version=grant.version + 1
    )


def reserved_by(grant: Grant) -> Grant:
    """The grant after an order was placed with one of its uses."""
    assert grant.taken < grant.uses_max
    return msgspec.structs.replace(grant, reserved=grant.reserved + 1, version=grant.version + 1)


def released_by(grant: Grant) -> Grant:
    """The grant after an order that had reserved one of its uses ended unpaid."""
    assert grant.reserved > 0
    return msgspec.structs.replace(grant, reserved=grant.reserved - 1, version=grant.version + 1)


def paid_in(grant: Grant) -> Grant:
    """The grant after an order that had reserved one of its uses was paid; with its last use it is USED."""
    assert grant.reserved > 0
    used = grant.used + 1
    state = decide(grant.state, GrantReport.USED_UP) if used == grant.uses_max else grant.state
    return msgspec.structs.replace(
        grant, state=state, used=used, reserved=grant.reserved - 1, version=grant.version + 1
    )
