"""Posting rules: which legs money makes that comes or goes back, and why they add up to zero."""

import dataclasses
import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never
from uuid import UUID

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import EntryId, MerchantId
from defray_kernel.money import Money
from defray_settlement.domain import accounts, fees
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.fees import Fee, FeeRule


class Source(StrEnum):
    """What an entry is posted for; with its id and the kind the entry's natural key."""

    PAYMENT = "payment"
    REFUND = "refund"


class Kind(StrEnum):
    """How the money of a payment came or went back."""

    SUCCEEDED = "succeeded"
    PAID_LATE = "paid_late"
    DUPLICATE = "duplicate"
    REOPENED = "reopened"  # came late and is kept after all: its order was reopened
    MISMATCHED = "mismatched"  # came in a wrong amount; its refund is the first that is heard of it
    REFUNDED = "refunded"  # went back from what was kept for the merchant
    RETURNED = "returned"  # went back without having been kept


KEPT: Final = frozenset({Kind.SUCCEEDED, Kind.REOPENED})
HELD: Final = frozenset({Kind.PAID_LATE, Kind.DUPLICATE, Kind.MISMATCHED})
"""Kinds of money that came; what was kept goes back from the merchant's account, what is held from suspense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Money of one payment that a channel has taken or given back; `refund_id` where a refund tells of it.

    `returned_minor` of late money had gone back from suspense before it was known to be kept.
    """

    kind: Kind
    payment_id: UUID
    refund_id: UUID | None = None
    order_id: UUID
    merchant_id: MerchantId
    channel: str
    gross: Money
    returned_minor: int = 0
    at: dt.datetime
    cause: Cause

    @property
    def source(self) -> Source:
        """What tells of it."""
        return Source.PAYMENT if self.refund_id is None else Source.REFUND

    @property
    def source_id(self) -> UUID:
        """The id of what tells of it."""
        return self.payment_id if self.refund_id is None else self.refund_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One side of an entry; debit positive."""

    account: Account
    amount: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A balanced set of legs for one flow."""

    entry_id: EntryId
    flow: Flow
    fee: Money
    explanation: dict[str, str | int]
    legs: tuple[Leg, ...]

    def __post_init__(self) -> None:
        assert sum(leg.amount.minor for leg in self.legs) == 0
        assert {leg.amount.currency for leg in self.legs} <= {self.flow.gross.currency}
        assert all(leg.amount.minor != 0 for leg in self.legs)


def going_back(arrival: Kind) -> Kind:
    """What it is when money goes back that came in this way."""
    assert arrival in KEPT | HELD
    return Kind.REFUNDED if arrival in KEPT else Kind.RETURNED


def accounts_of(flow: Flow) -> tuple[Account, ...]:
    """Every account that the entry of this flow may move. Raises ValueError for a name that is no channel's."""
    currency = flow.gross.currency
    clearing = accounts.channel_clearing(flow.channel, currency)
    match flow.kind:
        case Kind.SUCCEEDED:
            pending = accounts.merchant_pending(flow.merchant_id, currency)
            return clearing, pending, accounts.fee_income(currency)
        case Kind.REOPENED:
            pending = accounts.merchant_pending(flow.merchant_id, currency)
            return accounts.suspense(flow.channel, currency), pending, accounts.fee_income(currency)
        case Kind.REFUNDED:
            return clearing, accounts.merchant_pending(flow.merchant_id, currency)
        case Kind.PAID_LATE | Kind.DUPLICATE | Kind.MISMATCHED | Kind.RETURNED:
            return clearing, accounts.suspense(flow.channel, currency)
        case _:
            assert_never(flow.kind)


def post(flow: Flow, rule: FeeRule, entry_id: EntryId) -> Entry:
    """The entry of one flow.

    Kept money: debit the channel's clearing account with the gross, credit the merchant with the net and the platform
    with the fee. Late, duplicate and mismatched money: the channel has it, so its clearing account is debited as the
    channel's own books say, against suspense until it is sent back or kept. Late money that is kept after all leaves
    suspense as if the channel had just taken it, but for what went back meanwhile, which the merchant bears. What goes
    back takes the same way in the other direction, but for the fee: the merchant bears all of a refund, and the platform
    keeps what it earned.
    Raises ValueError for a name that is no channel's.
    """
    gross = flow.gross
    nothing = Money(minor=0, currency=gross.currency)
    amounts: tuple[Money, ...]
    match flow.kind:
        case Kind.SUCCEEDED:
            charged = fees.fee(gross, rule)
            amounts = (gross, charged.amount - gross, -charged.amount)
        case Kind.REOPENED:
            charged = fees.fee(gross, rule)
            left = gross - Money(minor=flow.returned_minor, currency=gross.currency)
            if flow.returned_minor:
                told = charged.explanation | {"returned_minor": flow.returned_minor}
                charged = dataclasses.replace(charged, explanation=told)
            amounts = (left, charged.amount - left, -charged.amount)
        case Kind.PAID_LATE | Kind.DUPLICATE | Kind.MISMATCHED:
            charged = Fee(amount=nothing, explanation={"rule": "held_in_suspense"})
            amounts = (gross, -gross)
        case Kind.REFUNDED:
            charged = Fee(amount=nothing, explanation={"rule": "fee_kept", "gross_minor": gross.minor})
            amounts = (-gross, gross)
        case Kind.RETURNED:
            charged = Fee(amount=nothing, explanation={"rule": "returned_from_suspense"})
            amounts = (-gross, gross)
        case _:
            assert_never(flow.kind)
    legs = tuple(
        Leg(account=account, amount=amount)
        for account, amount in zip(accounts_of(flow), amounts, strict=True)
        if amount != nothing
    )
    return Entry(entry_id=entry_id, flow=flow, fee=charged.amount, explanation=charged.explanation, legs=legs)
