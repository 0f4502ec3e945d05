"""How templates of benefits, grants and coupons are shown to their merchant."""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

from defray_kernel.ids import show
from defray_order.domain.benefit import Benefit, CouponTerms, CouponValue
from defray_order.domain.grant import Grant, unit


class CouponTermsShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a coupon takes off and when: `amount_minor` of a fixed one, `basis_points` of a percent one."""

    value: Literal["fixed", "percent"]
    amount_minor: int | None
    basis_points: int | None
    cap_minor: int | None
    minimum_minor: int
    uses_max: int
    valid_from: dt.datetime | None
    valid_until: dt.datetime | None
    valid_days: int | None


class RuleShown(msgspec.Struct, frozen=True, kw_only=True):
    """Which orders bring a benefit unasked."""

    minimum_minor: int
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None


class BenefitShown(msgspec.Struct, frozen=True, kw_only=True):
    """A template; `stock_left` is how many may still be granted, None any number."""

    benefit_id: str
    merchant_id: str
    name: str
    kind: Literal["coupon", "points", "entitlement"]
    currency: str | None
    coupon: CouponTermsShown | None
    points: int | None
    rule: RuleShown | None
    stock_left: int | None
    created_at: dt.datetime
    archived_at: dt.datetime | None


class GrantShown(msgspec.Struct, frozen=True, kw_only=True):
    """What an order brought: `line` 0 is the order as a whole; see `grant.granted.v1` for the counts.

    `coupon_code` is there once a coupon is granted. `debt_minor` is what should have gone back but was used.
    """

    grant_id: str
    order_id: str
    benefit_id: str
    name: str
    line: int
    kind: Literal["coupon", "points", "entitlement"]
    status: Literal["PENDING", "GRANTED", "USED", "REVOKED", "FAILED"]
    unit: Literal["minor", "basis_points", "points", "entitlement"]
    units: int
    recalled_units: int
    currency: str | None
    coupon_code: str | None
    reserved: int
    uses: int
    uses_max: int
    debt_minor: int
    planned_at: dt.datetime
    granted_at: dt.datetime | None
    valid_from: dt.datetime | None
    valid_until: dt.datetime | None
    reason: str | None


class GrantsShown(msgspec.Struct, frozen=True, kw_only=True):
    """All that an order brought, by line and kind; `debt_minor` (of `currency`) is what it owes in all."""

    data: list[GrantShown]
    debt_minor: int
    currency: str


class CouponShown(msgspec.Struct, frozen=True, kw_only=True):
    """A coupon as it is now: what it still takes off, after what was recalled of it, and how many uses are left."""

    coupon_code: str
    grant_id: str
    order_id: str
    name: str
    status: Literal["PENDING", "GRANTED", "USED", "REVOKED", "FAILED"]
    value: Literal["fixed", "percent"]
    amount_minor: int | None
    basis_points: int | None
    cap_minor: int | None
    minimum_minor: int
    currency: str
    uses_left: int
    valid_from: dt.datetime | None
    valid_until: dt.datetime | None


def benefit(of: Benefit) -> BenefitShown:
    """A template."""
    rule = None
    if of.rule is not None:
        rule = RuleShown(minimum_minor=of.rule.minimum_minor, starts_at=of.rule.starts_at, ends_at=of.rule.ends_at)
    return BenefitShown(
        benefit_id=show("bft", of.benefit_id),
        merchant_id=show("mer", of.merchant_id),
        name=of.name,
        kind=of.kind.value,
        currency=of.currency,
        coupon=None if of.coupon is None else _terms(of.coupon, of.units),
        points=of.units if of.kind.value == "points" else None,
        rule=rule,
        stock_left=of.stock_left,
        created_at=of.created_at,
        archived_at=of.archived_at,
    )


def grant(of: Grant, coupon_code: str | None, debt_minor: int) -> GrantShown:
    """A grant, with its code where it has one."""
    return GrantShown(
        grant_id=show("grt", of.grant_id),
        order_id=show("ord", of.order_id),
        benefit_id=show("bft", of.benefit_id),
        name=of.name,
        line=of.line,
        kind=of.kind.value,
        status=of.state.value,
        unit=unit(of),
        units=of.units,
        recalled_units=of.recalled,
        currency=of.currency,
        coupon_code=coupon_code,
        reserved=of.reserved,
        uses=of.used,
        uses_max=of.uses_max,
        debt_minor=debt_minor,
        planned_at=of.planned_at,
        granted_at=of.granted_at,
        valid_from=of.valid_from,
        valid_until=of.valid_until,
        reason=of.failure,
    )


def coupon(of: Grant, code: str) -> CouponShown:
    """A granted coupon."""
    terms = of.coupon
    assert terms is not None
    assert of.currency is not None
    fixed = terms.value is CouponValue.FIXED
    return CouponShown(
        coupon_code=code,
        grant_id=show("grt", of.grant_id),
        order_id=show("ord", of.order_id),
        name=of.name,
        status=of.state.value,
        value=terms.value.value,
        amount_minor=of.worth if fixed else None,
        basis_points=None if fixed else of.worth,
        cap_minor=None if terms.cap_minor is None else terms.cap_minor * of.worth // of.units,
        minimum_minor=terms.minimum_minor,
        currency=of.currency,
        uses_left=of.uses_max - of.taken if of.state.value == "GRANTED" else 0,
        valid_from=of.valid_from,
        valid_until=of.valid_until,
    )


def _terms(terms: CouponTerms, units: int) -> CouponTermsShown:
    fixed = terms.value is CouponValue.FIXED
    return CouponTermsShown(
        value=terms.value.value,
        amount_minor=units if fixed else None,
        basis_points=None if fixed else units,
        cap_minor=terms.cap_minor,
        minimum_minor=terms.minimum_minor,
        uses_max=terms.uses_max,
        valid_from=terms.starts_at,
        valid_until=terms.ends_at,
        valid_days=terms.days,
    )
