"""Money as whole minor units of an ISO 4217 currency; nothing here ever touches a float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

MINOR_MAX: Final = 10**12
"""Largest amount of one order, payment or posting, in minor units; sums in SQL stay far inside bigint."""

# Minor-unit exponents by ISO 4217 (not CLDR, which differs for 13 currencies). Codes without a minor unit
# (XAU, XXX, ...) are absent on purpose: nobody can be paid in them.
_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
_FOUR = "CLF UYW"
_TWO = """AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR
IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN
NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB
TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"""

EXPONENTS: Final[dict[str, int]] = {
    code: exponent for exponent, codes in ((0, _ZERO), (2, _TWO), (3, _THREE), (4, _FOUR)) for code in codes.split()
}


def exponent(currency: str) -> int:
    """Digits after the decimal point of this currency (ISO 4217).

    Raises ValueError for anything but an upper-case code that has a minor unit.
    """
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise ValueError("not an ISO 4217 currency with a minor unit") from None


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """An amount: `minor` whole minor units (may be negative in books) of `currency`."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.minor) is not int:
            raise TypeError("minor units are whole numbers")
        exponent(self.currency)

    def __add__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(minor=self.minor + other.minor, currency=self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same_currency(other)
        return Money(minor=self.minor - other.minor, currency=self.currency)

    def __neg__(self) -> Money:
        return Money(minor=-self.minor, currency=self.currency)

    def __str__(self) -> str:
        """For people: `199.00 CNY`."""
        digits = exponent(self.currency)
        sign, units = ("-" if self.minor < 0 else ""), str(abs(self.minor)).rjust(digits + 1, "0")
        text = units if digits == 0 else f"{units[:-digits]}.{units[-digits:]}"
        return f"{sign}{text} {self.currency}"

    def allocate(self, weights: Sequence[int]) -> list[Money]:
        """Split by whole weights with the largest-remainder method; ties go to the earlier share; nothing is lost.

        Raises ValueError when no weight is positive or one is negative.
        """
        total = sum(weights)
        if total <= 0 or min(weights) < 0:
            raise ValueError("weights must not be negative and their sum must be positive")
        magnitude, sign = abs(self.minor), (-1 if self.minor < 0 else 1)
        shares = [magnitude * weight // total for weight in weights]
        by_remainder = sorted(range(len(weights)), key=lambda i: (-(magnitude * weights[i] % total), i))
        for i in by_remainder[: magnitude - sum(shares)]:
            shares[i] += 1
        assert sum(shares) == magnitude
        return [Money(minor=sign * share, currency=self.currency) for share in shares]

    def _same_currency(self, other: Money) -> None:
        if self.currency != other.currency:
            raise ValueError("amounts of different currencies do not add up")
