"""The rules of coupons: what they take off, when they are refused, and what of them is kept, recalled and owed."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defray_kernel.ids import MerchantId, OrderId, uuid7
from defray_order.domain import coupon
from defray_order.domain.coupon import CouponRefusal, Refused, Use, UseState
from defray_order.domain.grant import Grant, GrantState, after_recall, paid_in, released_by, reserved_by

from .given import MERCHANT, NOW
from .test_grant_rules import FIXED, HOUR, ORDER, PERCENT, grant, pending


def take(
    coupons: Sequence[Grant | None], base: int = 1000, at: dt.datetime = NOW, currency: str = "CNY"
) -> tuple[Use, ...] | Refused:
    return coupon.take(coupons, ORDER.order_id, MERCHANT, currency, base, at)


def minors(coupons: Sequence[Grant | None], base: int = 1000) -> list[int]:
    uses = take(coupons, base)
    assert not isinstance(uses, Refused)
    return [use.minor for use in uses]


def percent(basis_points: int, **terms: Any) -> Grant:  # noqa: ANN401 - whatever it has
    return grant(units=basis_points, coupon=msgspec.structs.replace(PERCENT, **terms))


def test_each_coupon_takes_off_the_rest_rounded_down_and_never_more_than_there_is() -> None:
    assert minors([grant(units=300)]) == [300]
    assert minors([grant(units=300)], 200) == [200]
    assert minors([percent(1_500)], 999) == [149]
    assert minors([percent(5_000, cap_minor=120)]) == [120]
    assert minors([percent(5_000), grant(units=300), percent(10_000)]) == [500, 300, 200]


def test_a_percentage_shrinks_with_its_bound() -> None:
    half = msgspec.structs.replace(percent(5_000, cap_minor=120), recalled=2_500)
    assert coupon.discount(half, half.worth, 1000) == 60
    assert coupon.discount(half, half.worth, 100) == 25


MINIMUM = msgspec.structs.replace(FIXED, minimum_minor=1001)
REFUSED: tuple[tuple[Grant | None, dict[str, Any], CouponRefusal], ...] = (
    (None, {}, CouponRefusal.UNKNOWN),
    (grant(merchant_id=MerchantId(uuid7())), {}, CouponRefusal.UNKNOWN),
    (pending(), {}, CouponRefusal.UNKNOWN),
    (grant(valid_until=NOW), {}, CouponRefusal.EXPIRED),
    (grant(reserved=1), {}, CouponRefusal.USED_UP),
    (grant(used=1, state=GrantState.USED), {}, CouponRefusal.USED_UP),
    (grant(), {"currency": "JPY"}, CouponRefusal.CURRENCY_MISMATCH),
    (grant(valid_from=NOW + HOUR), {}, CouponRefusal.NOT_APPLICABLE),
    (grant(coupon=MINIMUM), {}, CouponRefusal.NOT_APPLICABLE),
    (grant(recalled=1000, state=GrantState.REVOKED), {}, CouponRefusal.NOT_APPLICABLE),
    (percent(1), {}, CouponRefusal.NOT_APPLICABLE),  # of 10.00 it takes nothing off
)


@pytest.mark.parametrize(("of", "changes", "code"), REFUSED)
def test_a_coupon_that_may_not_be_used_is_refused_by_its_code(
    of: Grant | None, changes: dict[str, Any], code: CouponRefusal
) -> None:
    assert take([grant(units=1), of], **changes) == Refused(
        index=0 if code is CouponRefusal.CURRENCY_MISMATCH else 1, code=code
    )


def test_the_same_coupon_twice_is_refused() -> None:
    of = grant(units=1, coupon=msgspec.structs.replace(FIXED, uses_max=5))
    assert take([of, of]) == Refused(index=1, code=CouponRefusal.NOT_APPLICABLE)


@settings(max_examples=300)
@given(
    units=st.integers(1, 10_000),
    fixed=st.booleans(),
    uses_max=st.integers(1, 4),
    moves=st.lists(
        st.tuples(st.sampled_from(["reserve", "pay", "release", "recall"]), st.integers(1, 10_000)), max_size=14
    ),
)
def test_recalled_kept_and_owed_are_what_was_granted_and_uses_stay_within_the_limit(
    units: int, fixed: bool, uses_max: int, moves: list[tuple[str, int]]
) -> None:
    terms = msgspec.structs.replace(FIXED if fixed else PERCENT, uses_max=uses_max)
    of, uses = grant(units=units, coupon=terms), list[Use]()
    for move, number in moves:
        held = [i for i, use in enumerate(uses) if use.state is UseState.RESERVED]
        if move == "reserve":
            taken = coupon.take([of], OrderId(uuid7()), MERCHANT, "CNY", number * 2, NOW)
            if not isinstance(taken, Refused):
                uses.append(taken[0])
                of = reserved_by(of)
        elif move == "recall":
            of = after_recall(of, max(of.recalled, min(units, number)))
        elif held:
            i = held[number % len(held)]
            of, state = (paid_in(of), UseState.USED) if move == "pay" else (released_by(of), UseState.RELEASED)
            uses[i] = msgspec.structs.replace(uses[i], state=state)
        live = [use for use in uses if use.state is not UseState.RELEASED]
        assert len(live) == of.taken <= of.uses_max
        assert (of.state is GrantState.USED) == (of.used == uses_max and of.state is not GrantState.REVOKED)
        # Of each use, in units: what was recalled before it, what it had too much, what it may keep.
        free = of.uses_max - of.taken
        recalled = of.recalled * free + sum(units - use.worth for use in live)
        owed_units = sum(use.worth - of.worth for use in live)
        assert recalled + owed_units + of.worth * of.uses_max == units * uses_max
        for use in uses:
            owed = coupon.owed(of, use)
            assert 0 <= owed <= use.minor
            assert owed == 0 or (use in live and use.worth > of.worth)
            if fixed and use in live and use.base_minor >= use.worth:
                assert owed == use.worth - of.worth, "a coupon used in full owes to the minor unit"


def test_a_released_use_may_be_taken_again_while_the_coupon_would_take_off_as_much() -> None:
    of = grant()
    use = msgspec.structs.replace(
        coupon.take([of], ORDER.order_id, MERCHANT, "CNY", 800, NOW)[0], state=UseState.RELEASED
    )  # type: ignore[index]
    assert coupon.again(of, use, NOW)
    assert coupon.again(after_recall(of, 200), use, NOW)
    assert not coupon.again(after_recall(of, 201), use, NOW)
    assert not coupon.again(msgspec.structs.replace(of, valid_until=NOW), use, NOW)


@given(st.binary(min_size=32, max_size=32))
def test_a_code_is_read_as_it_is_shown_and_as_people_type_it(bits: bytes) -> None:
    code = coupon.show_code(bits)
    assert len(code) == 23
    plain = code.replace("-", "")
    typed = code.lower().replace("0", "o").replace("1", "l").replace("-", " ")
    assert coupon.read_code(code) == coupon.read_code(plain) == coupon.read_code(typed) == plain


@pytest.mark.parametrize("text", ["", "ABCDE", "U" * 20, "é" * 20, "0" * 21])
def test_what_cannot_be_a_code_is_none(text: str) -> None:
    assert coupon.read_code(text) is None
