"""Benefits: templates of what an order brings its buyer (a coupon, points, an entitlement), and which orders bring which."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NewType
from uuid import UUID

import msgspec

from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import MINOR_MAX

BenefitId = NewType("BenefitId", UUID)

WHOLE_ORDER: Final = 0
"""The line of what was granted for the order as a whole."""
BASIS_POINTS: Final = 10_000


class BenefitKind(StrEnum):
    """What is given. An order brings at most one of each kind for each of its lines, and one for the whole."""

    COUPON = "coupon"
    POINTS = "points"
    ENTITLEMENT = "entitlement"


class CouponValue(StrEnum):
    """How a coupon counts: so many minor units, or so many basis points of what is to be paid."""

    FIXED = "fixed"
    PERCENT = "percent"


class BenefitRefusal(StrEnum):
    """Why a template is not taken, or cannot be attached to an order line; told to merchants."""

    UNKNOWN = "benefit_unknown"
    ARCHIVED = "benefit_archived"
    NOT_APPLICABLE = "benefit_not_applicable"
    REPEATED = "benefit_repeated"
    TOO_MANY_RULES = "too_many_rules"


class CouponTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a coupon of this template does and when.

    `cap_minor` bounds what a percentage gives; `minimum_minor` is what an order must cost before it; both in minor
    units of the benefit's currency. It is valid from `starts_at` (or at once) until `ends_at`, and no longer than
    `days` after it was granted.
    """

    value: CouponValue
    cap_minor: int | None = None
    minimum_minor: int = 0
    uses_max: int = 1
    starts_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None
    days: int | None = None

    def window(self, granted_at: dt.datetime) -> tuple[dt.datetime, dt.datetime | None]:
        """From when until when a coupon that is granted now may be used; None: without an end."""
        start = granted_at if self.starts_at is None else max(granted_at, self.starts_at)
        ends = [] if self.ends_at is None else [self.ends_at]
        if self.days is not None:
            ends.append(granted_at + dt.timedelta(days=self.days))
        return start, min(ends, default=None)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Every order of the merchant that is paid within the campaign and costs at least `minimum_minor` brings it."""

    minimum_minor: int = 0
    starts_at: dt.datetime | None = None
    ends_at: dt.datetime | None = None

    def covers(self, minor: int, at: dt.datetime) -> bool:
        """Whether an order of this total, paid at this moment, is one of them."""
        begun = self.starts_at is None or self.starts_at <= at
        return begun and (self.ends_at is None or at < self.ends_at) and minor >= self.minimum_minor


class Benefit(msgspec.Struct, frozen=True, kw_only=True):
    """One template; it never changes but for its stock, and for being archived, after which no new order brings it.

    `units` is what one grant is worth: minor units or basis points of a coupon, points for each unit sold, 1 of an
    entitlement. `currency` binds it to orders in that currency; coupons and rules with a minimum have one. Without a
    `rule` it must be attached to an order line. `stock_left` is how many may still be granted; None: any number.
    """

    benefit_id: BenefitId
    merchant_id: MerchantId
    name: str
    kind: BenefitKind
    units: int
    currency: str | None
    coupon: CouponTerms | None
    rule: Rule | None
    stock_left: int | None
    created_at: dt.datetime
    archived_at: dt.datetime | None = None

    def fits(self, merchant_id: MerchantId, currency: str) -> bool:
        """Whether an order of this merchant in this currency may bring it."""
        return merchant_id == self.merchant_id and self.currency in {None, currency}


class PaidOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of an order to know what it brings; `quantities` by line, from line 1."""

    order_id: OrderId
    merchant_id: MerchantId
    currency: str
    total_minor: int
    quantities: tuple[int, ...]
    paid_at: dt.datetime


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A benefit that an order brings: `units` in all."""

    line: int
    benefit: Benefit
    units: int


def plan(order: PaidOrder, attached: Sequence[tuple[int, Benefit]], rules: Sequence[Benefit]) -> list[Planned]:
    """What an order brings: what its lines were sold with, whatever became of the template since, and what rules give.

    Where several give the same kind for the same line, the oldest template does.
    """
    wishes = [(line, benefit) for line, benefit in attached if benefit.fits(order.merchant_id, order.currency)]
    wishes += [(WHOLE_ORDER, benefit) for benefit in rules if _gives(benefit, order)]
    planned: dict[tuple[int, BenefitKind], Planned] = {}
    for line, benefit in sorted(wishes, key=lambda wish: (wish[0], wish[1].benefit_id)):
        quantity = 1 if line == WHOLE_ORDER or benefit.kind is not BenefitKind.POINTS else order.quantities[line - 1]
        units = min(benefit.units * quantity, MINOR_MAX)
        planned.setdefault((line, benefit.kind), Planned(line=line, benefit=benefit, units=units))
    return list(planned.values())


def misfit(
    benefits: Sequence[Benefit | None], merchant_id: MerchantId, currency: str
) -> tuple[int, BenefitRefusal] | None:
    """The first template that cannot be attached to one line, and why; None when all can."""
    kinds: set[BenefitKind] = set()
    for index, benefit in enumerate(benefits):
        if benefit is None or benefit.merchant_id != merchant_id:
            return index, BenefitRefusal.UNKNOWN
        if benefit.archived_at is not None:
            return index, BenefitRefusal.ARCHIVED
        if not benefit.fits(merchant_id, currency):
            return index, BenefitRefusal.NOT_APPLICABLE
        if benefit.kind in kinds:
            return index, BenefitRefusal.REPEATED
        kinds.add(benefit.kind)
    return None


def _gives(benefit: Benefit, order: PaidOrder) -> bool:
    given = benefit.rule is not None and benefit.rule.covers(order.total_minor, order.paid_at)
    return (
        given
        and benefit.archived_at is None
        and benefit.stock_left != 0
        and benefit.fits(order.merchant_id, order.currency)
    )
