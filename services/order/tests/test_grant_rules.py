"""The rules of grants and coupons: what orders bring, what goes back to the unit, what coupons take off and owe."""

import datetime as dt
from fractions import Fraction
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defray_kernel.contracts.envelope import EventData
from defray_kernel.ids import MerchantId, OrderId, uuid7
from defray_order import announce
from defray_order.domain.benefit import (
    Benefit,
    BenefitId,
    BenefitKind,
    BenefitRefusal,
    CouponTerms,
    CouponValue,
    PaidOrder,
    Rule,
    misfit,
    plan,
)
from defray_order.domain.grant import (
    ANSWERS,
    TRIES_MAX,
    GaveUp,
    Given,
    GoneBack,
    Grant,
    GrantFailure,
    GrantId,
    GrantReport,
    GrantState,
    GrantStep,
    TryLater,
    decide,
    fulfil,
    recall,
)

from .given import MERCHANT, NOW

FIXED, PERCENT = CouponTerms(value=CouponValue.FIXED), CouponTerms(value=CouponValue.PERCENT)
HOUR = dt.timedelta(hours=1)


def grant(kind: BenefitKind = BenefitKind.COUPON, units: int = 1000, **changes: Any) -> Grant:  # noqa: ANN401 - whatever it has
    """A granted coupon of 10.00 CNY."""
    of = Grant(
        grant_id=GrantId(uuid7()),
        order_id=OrderId(uuid7()),
        merchant_id=MERCHANT,
        line=1,
        kind=kind,
        benefit_id=BenefitId(uuid7()),
        name="thanks",
        currency="CNY",
        coupon=FIXED if kind is BenefitKind.COUPON else None,
        state=GrantState.GRANTED,
        units=units,
        planned_at=NOW,
        due_at=None,
        correlation_id="c" * 32,
        granted_at=NOW,
        valid_from=NOW,
    )
    return msgspec.structs.replace(of, **changes)


def pending(**changes: Any) -> Grant:  # noqa: ANN401 - whatever it has
    return grant(state=GrantState.PENDING, granted_at=None, valid_from=None, due_at=NOW, **changes)


def benefit(kind: BenefitKind = BenefitKind.COUPON, units: int = 1000, **changes: Any) -> Benefit:  # noqa: ANN401 - whatever it has
    of = Benefit(
        benefit_id=BenefitId(uuid7()),
        merchant_id=MERCHANT,
        name="thanks",
        kind=kind,
        units=units,
        currency="CNY",
        coupon=FIXED if kind is BenefitKind.COUPON else None,
        rule=None,
        stock_left=None,
        created_at=NOW,
    )
    return msgspec.structs.replace(of, **changes)


ORDER = PaidOrder(
    order_id=OrderId(uuid7()), merchant_id=MERCHANT, currency="CNY", total_minor=500, quantities=(3, 1), paid_at=NOW
)


# What an order brings


def test_lines_bring_what_they_were_sold_with_and_points_for_each_unit() -> None:
    points, ticket = benefit(BenefitKind.POINTS, 20), benefit(BenefitKind.ENTITLEMENT, 1)
    planned = plan(ORDER, [(1, points), (2, points), (2, ticket)], [])
    assert sorted((p.line, p.benefit.kind, p.units) for p in planned) == [
        (1, BenefitKind.POINTS, 60),
        (2, BenefitKind.ENTITLEMENT, 1),
        (2, BenefitKind.POINTS, 20),
    ]


RULES: tuple[tuple[Rule, dict[str, Any], bool], ...] = (
    (Rule(minimum_minor=500), {}, True),
    (Rule(minimum_minor=501), {}, False),
    (Rule(starts_at=NOW, ends_at=NOW + HOUR), {}, True),
    (Rule(starts_at=NOW + HOUR), {}, False),
    (Rule(ends_at=NOW), {}, False),
    (Rule(), {"stock_left": 0}, False),
    (Rule(), {"stock_left": 1}, True),
    (Rule(), {"archived_at": NOW}, False),
    (Rule(), {"currency": "JPY"}, False),
    (Rule(), {"merchant_id": MerchantId(uuid7())}, False),
)


@pytest.mark.parametrize(("rule", "changes", "brings"), RULES)
def test_a_rule_covers_orders_by_amount_time_stock_merchant_and_currency(
    rule: Rule, changes: dict[str, Any], brings: bool
) -> None:
    planned = plan(ORDER, [], [benefit(rule=rule, **changes)])
    assert [p.line for p in planned] == ([0] if brings else [])


def test_an_archived_or_sold_out_benefit_is_still_brought_by_what_was_sold_with_it() -> None:
    sold = benefit(archived_at=NOW, stock_left=0)
    assert [p.benefit for p in plan(ORDER, [(1, sold)], [])] == [sold]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(list(BenefitKind))), max_size=12))
