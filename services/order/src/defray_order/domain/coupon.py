"""A coupon in use: its code, whether an order may take it, what it takes off, and what of that is owed after a recall."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from defray_kernel.ids import MerchantId, OrderId
from defray_order.domain.benefit import BASIS_POINTS, CouponValue
from defray_order.domain.grant import Grant, GrantId, GrantState

CODES_MAX: Final = 5
"""Codes that one order may be placed with."""
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: nothing that is read for something else
_LOOKALIKES: Final = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})
_LENGTH: Final = 20
_GROUP: Final = 5


class CouponRefusal(StrEnum):
    """Why an order is not placed with a coupon; told to merchants."""

    UNKNOWN = "coupon_unknown"
    EXPIRED = "coupon_expired"
    USED_UP = "coupon_used_up"
    CURRENCY_MISMATCH = "coupon_currency_mismatch"
    NOT_APPLICABLE = "coupon_not_applicable"


class UseState(StrEnum):
    """RESERVED by an order that was placed → USED when it is paid, RELEASED when it ends unpaid."""

    RESERVED = "RESERVED"
    USED = "USED"
    RELEASED = "RELEASED"


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A coupon's use by one order: what it took off (`minor`) of what was to be paid before (`base_minor`), and its worth then.

    `owed_minor` is what it would not have taken off, had it been worth what it is since.
    """

    grant_id: GrantId
    order_id: OrderId
    state: UseState
    worth: int
    base_minor: int
    minor: int
    owed_minor: int = 0


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Not with this one of the codes; `index` counts from 0."""

    index: int
    code: CouponRefusal


def show_code(bits: bytes) -> str:
    """The first 100 bits as a code of four groups: `7Q2KM-…`."""
    number = int.from_bytes(bits, "big") >> (len(bits) * 8 - _LENGTH * 5)
    text = "".join(_DIGITS[number >> shift & 31] for shift in range((_LENGTH - 1) * 5, -1, -5))
    return "-".join(text[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP))


def read_code(text: str) -> str | None:
    """The one form of a code as a buyer types it, without its dashes; None when it cannot be one."""
    plain = text.upper().translate(_LOOKALIKES)
    return plain if len(plain) == _LENGTH and all(digit in _DIGITS for digit in plain) else None


def take(
    coupons: Sequence[Grant | None],
    order_id: OrderId,
    merchant_id: MerchantId,
    currency: str,
    base_minor: int,
    at: dt.datetime,
) -> tuple[Use, ...] | Refused:
    """What these coupons take off an order that costs `base_minor` without them, each off what the one before left."""
    uses: list[Use] = []
    rest = base_minor
    for index, grant in enumerate(coupons):
        if grant is None or grant.merchant_id != merchant_id:
            return Refused(index=index, code=CouponRefusal.UNKNOWN)
        refusal = _refusal(grant, currency, base_minor, at)
        minor = discount(grant, grant.worth, rest)
        if refusal is None and (minor == 0 or any(use.grant_id == grant.grant_id for use in uses)):
            refusal = CouponRefusal.NOT_APPLICABLE
        if refusal is not None:
            return Refused(index=index, code=refusal)
        use = Use(
            grant_id=grant.grant_id,
            order_id=order_id,
            state=UseState.RESERVED,
            worth=grant.worth,
            base_minor=rest,
            minor=minor,
        )
        uses.append(use)
        rest -= minor
    return tuple(uses)


def discount(grant: Grant, worth: int, base_minor: int) -> int:
    """What the coupon takes off, were it worth so much: rounded down, never more than there is to pay."""
    terms = grant.coupon
    assert terms is not None
    if terms.value is CouponValue.FIXED:
        return min(worth, base_minor)
    minor = base_minor * worth // BASIS_POINTS
    # The bound shrinks with the percentage.
    return minor if terms.cap_minor is None else min(minor, terms.cap_minor * worth // grant.units)


def owed(grant: Grant, use: Use) -> int:
    """What this use took off more than the coupon as it is now would have; nothing once it is released."""
    if use.state is UseState.RELEASED:
        return 0
    return use.minor - discount(grant, min(use.worth, grant.worth), use.base_minor)


def again(grant: Grant, use: Use, at: dt.datetime) -> bool:
    """Whether a released use could be taken again: the coupon is still valid and would take off as much."""
    valid = grant.state is GrantState.GRANTED and (grant.valid_until is None or at < grant.valid_until)
    return valid and discount(grant, min(use.worth, grant.worth), use.base_minor) == use.minor


def _refusal(grant: Grant, currency: str, base_minor: int, at: dt.datetime) -> CouponRefusal | None:
    terms = grant.coupon
    if terms is None or grant.state in {GrantState.PENDING, GrantState.FAILED}:
        return CouponRefusal.UNKNOWN
    if grant.valid_until is not None and at >= grant.valid_until:
        return CouponRefusal.EXPIRED
    if grant.taken >= grant.uses_max:
        return CouponRefusal.USED_UP
    if grant.currency != currency:
        return CouponRefusal.CURRENCY_MISMATCH
    early = grant.valid_from is not None and at < grant.valid_from
    if early or base_minor < terms.minimum_minor or grant.state is GrantState.REVOKED or grant.worth == 0:
        return CouponRefusal.NOT_APPLICABLE
    return None
