"""What the order service should come to, in plain dictionaries and numbers: the twin that test_machine.py compares it with.

It shares no code with the service. Where the service may choose (which of two coupons bears an odd unit, which grant takes the last in
stock), the model checks that the choice was a lawful one and takes it over.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from uuid import UUID

BASIS = 10_000
HOLDS_MONEY = {"PAID", "FULFILLED", "PARTIALLY_REFUNDED", "REFUNDED"}
DEAD = {"FAILED", "REFUSED"}


@dataclass(kw_only=True, eq=False)
class Template:
    """A benefit; `off` is "fixed" or "percent" for a coupon."""

    benefit_id: UUID
    kind: str
    units: int
    off: str | None = None
    cap: int | None = None
    minimum: int = 0
    uses_max: int = 1
    days: int | None = None
    stock: int | None = None
    rule_minimum: int | None = None
    given: int = 0


@dataclass(kw_only=True, eq=False)
class Grant:
    """What an order brought; `units` of it were planned, `recalled` went back."""

    order: "Order"
    line: int
    template: Template
    units: int
    due: dt.datetime | None
    state: str = "PENDING"
    recalled: int = 0
    reserved: int = 0
    used: int = 0
    tries: int = 0
    until: dt.datetime | None = None
    code: str | None = None
    uses: "list[Use]" = field(default_factory=list)

    def off(self, worth: int, base: int) -> int:
        """What it takes off, were it worth so much."""
        if self.template.off == "fixed":
            return min(worth, base)
        minor = base * worth // BASIS
        return minor if self.template.cap is None else min(minor, self.template.cap * worth // self.units)

    @property
    def left(self) -> int:
        return self.units - self.recalled


@dataclass(kw_only=True, eq=False)
class Use:
    """A coupon used by an order."""

    grant: Grant
    order: "Order"
    worth: int
    base: int
    minor: int
    state: str = "RESERVED"

    @property
    def kept(self) -> int:
        """What the coupon as it is now would have taken off."""
        return self.grant.off(min(self.worth, self.grant.left), self.base)

    @property
    def owed(self) -> int:
        return 0 if self.state == "RELEASED" else self.minor - self.kept


@dataclass(kw_only=True, eq=False)
class Request:
    """A wish that money goes back; `lines` as the service let it fall."""

    payment: "Payment"
    minor: int
    origin: str
    lines: dict[int, int]
    state: str = "REQUESTED"
    recalled: bool = False


@dataclass(kw_only=True, eq=False)
class Refund:
    """The channel's part of it."""

    refund_id: UUID
    payment: "Payment"
    minor: int
    reason: str
    request_id: UUID | None
    state: str = "REQUESTED"
    told: int = 0


@dataclass(kw_only=True, eq=False)
class Payment:
    """As the payment service has it."""

    payment_id: UUID
    minor: int
    refunds: list[Refund] = field(default_factory=list)

    def sum(self, *states: str) -> int:
        return sum(r.minor for r in self.refunds if r.state in states)