def test_at_most_one_of_each_kind_for_each_line_the_oldest_first(wishes: list[tuple[int, BenefitKind]]) -> None:
    made = [(line, benefit(kind, 1, rule=Rule() if line == 0 else None)) for line, kind in wishes]
    planned = plan(ORDER, [w for w in made if w[0]], [b for line, b in made if not line])
    oldest = {(line, b.kind): b for line, b in sorted(made, key=lambda w: w[1].benefit_id, reverse=True)}
    assert {(p.line, p.benefit.kind): p.benefit for p in planned} == oldest
    assert len(planned) == len(oldest)


MISFITS: tuple[tuple[list[Benefit | None], tuple[int, BenefitRefusal] | None], ...] = (
    ([benefit(), benefit(BenefitKind.POINTS)], None),
    ([benefit(), None], (1, BenefitRefusal.UNKNOWN)),
    ([benefit(merchant_id=MerchantId(uuid7()))], (0, BenefitRefusal.UNKNOWN)),
    ([benefit(archived_at=NOW)], (0, BenefitRefusal.ARCHIVED)),
    ([benefit(currency="JPY")], (0, BenefitRefusal.NOT_APPLICABLE)),
    ([benefit(), benefit()], (1, BenefitRefusal.REPEATED)),
)


@pytest.mark.parametrize(("benefits", "wrong"), MISFITS)
def test_what_may_be_attached_to_a_line(
    benefits: list[Benefit | None], wrong: tuple[int, BenefitRefusal] | None
) -> None:
    assert misfit(benefits, MERCHANT, "CNY") == wrong


# Giving


def test_every_state_and_report_has_one_answer() -> None:
    answers = {
        (state.value, report.value): decide(state, report).value for state, report in product(GrantState, GrantReport)
    }
    moves = {pair: after for pair, after in answers.items() if after != pair[0]}
    assert moves == {
        ("PENDING", "given"): "GRANTED",
        ("PENDING", "gave_up"): "FAILED",
        ("PENDING", "taken_back"): "REVOKED",
        ("GRANTED", "used_up"): "USED",
        ("GRANTED", "taken_back"): "REVOKED",
    }
    assert len(answers) == 20
    assert len(ANSWERS) == len(moves)


def test_a_grant_without_stock_is_tried_again_later_and_later_then_given_up() -> None:
    of, pauses = pending(), []
    for _ in range(TRIES_MAX - 1):
        outcome = fulfil(of, in_stock=False, at=NOW)
        assert isinstance(outcome, TryLater)
        of = outcome.grant
        assert of.due_at is not None
        pauses.append((of.due_at - NOW).total_seconds() / 60)
    assert pauses == [1, 2, 4, 8, 16, 32, 60]
    last = fulfil(of, in_stock=False, at=NOW)
    assert isinstance(last, GaveUp)
    assert (last.grant.state, last.grant.failure, last.grant.due_at) == (
        GrantState.FAILED,
        GrantFailure.STOCK_USED_UP,
        None,
    )


DAY = dt.timedelta(days=1)
WINDOWS = (
    (CouponTerms(value=CouponValue.FIXED), NOW, None),
    (CouponTerms(value=CouponValue.FIXED, days=30), NOW, NOW + 30 * DAY),
    (CouponTerms(value=CouponValue.FIXED, days=30, ends_at=NOW + DAY), NOW, NOW + DAY),
    (CouponTerms(value=CouponValue.FIXED, starts_at=NOW + DAY, ends_at=NOW + 2 * DAY), NOW + DAY, NOW + 2 * DAY),
    (CouponTerms(value=CouponValue.FIXED, starts_at=NOW - DAY), NOW, None),
)


@pytest.mark.parametrize(("terms", "start", "end"), WINDOWS)
def test_a_coupon_is_valid_from_and_until(terms: CouponTerms, start: dt.datetime, end: dt.datetime | None) -> None:
    outcome = fulfil(pending(coupon=terms), in_stock=True, at=NOW)
    assert isinstance(outcome, Given)
    assert (outcome.grant.valid_from, outcome.grant.valid_until, outcome.grant.state) == (start, end, "GRANTED")


def test_a_coupon_whose_time_is_over_is_not_given() -> None:
    outcome = fulfil(pending(coupon=CouponTerms(value=CouponValue.FIXED, ends_at=NOW)), in_stock=True, at=NOW)
    assert isinstance(outcome, GaveUp)
    assert outcome.grant.failure is GrantFailure.VALIDITY_OVER


# Going back


def gone(refunded: int, total: int, lines: dict[int, tuple[int, int]]) -> GoneBack:
    return GoneBack(
        total_minor=total,
        refunded_minor=refunded,
        paid={line: paid for line, (paid, _) in lines.items()},
        refunded={line: back for line, (_, back) in lines.items()},
    )


