"""The merchant API of benefits: templates, what an order brought, and what a coupon code stands for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.fields import AmountMinor, AmountMinorOrZero, CurrencyCode, RequestModel, Text
from defray_kernel.http import Call, Edge, Reply, replayed
from defray_kernel.idempotency import Claim, Replay, scope_of
from defray_kernel.ids import MerchantId, OrderId, parse, uuid7
from defray_kernel.problems import Problem, ProblemKind
from defray_order.commands import coupon_codes, define_benefit
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.commands.define_benefit import ArchiveBenefit, DefineBenefit, TooManyRules
from defray_order.commands.told import Told
from defray_order.domain.benefit import (
    Benefit,
    BenefitId,
    BenefitKind,
    BenefitRefusal,
    CouponTerms,
    CouponValue,
    Rule,
)
from defray_order.domain.coupon import CouponRefusal
from defray_order.domain.grant import Grant, GrantId
from defray_order.entrypoints.order_list import LIMIT, read_limit
from defray_order.store import benefits, coupons, grants, orders
from defray_order.views import benefits as views
from defray_order.views.benefits import BenefitShown, CouponShown, GrantsShown

_FIRST: Final = UUID(int=0)

PROBLEMS: Final = (
    ProblemKind(code=BenefitRefusal.UNKNOWN, status=422, title="The merchant has no such benefit"),
    ProblemKind(code=BenefitRefusal.ARCHIVED, status=409, title="The benefit is archived"),
    ProblemKind(code=BenefitRefusal.NOT_APPLICABLE, status=422, title="The benefit is of another currency"),
    ProblemKind(code=BenefitRefusal.REPEATED, status=422, title="A line brings one benefit of each kind"),
    ProblemKind(code=BenefitRefusal.TOO_MANY_RULES, status=409, title="No more benefits may be given by rules"),
    ProblemKind(code=CouponRefusal.UNKNOWN, status=422, title="There is no such coupon"),
    ProblemKind(code=CouponRefusal.EXPIRED, status=409, title="The coupon is not valid any more"),
    ProblemKind(code=CouponRefusal.USED_UP, status=409, title="The coupon has no use left"),
    ProblemKind(code=CouponRefusal.CURRENCY_MISMATCH, status=422, title="The coupon is of another currency"),
    ProblemKind(code=CouponRefusal.NOT_APPLICABLE, status=422, title="The coupon does not apply to this order"),
)


def _moment(value: Any, _handler: ValidatorFunctionWrapHandler) -> dt.datetime:  # noqa: ANN401 - pydantic's signature
    try:
        moment = dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise PydanticCustomError("invalid_field", "not a time") from None
    if moment.tzinfo is None:
        raise PydanticCustomError("invalid_field", "a time without its zone")
    return moment.astimezone(dt.UTC)


Moment = Annotated[dt.datetime, WrapValidator(_moment)]
"""RFC 3339 with an offset."""


class CouponBody(RequestModel):
    """What a coupon takes off: `amount_minor` of a fixed one, `basis_points` (1/100 of a per cent) of a percent one.

    A percentage takes off at most `cap_minor`. An order must cost `minimum_minor` before it. It is valid from
    `valid_from` until `valid_until`, and for `valid_days` after it was granted, whichever ends first.
    """

    value: Literal["fixed", "percent"]
    amount_minor: AmountMinor | None = None
    basis_points: Annotated[int, Field(ge=1, le=10_000)] | None = None
    cap_minor: AmountMinor | None = None
    minimum_minor: AmountMinorOrZero = 0
    uses_max: Annotated[int, Field(ge=1, le=1_000)] = 1
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    valid_days: Annotated[int, Field(ge=1, le=3_650)] | None = None


class RuleBody(RequestModel):
    """Which orders bring it unasked: paid from `starts_at` and before `ends_at`, with a total of `minimum_minor` or more."""

    minimum_minor: AmountMinorOrZero = 0
    starts_at: Moment | None = None
    ends_at: Moment | None = None


class BenefitBody(RequestModel):
    """A template: `coupon` for a coupon, `points` (for each unit sold) for points, neither for an entitlement.

    With a `rule` every order that it covers brings one, as a whole; else name it in an order line's `benefits`. At most
    `stock` are granted. `currency` binds it to orders in that currency; coupons and rules with a minimum need one.
    """

    name: Annotated[str, Text(100)]
    kind: Literal["coupon", "points", "entitlement"]
    currency: CurrencyCode | None = None
    coupon: CouponBody | None = None
    points: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    rule: RuleBody | None = None
    stock: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None


class BenefitsShown(msgspec.Struct, frozen=True, kw_only=True):
    """A page of templates, oldest first; `?after=<next_after>` gives the next one."""

    data: list[BenefitShown]
    next_after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenefitsApi:
    """Handlers of the public port; what belongs to other merchants is not there."""

    database: Database
    codes: CouponCodes
    clock: Clock

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route(
            "POST",
            "/v1/benefits",
            self.define,
            summary="Define a benefit that orders bring",
            request=BenefitBody,
            response=BenefitShown,
            status=201,
            scope="benefits:write",
            idempotency_key=True,
            example={
                "name": "10 off the next order",
                "kind": "coupon",
                "currency": "CNY",
                "coupon": {"value": "fixed", "amount_minor": 1000, "valid_days": 30},
            },
        )
        edge.route("GET", "/v1/benefits", self.page, summary="List benefits", response=BenefitsShown,
                   scope="benefits:read", query={"after": {"type": "string"}, "limit": LIMIT})  # fmt: skip
        edge.route("GET", "/v1/benefits/{benefit_id}", self.get, summary="Show a benefit",
                   response=BenefitShown, scope="benefits:read")  # fmt: skip
        edge.route("POST", "/v1/benefits/{benefit_id}/archive", self.archive,
                   summary="Archive a benefit: no new order brings it",
                   response=BenefitShown, scope="benefits:write")  # fmt: skip
        edge.route("GET", "/v1/orders/{order_id}/grants", self.of_order, summary="List what an order brought its buyer",
                   response=GrantsShown, scope="benefits:read")  # fmt: skip
        edge.route("GET", "/v1/coupons/{code}", self.coupon, summary="Show what a coupon code stands for",
                   response=CouponShown, scope="benefits:read")  # fmt: skip

    async def define(self, call: Call[BenefitBody]) -> Reply:
        """Check what the schema would refuse, then insert once per key."""
        assert call.idempotency_key is not None
        merchant_id = _merchant(call)
        scope = scope_of(merchant_id, "define_benefit")
        command = DefineBenefit(
            key=Claim(scope=scope, key=call.idempotency_key, request_hash=call.request_hash),
            benefit=_benefit(call, self.clock.now()),
            encode=lambda benefit: msgspec.json.encode(views.benefit(benefit)),
        )
        async with self.database.transaction() as tx:
            outcome = await define_benefit.handle(command, tx, self.clock)
        match outcome:
            case Told(status=status, body=body):
                return Reply(status=status, content=body)
            case TooManyRules():
                raise Problem(BenefitRefusal.TOO_MANY_RULES, field="rule")
            case Replay():
                reply = replayed(outcome)
                assert reply is not None
                return reply
            case _:
                replayed(outcome)
                raise AssertionError(outcome)

    async def page(self, call: Call[None]) -> Reply:
        """The caller's templates, page by page."""
        if not set(call.query) <= {"after", "limit"}:
            raise Problem("invalid_parameter")
        limit = read_limit(call)
        try:
            after = parse("bft", call.query["after"]) if "after" in call.query else _FIRST
        except ValueError:
            raise Problem("invalid_parameter", field="after") from None
        async with self.database.read() as conn:
            found = await benefits.page(conn, _merchant(call), after=after, limit=limit + 1)
        shown = [views.benefit(benefit) for benefit in found[:limit]]
        return Reply(content=BenefitsShown(data=shown, next_after=shown[-1].benefit_id if found[limit:] else None))

    async def get(self, call: Call[None]) -> Reply:
        """One template."""
        benefit_id = BenefitId(_parsed("bft", call.path_params["benefit_id"]))
        async with self.database.read() as conn:
            found = (await benefits.get(conn, [benefit_id])).get(benefit_id)
        if found is None or found.merchant_id != _merchant(call):
            raise Problem("not_found")
        return Reply(content=views.benefit(found))

    async def archive(self, call: Call[None]) -> Reply:
        """Archive one template; again changes nothing."""
        benefit_id = BenefitId(_parsed("bft", call.path_params["benefit_id"]))
        command = ArchiveBenefit(merchant_id=_merchant(call), benefit_id=benefit_id)
        async with self.database.transaction() as tx:
            found = await define_benefit.archive(command, tx, self.clock.now())
        if found is None:
            raise Problem("not_found")
        return Reply(content=views.benefit(found))

    async def of_order(self, call: Call[None]) -> Reply:
        """All grants of one order, with the codes of its coupons."""
        order_id = OrderId(_parsed("ord", call.path_params["order_id"]))
        async with self.database.read() as conn:
            order = (await orders.get(conn, [order_id])).get(order_id)
            if order is None or order.merchant_id != _merchant(call):
                raise Problem("not_found")
            found = await grants.of_orders(conn, [order_id])
            debts = await coupons.debts_of_grants(conn, [grant.grant_id for grant in found])
        shown = [views.grant(g, await self._code(g), debts.get(g.grant_id, 0)) for g in found]
        return Reply(content=GrantsShown(data=shown, debt_minor=sum(debts.values()), currency=order.total.currency))

    async def coupon(self, call: Call[None]) -> Reply:
        """One coupon of the caller's, by its code."""
        digest = coupon_codes.digest(call.path_params["code"])
        async with self.database.read() as conn:
            ids = await coupons.by_digests(conn, [digest]) if digest is not None else {}
            found = await grants.get(conn, list(ids.values())) if ids else {}
        grant = next(iter(found.values()), None)
        if grant is None or grant.merchant_id != _merchant(call):
            raise Problem("not_found")
        code = await self._code(grant)
        assert code is not None
        return Reply(content=views.coupon(grant, code))

    async def _code(self, grant: Grant) -> str | None:
        given = grant.kind is BenefitKind.COUPON and grant.granted_at is not None
        return await self.codes.code(GrantId(grant.grant_id)) if given else None