@dataclass(kw_only=True, eq=False)
class Order:
    """One order, what the payment service knows of it (`payable`, `payments`), and what it has told but nobody heard yet."""

    order_id: UUID
    number: str
    total: int
    costs: list[int]
    quantities: list[int]
    attached: list[tuple[int, Template]]
    expires: dt.datetime
    state: str = "PLACED"
    payable: str = "OPEN"
    asked: str | None = None
    refunded: int = 0
    fulfilled: bool = False
    paid_with: Payment | None = None
    paid_lines: list[int] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    grants: dict[tuple[int, str], Grant] = field(default_factory=dict)
    payments: list[Payment] = field(default_factory=list)
    requests: dict[UUID, Request] = field(default_factory=dict)
    late_asked: set[UUID] = field(default_factory=set)
    coming: list[tuple[Any, Any]] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    cases: set[str] = field(default_factory=set)
    sequence: int = 0

    @property
    def debt(self) -> int:
        """What could not be had back of the coupons that it brought."""
        return sum(use.owed for grant in self.grants.values() for use in grant.uses)

    def live(self) -> list[Request]:
        return [r for r in self.requests.values() if r.state not in DEAD and r.payment is self.paid_with]

    def paid(self, payment: Payment | None, templates: Sequence[Template], now: dt.datetime) -> None:
        """The money is there, or nothing was due."""
        self.state, self.paid_with = "PAID", payment
        for use in self.uses:
            if use.state == "RELEASED":
                use.grant.reserved += 1
            use.state = "USED"
            use.grant.reserved -= 1
            use.grant.used += 1
            if use.grant.used == use.grant.template.uses_max and use.grant.state == "GRANTED":
                use.grant.state = "USED"
        rules = [
            (0, t)
            for t in templates
            if t.rule_minimum is not None and self.total >= t.rule_minimum and t.stock != t.given
        ]
        for line, template in [*self.attached, *rules]:
            times = self.quantities[line - 1] if line and template.kind == "points" else 1
            grant = Grant(order=self, line=line, template=template, units=template.units * times, due=now)
            self.grants.setdefault((line, template.kind), grant)

    def ended(self, state: str) -> None:
        self.state = state
        for use in self.uses:
            use.state = "RELEASED"
            use.grant.reserved -= 1

    def could_reopen(self, now: dt.datetime) -> bool:
        for use in self.uses:
            grant = use.grant
            fresh = grant.state == "GRANTED" and (grant.until is None or now < grant.until)
            if not fresh or use.kept != use.minor or grant.reserved + grant.used >= grant.template.uses_max:
                return False
        return True

    def fulfil(self) -> bool:
        """False when it cannot be said of it."""
        if self.fulfilled or self.state not in {"PAID", "PARTIALLY_REFUNDED"}:
            return self.fulfilled
        self.fulfilled = True
        self.state = "FULFILLED" if self.state == "PAID" else self.state
        return True

    def due_back(self) -> dict[object, int]:
        """How much of each sort of what it brought should be gone by now; rounded down, to the holder's favour."""
        live = self.live()
        back = {line: sum(r.lines.get(line, 0) for r in live) for line in range(1, len(self.costs) + 1)}
        whole = min(sum(r.minor for r in live), self.total)
        sums: defaultdict[object, Fraction] = defaultdict(Fraction)
        for grant in self.grants.values():
            if grant.state == "FAILED":
                continue
            of, gone = self.total, whole
            if grant.line and self.paid_lines[grant.line - 1]:
                of, gone = self.paid_lines[grant.line - 1], back[grant.line]
            sums[sort_of(grant)] += Fraction(min(gone, of), of) * grant.units if of else 0
        return {sort: int(total) for sort, total in sums.items()}


def sort_of(grant: Grant) -> object:
    """What is shared out together: points, and money of coupons."""
    together = grant.template.kind == "points" or grant.template.off == "fixed"
    return grant.template.kind if together else (grant.line, grant.template.kind)


def priced(order: Order, coupons: Sequence[Grant], now: dt.datetime) -> list[Use] | tuple[int, str]:
    """What these coupons take off an order, or the first that does not, and why."""
    base = rest = sum(order.costs)
    uses: list[Use] = []
    for index, grant in enumerate(coupons):
        minor = grant.off(grant.left, rest)
        refusal = None
        if grant.until is not None and now >= grant.until:
            refusal = "coupon_expired"
        elif grant.reserved + grant.used >= grant.template.uses_max:
            refusal = "coupon_used_up"
        elif (
            base < grant.template.minimum
            or grant.state == "REVOKED"
            or not grant.left
            or not minor
            or any(use.grant is grant for use in uses)
        ):
            refusal = "coupon_not_applicable"
        if refusal is not None:
            return index, refusal
        uses.append(Use(grant=grant, order=order, worth=grant.left, base=rest, minor=minor))
        rest -= minor
    return uses
