"""Posting rules: which legs an arrival of money makes, and why they add up to zero."""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import EntryId, MerchantId
from defray_kernel.money import Money
from defray_settlement.domain import accounts, fees
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.fees import Fee, FeeRule


class Kind(StrEnum):
    """How the money of a payment came; with the payment's id the natural key of its entry."""

    SUCCEEDED = "succeeded"
    PAID_LATE = "paid_late"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Money of one payment that a channel has taken."""

    kind: Kind
    payment_id: UUID
    order_id: UUID
    merchant_id: MerchantId
    channel: str
    gross: Money
    paid_at: dt.datetime
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One side of an entry; debit positive."""

    account: Account
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A balanced set of legs for one arrival."""

    entry_id: EntryId
    arrival: Arrival
    fee: Money
    explanation: dict[str, str | int]
    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        assert sum(leg.amount.minor for leg in self.legs) == 0
        assert {leg.amount.currency for leg in self.legs} == {self.arrival.gross.currency}
        assert all(leg.amount.minor != 0 for leg in self.legs)


def accounts_of(arrival: Arrival) -> tuple[Account, ...]:
    """Every account that the entry of this arrival may move. Raises ValueError for a name that is no channel's."""
    currency = arrival.gross.currency
    clearing = accounts.channel_clearing(arrival.channel, currency)
    match arrival.kind:
        case Kind.SUCCEEDED:
            pending = accounts.merchant_pending(arrival.merchant_id, currency)
            return clearing, pending, accounts.fee_income(currency)
        case Kind.PAID_LATE | Kind.DUPLICATE:
            return clearing, accounts.suspense(arrival.channel, currency)
        case _:
            assert_never(arrival.kind)


def post(arrival: Arrival, rule: FeeRule, entry_id: EntryId) -> Entry:
    """The entry of one arrival.

    Kept money: debit the channel's clearing account with the gross, credit the merchant with the net and the platform
    with the fee. Late and duplicate money: the channel has it, so its clearing account is debited as the channel's own
    books say, against suspense until it is sent back or kept. Raises ValueError for a name that is no channel's.
    """
    gross = arrival.gross
    nothing = Money(minor=0, currency=gross.currency)
    amounts: tuple[Money, ...]
    match arrival.kind:
        case Kind.SUCCEEDED:
            charged = fees.fee(gross, rule)
            amounts = (gross, charged.amount - gross, -charged.amount)
        case Kind.PAID_LATE | Kind.DUPLICATE:
            charged = Fee(amount=nothing, explanation={"rule": "held_in_suspense"})
            amounts = (gross, -gross)
        case _:
            assert_never(arrival.kind)
    legs = tuple(
        Leg(account=account, amount=amount)
        for account, amount in zip(accounts_of(arrival), amounts, strict=True)
        if amount != nothing
    )
    return Entry(entry_id=entry_id, arrival=arrival, fee=charged.amount, explanation=charged.explanation, legs=legs)