def _benefit(call: Call[BenefitBody], now: dt.datetime) -> Benefit:
    """The template. Raises Problem, naming the field that does not go with the others."""
    body = call.body
    wanted = {"coupon": body.kind == "coupon", "points": body.kind == "points"}
    for name, given in (("coupon", body.coupon), ("points", body.points)):
        if wanted[name] != (given is not None):
            raise Problem("missing_field" if wanted[name] else "invalid_field", field=name)
    bound = body.coupon is not None or (body.rule is not None and body.rule.minimum_minor > 0)
    if bound and body.currency is None:
        raise Problem("missing_field", field="currency")
    assert call.merchant is not None
    if body.currency is not None and body.currency not in call.merchant.state.currencies:
        raise Problem("unsupported_currency", field="currency")
    units, terms = _coupon(body.coupon) if body.coupon is not None else (body.points or 1, None)
    rule = None
    if body.rule is not None:
        _in_order(body.rule.starts_at, body.rule.ends_at, "rule.ends_at")
        rule = Rule(minimum_minor=body.rule.minimum_minor, starts_at=body.rule.starts_at, ends_at=body.rule.ends_at)
    return Benefit(
        benefit_id=BenefitId(uuid7()),
        merchant_id=_merchant(call),
        name=body.name,
        kind=BenefitKind(body.kind),
        units=units,
        currency=body.currency,
        coupon=terms,
        rule=rule,
        stock_left=body.stock,
        created_at=now,
    )


