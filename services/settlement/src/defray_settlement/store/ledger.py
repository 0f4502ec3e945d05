"""The ledger's rows: accounts with their balances, immutable entries, and their legs."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId
from defray_kernel.sql import queries
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.posting import HELD, KEPT, Entry, Flow, Kind

Q = queries(__file__)

FINDINGS_MAX: Final = 100
_ACCOUNTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountMove:
    """What one transaction did to one account: signed minor units, debit positive."""

    account: Account
    delta_minor: int
    balance_minor: int
    sequence: int
    entry_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What a check of the books found; `unexplained` accounts differ from their postings, `unbalanced` are entries."""

    totals: Sequence[Record]
    unexplained: Sequence[Record]
    unbalanced: Sequence[UUID]

    @property
    def balanced(self) -> bool:
        """Whether debits equal credits in each currency and every balance is the sum of its postings."""
        even = all(row["debit_minor"] == row["credit_minor"] for row in self.totals)
        return even and not self.unexplained and not self.unbalanced


async def lock_accounts(
    tx: WriteTx, accounts: Iterable[Account], now: dt.datetime, *, beside: Iterable[Account] = ()
) -> None:
    """Open accounts that are missing and lock all, in id order. A merchant that is not registered gets none.

    Those `beside` are locked where there are any.
    """
    ordered = sorted({account.account_id: account for account in accounts}.values(), key=lambda a: a.account_id)
    await tx.execute(
        Q.open_accounts,
        [account.account_id for account in ordered],
        [account.owner for account in ordered],
        [account.merchant_id for account in ordered],
        [account.currency for account in ordered],
        now,
    )
    await tx.fetch(Q.lock_accounts, sorted({account.account_id for account in (*ordered, *beside)}))


async def insert_entries(tx: WriteTx, entries: Sequence[Entry], now: dt.datetime) -> list[Entry]:
    """Write entry heads whose natural key is free; returns those that are new. Legs follow by `insert_postings`."""
    flows = [entry.flow for entry in entries]
    rows = await tx.fetch(
        Q.insert_entries,
        [entry.entry_id for entry in entries],
        [flow.source for flow in flows],
        [flow.kind for flow in flows],
        [flow.source_id for flow in flows],
        # The payment of an entry that is a payment's own is its source.
        [None if flow.refund_id is None else flow.payment_id for flow in flows],
        [flow.merchant_id for flow in flows],
        [flow.order_id for flow in flows],
        [flow.gross.currency for flow in flows],
        [flow.gross.minor for flow in flows],
        [entry.fee.minor for entry in entries],
        [msgspec.json.encode(entry.explanation).decode() for entry in entries],
        [len(entry.legs) for entry in entries],
        [flow.at for flow in flows],
        [flow.cause.correlation_id for flow in flows],
        [flow.cause.causation_id for flow in flows],
        now,
    )
    new = {row["entry_id"] for row in rows}
    return [entry for entry in entries if entry.entry_id in new]


async def contradicted(tx: WriteTx, flows: Sequence[Flow]) -> list[Flow]:
    """Which flows differ from what was posted under their natural key: a repeat with another amount is no repeat."""
    rows = await tx.fetch(
        Q.posted_before, [f.source for f in flows], [f.kind for f in flows], [f.source_id for f in flows]
    )
    posted = {
        (row["kind"], row["source_id"]): (row["merchant_id"], row["order_id"], row["currency"], row["gross_minor"])
        for row in rows
    }
    return [
        f for f in flows if posted[f.kind, f.source_id] != (f.merchant_id, f.order_id, f.gross.currency, f.gross.minor)
    ]


async def arrivals(tx: WriteTx, refunds: Sequence[Flow]) -> list[Kind | None]:
    """For each refund how the money came that it sends back; None where that is not posted (yet)."""
    rows = await tx.fetch(
        Q.arrivals, list(KEPT | HELD), [f.payment_id for f in refunds], [f.refund_id for f in refunds]
    )
    came = {row["refund_id"]: Kind(row["kind"]) for row in rows}
    return [came.get(f.refund_id) for f in refunds]


async def move_accounts(tx: WriteTx, entries: Sequence[Entry]) -> list[AccountMove]:
    """Move each account once by the sum of its legs. The caller holds the accounts' locks."""
    deltas: dict[str, int] = defaultdict(int)
    touched: dict[str, dict[UUID, None]] = defaultdict(dict)
    accounts: dict[str, Account] = {}
    for entry in entries:
        for leg in entry.legs:
            account_id = leg.account.account_id
            accounts[account_id] = leg.account
            deltas[account_id] += leg.amount.minor
            touched[account_id][entry.entry_id] = None
    rows = await tx.fetch(Q.move_accounts, list(deltas), list(deltas.values()))
    assert len(rows) == len(deltas), "an account is missing"
    return [
        AccountMove(
            account=accounts[row["account_id"]],
            delta_minor=deltas[row["account_id"]],
            balance_minor=row["balance_minor"],
            sequence=row["sequence"],
            entry_ids=tuple(touched[row["account_id"]]),
        )
        for row in sorted(rows, key=lambda row: str(row["account_id"]))
    ]


async def insert_postings(tx: WriteTx, entries: Sequence[Entry], moves: Sequence[AccountMove]) -> None:
    """Write the legs, numbered with the sequence their accounts have reached."""
    sequence: Mapping[str, int] = {move.account.account_id: move.sequence for move in moves}
    legs = [(entry, number, leg) for entry in entries for number, leg in enumerate(entry.legs, start=1)]
    await tx.execute(
        Q.insert_postings,
        [entry.entry_id for entry, _, _ in legs],
        [number for _, number, _ in legs],
        [len(entry.legs) for entry, _, _ in legs],
        [leg.account.account_id for _, _, leg in legs],
        [leg.amount.currency for _, _, leg in legs],
        [leg.amount.minor for _, _, leg in legs],
        [sequence[leg.account.account_id] for _, _, leg in legs],
    )


async def balances_of(conn: ReadConn, merchant_id: MerchantId) -> list[Record]:
    """A merchant's accounts."""
    return await conn.fetch(Q.balances_of, merchant_id, _ACCOUNTS_MAX)


async def entries_of_payment(
    conn: ReadConn, payment_id: UUID, merchant_id: MerchantId
) -> list[tuple[Record, list[Record]]]:
    """What was posted for a payment of this merchant, each entry with its legs; empty for another merchant's."""
    entries = await conn.fetch(Q.entries_of_payment, payment_id, merchant_id)
    legs: dict[UUID, list[Record]] = defaultdict(list)
    for row in await conn.fetch(Q.legs_of, [entry["entry_id"] for entry in entries]):
        legs[row["entry_id"]].append(row)
    return [(entry, legs[entry["entry_id"]]) for entry in entries]


async def verify(conn: ReadConn) -> Books:
    """Check the books: debits against credits, balances against postings, entries against their legs."""
    return Books(
        totals=await conn.fetch(Q.trial_balance),
        unexplained=await conn.fetch(Q.unexplained, FINDINGS_MAX),
        unbalanced=[row["entry_id"] for row in await conn.fetch(Q.unbalanced, FINDINGS_MAX)],
    )