def test_half_of_the_money_takes_half_of_each_but_an_entitlement_only_with_all_of_its_line() -> None:
    coupon_, points = grant(units=501), grant(BenefitKind.POINTS, 30)
    ticket, whole = grant(BenefitKind.ENTITLEMENT, 1), grant(BenefitKind.POINTS, 11, line=0)
    tenth = grant(units=1000, coupon=PERCENT, line=2)
    grants = [coupon_, points, ticket, whole, tenth]
    half = recall(grants, gone(100, 200, {1: (100, 50), 2: (100, 50)}))
    assert [half[g.grant_id] for g in grants] == [250, 15, 0, 5, 500]
    line = recall(grants, gone(100, 200, {1: (100, 100), 2: (100, 0)}))
    assert [line[g.grant_id] for g in grants] == [501, 30, 1, 5, 0]
    everything = recall(grants, gone(200, 200, {1: (100, 100), 2: (100, 100)}))
    assert [everything[g.grant_id] for g in grants] == [501, 30, 1, 11, 1000]


def test_the_largest_remainder_is_rounded_up_and_ties_go_to_the_earlier_line() -> None:
    grants = [grant(BenefitKind.POINTS, 10, line=line) for line in (1, 2, 3)]
    third = recall(grants, gone(100, 300, {1: (100, 34), 2: (100, 33), 3: (100, 33)}))
    assert [third[g.grant_id] for g in grants] == [4, 3, 3]
    even = recall(grants, gone(150, 300, {1: (100, 45), 2: (100, 45), 3: (100, 60)}))
    assert [even[g.grant_id] for g in grants] == [5, 4, 6]


def test_a_line_that_cost_nothing_goes_back_as_the_order_does() -> None:
    gift = grant(BenefitKind.POINTS, 10, line=2)
    assert recall([gift], gone(50, 100, {1: (100, 50), 2: (0, 0)})) == {gift.grant_id: 5}


def test_what_was_not_given_is_not_recalled() -> None:
    failed = grant(BenefitKind.POINTS, state=GrantState.FAILED, failure=GrantFailure.STOCK_USED_UP)
    assert recall([failed], gone(100, 100, {1: (100, 100)})) == {}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Grant], list[GoneBack]]:
    """Grants of an order of some lines, and sums that went back one after the other, not always growing on each line."""
    paid = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=5))
    grants = [
        grant(BenefitKind.POINTS, draw(st.integers(1, 500)), line=line)
        for line in range(len(paid) + 1)
        if line == 0 or draw(st.booleans())
    ]
    sums = []
    for _ in range(draw(st.integers(1, 6))):
        back = [draw(st.integers(0, each)) for each in paid]
        lines = dict(enumerate(zip(paid, back, strict=True), start=1))
        sums.append(gone(sum(back), sum(paid), lines))
    return grants, sums


@settings(max_examples=300)
@given(histories())
def test_recalls_only_grow_meet_the_sum_to_the_unit_and_never_exceed_what_was_given(
    drawn: tuple[list[Grant], list[GoneBack]],
) -> None:
    grants, sums = drawn
    for each in sums:
        before = sum(g.recalled for g in grants)
        target = sum((each.part(g.line) * g.units for g in grants), Fraction(0)).__floor__()
        totals = recall(grants, each)
        again = [msgspec.structs.replace(g, recalled=totals[g.grant_id]) for g in grants]
        assert all(new.recalled >= old.recalled for new, old in zip(again, grants, strict=True))
        assert all(0 <= g.recalled <= g.units for g in again)
        assert sum(g.recalled for g in again) == max(before, target)
        assert recall(again, each) == {g.grant_id: g.recalled for g in again}, "the same sum again recalls nothing"
        grants = again
    whole = {line: (paid, paid) for line, paid in sums[0].paid.items()}
    everything = recall(grants, gone(sums[0].total_minor, sums[0].total_minor, whole))
    assert everything == {g.grant_id: g.units for g in grants}


# Telling

TOLD = {
    GrantStep.PLANNED: None,
    GrantStep.GIVEN: "grant.granted.v1",
    GrantStep.GAVE_UP: "grant.failed.v1",
    GrantStep.RESERVED: None,
    GrantStep.USED: "grant.used.v1",
    GrantStep.RELEASED: None,
    GrantStep.RECALLED: "grant.revoked.v1",
    GrantStep.OWED: "grant.owed.v1",
}


@pytest.mark.parametrize("step", GrantStep)
def test_each_step_tells_its_event(step: GrantStep) -> None:
    data: EventData | None = announce.for_grant_step(step, grant(), debt_minor=0, used_on=ORDER.order_id, minor=1)
    assert (None if data is None else data.TYPE) == TOLD[step]


def test_what_is_not_given_yet_shrinks_in_silence() -> None:
    assert announce.for_grant_step(GrantStep.RECALLED, pending(), debt_minor=0, used_on=None, minor=None) is None
