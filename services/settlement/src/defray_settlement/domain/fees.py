"""What a payment costs its merchant, with the explanation that goes beside the amount."""

from dataclasses import dataclass
from typing import Final

from defray_kernel.money import Money

BASIS_POINTS: Final = 10_000
ROUNDING: Final = "half up to the minor unit"
"""The named rounding rule: 0.5 of a minor unit and more rounds up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeRule:
    """One version of a merchant's fee: a share of the gross amount in basis points (1/100 of a per cent)."""

    version: int
    basis_points: int

    def __post_init__(self) -> None:
        if not 0 <= self.basis_points <= BASIS_POINTS:
            raise ValueError("a fee is between nothing and everything")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fee:
    """An amount and how it came about; the explanation is stored with the entry."""

    amount: Money
    explanation: dict[str, str | int]


def fee(gross: Money, rule: FeeRule) -> Fee:
    """The fee of one payment: gross x basis points / 10,000, rounded half up.

    It depends on the payment alone, so that a replay in another order gives the same books.
    """
    assert gross.minor > 0
    product = gross.minor * rule.basis_points
    minor = (product + BASIS_POINTS // 2) // BASIS_POINTS
    assert 0 <= minor <= gross.minor
    return Fee(
        amount=Money(minor=minor, currency=gross.currency),
        explanation={
            "rule": "share_of_gross",
            "rule_version": rule.version,
            "gross_minor": gross.minor,
            "basis_points": rule.basis_points,
            "exact": f"{product}/{BASIS_POINTS}",
            "rounding": ROUNDING,
            "fee_minor": minor,
        },
    )
