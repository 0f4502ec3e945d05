"""The merchant's API: what is owed, and how each payment was booked."""

import datetime as dt
from typing import Any, assert_never

import msgspec
from asyncpg import Record

from defray_kernel.db import Database
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import parse, show
from defray_kernel.problems import Problem
from defray_settlement.domain.posting import Kind, Source
from defray_settlement.store import ledger


class BalanceShown(msgspec.Struct, frozen=True, kw_only=True):
    """What is owed to the merchant on one account; `sequence` counts the account's changes."""

    account_id: str
    currency: str
    amount_minor: int
    sequence: int


class BalancesShown(msgspec.Struct, frozen=True, kw_only=True):
    """All balances of the merchant."""

    data: list[BalanceShown]


class LegShown(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of an entry: signed minor units, debit positive."""

    account_id: str
    amount_minor: int


class EntryShown(msgspec.Struct, frozen=True, kw_only=True):
    """One ledger entry; `net_minor` is what the merchant gets of it (less than nothing of a refund).

    `explanation` says how the fee came about, `paid_at` when the channel took the money or gave it back.
    """

    entry_id: str
    kind: Kind
    payment_id: str
    refund_id: str | None
    order_id: str
    currency: str
    gross_minor: int
    fee_minor: int
    net_minor: int
    explanation: dict[str, Any]
    legs: list[LegShown]
    paid_at: dt.datetime
    effective_on: dt.date
    posted_at: dt.datetime
    correlation_id: str


class EntriesShown(msgspec.Struct, frozen=True, kw_only=True):
    """What was posted for a payment and its refunds, in that order; empty until its money has arrived."""

    data: list[EntryShown]


class LedgerApi:
    """Handlers of the public port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route("GET", "/v1/balance", self.balance, summary="Show what is owed to the merchant",
                   response=BalancesShown, scope="ledger:read")  # fmt: skip
        edge.route("GET", "/v1/ledger/entries", self.entries, summary="Show how a payment was booked",
                   response=EntriesShown, scope="ledger:read")  # fmt: skip

    async def balance(self, call: Call[None]) -> Reply:
        """The caller's accounts; the ledger holds what is owed as a credit."""
        assert call.merchant is not None
        async with self._database.read() as conn:
            rows = await ledger.balances_of(conn, call.merchant.merchant_id)
        shown = [
            BalanceShown(
                account_id=row["account_id"],
                currency=row["currency"],
                amount_minor=-row["balance_minor"],
                sequence=row["sequence"],
            )
            for row in rows
        ]
        return Reply(content=BalancesShown(data=shown))

    async def entries(self, call: Call[None]) -> Reply:
        """Entries of one payment of the caller's and of its refunds."""
        assert call.merchant is not None
        try:
            payment_id = parse("pay", call.query["payment_id"])
        except (KeyError, ValueError):
            raise Problem("invalid_parameter", field="payment_id") from None
        async with self._database.read() as conn:
            found = await ledger.entries_of_payment(conn, payment_id, call.merchant.merchant_id)
        shown = [_shown(entry, legs, show("pay", payment_id)) for entry, legs in found]
        return Reply(content=EntriesShown(data=shown))


def _shown(entry: Record, legs: list[Record], payment_id: str) -> EntryShown:
    kind = Kind(entry["kind"])
    return EntryShown(
        entry_id=show("ent", entry["entry_id"]),
        kind=kind,
        payment_id=payment_id,
        refund_id=show("rfd", entry["source_id"]) if entry["source"] == Source.REFUND else None,
        order_id=show("ord", entry["order_id"]),
        currency=entry["currency"],
        gross_minor=entry["gross_minor"],
        fee_minor=entry["fee_minor"],
        net_minor=_net_minor(kind, entry),
        explanation=msgspec.json.decode(entry["explanation"], type=dict[str, Any]),
        legs=[LegShown(account_id=leg["account_id"], amount_minor=leg["amount_minor"]) for leg in legs],
        paid_at=entry["paid_at"],
        effective_on=entry["effective_on"],
        posted_at=entry["posted_at"],
        correlation_id=entry["correlation_id"],
    )


def _net_minor(kind: Kind, entry: Record) -> int:
    match kind:
        case Kind.SUCCEEDED:
            return int(entry["gross_minor"] - entry["fee_minor"])
        case Kind.REOPENED:
            # What had gone back before it was known to be kept is the merchant's loss, and no refund of this kind.
            returned = msgspec.json.decode(entry["explanation"], type=dict[str, Any]).get("returned_minor", 0)
            return int(entry["gross_minor"] - entry["fee_minor"] - returned)
        case Kind.REFUNDED:
            return -int(entry["gross_minor"])
        case Kind.PAID_LATE | Kind.DUPLICATE | Kind.MISMATCHED | Kind.RETURNED:
            return 0
        case _:
            assert_never(kind)
