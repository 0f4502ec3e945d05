"""Money: exponents by ISO, nothing lost in a split, no floats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defray_kernel.money import EXPONENTS, Money, exponent


@pytest.mark.parametrize(
    ("currency", "digits"), [("CNY", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4), ("IDR", 2), ("UGX", 0)]
)
def test_exponents_are_those_of_iso_4217(currency: str, digits: int) -> None:
    assert exponent(currency) == digits


@pytest.mark.parametrize("text", ["cny", "XXX", "XAU", "", "RMB", "CNYY"])
def test_what_nobody_can_be_paid_in_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 4217"):
        exponent(text)


@given(
    minor=st.integers(-(10**15), 10**15),
    weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=20).filter(any),
    currency=st.sampled_from(sorted(EXPONENTS)),
)
def test_a_split_loses_nothing_and_is_fair_to_one_unit(minor: int, weights: list[int], currency: str) -> None:
    shares = Money(minor=minor, currency=currency).allocate(weights)
    assert sum(share.minor for share in shares) == minor
    total = sum(weights)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(abs(share.minor) * total - abs(minor) * weight) < total


def test_ties_go_to_the_earlier_share() -> None:
    assert [m.minor for m in Money(minor=100, currency="CNY").allocate([1, 1, 1])] == [34, 33, 33]


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [2, -1]])
def test_weights_that_mean_nothing_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"weights|empty"):
        Money(minor=1, currency="CNY").allocate(weights)


def test_floats_and_booleans_are_no_money() -> None:
    for minor in (1.0, True, "1"):
        with pytest.raises(TypeError):
            Money(minor=minor, currency="CNY")  # type: ignore[arg-type]


def test_currencies_do_not_mix() -> None:
    with pytest.raises(ValueError, match="currencies"):
        Money(minor=1, currency="CNY") + Money(minor=1, currency="USD")


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(19900, "CNY", "199.00 CNY"), (-5, "CNY", "-0.05 CNY"), (7, "JPY", "7 JPY"), (1, "KWD", "0.001 KWD")],
)
def test_money_reads_as_people_write_it(minor: int, currency: str, text: str) -> None:
    assert str(Money(minor=minor, currency=currency)) == text