def _coupon(body: CouponBody) -> tuple[int, CouponTerms]:
    needed, other = ("amount_minor", "basis_points") if body.value == "fixed" else ("basis_points", "amount_minor")
    units: int | None = getattr(body, needed)
    if units is None:
        raise Problem("missing_field", field=f"coupon.{needed}")
    if getattr(body, other) is not None:
        raise Problem("invalid_field", field=f"coupon.{other}")
    if body.value == "fixed" and body.cap_minor is not None:
        raise Problem("invalid_field", field="coupon.cap_minor")
    _in_order(body.valid_from, body.valid_until, "coupon.valid_until")
    return units, CouponTerms(
        value=CouponValue(body.value),
        cap_minor=body.cap_minor,
        minimum_minor=body.minimum_minor,
        uses_max=body.uses_max,
        starts_at=body.valid_from,
        ends_at=body.valid_until,
        days=body.valid_days,
    )


def _in_order(start: dt.datetime | None, end: dt.datetime | None, field: str) -> None:
    if start is not None and end is not None and end <= start:
        raise Problem("invalid_field", field=field, detail="must be after its beginning")


def _merchant(call: Call[BenefitBody] | Call[None]) -> MerchantId:
    assert call.merchant is not None
    return call.merchant.merchant_id


def _parsed(prefix: str, text: str) -> UUID:
    try:
        return parse(prefix, text)
    except ValueError:
        raise Problem("not_found") from None
