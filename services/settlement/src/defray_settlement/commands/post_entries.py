"""Post money that came or went back: one balanced entry per flow, each account moved once per transaction."""

from collections.abc import Sequence

from defray_kernel import ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import EntryId
from defray_settlement import announce
from defray_settlement.domain import posting
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.posting import Flow
from defray_settlement.store import ledger, merchants
from defray_settlement.store.ledger import AccountMove


async def handle(flows: Sequence[Flow], tx: WriteTx, clock: Clock) -> None:
    """Post each flow once; one that was posted before changes nothing.

    Raises RetryLater for a merchant that is not registered, Poison for a flow that contradicts itself or the books.
    """
    rules = await merchants.fee_rules_at(tx, [(flow.merchant_id, flow.at) for flow in flows])
    if None in rules:
        raise RetryLater("a merchant is not registered here")
    now = clock.now()
    await ledger.lock_accounts(tx, [account for flow in flows for account in accounts_of(flow)], now)
    entries = [
        posting.post(flow, rule, EntryId(ids.uuid7()))
        for flow, rule in zip(flows, rules, strict=True)
        if rule is not None
    ]
    # Late money that had all gone back before it was to be kept, free of a fee, moves nothing and is no entry.
    entries = [entry for entry in entries if entry.legs]
    new = await ledger.insert_entries(tx, entries, now)
    posted = {entry.entry_id for entry in new}
    repeats = [entry.flow for entry in entries if entry.entry_id not in posted]
    if repeats and await ledger.contradicted(tx, repeats):
        raise Poison("posted before with other content")
    if not new:
        return
    moves = await ledger.move_accounts(tx, new)
    await ledger.insert_postings(tx, new, moves)
    causes = {entry.entry_id: entry.flow.cause for entry in new}
    await outbox.append(
        tx,
        [
            announce.account_posted(
                move.account,
                delta_minor=move.delta_minor,
                balance_minor=move.balance_minor,
                sequence=move.sequence,
                entry_ids=[ids.show("ent", entry_id) for entry_id in move.entry_ids],
                cause=_cause(move, causes),
                at=now,
            )
            for move in moves
        ],
    )


def accounts_of(flow: Flow) -> tuple[Account, ...]:
    """The accounts it may move. Raises Poison for a channel that is none."""
    try:
        return posting.accounts_of(flow)
    except ValueError as error:
        raise Poison(str(error)) from error


def _cause(move: AccountMove, causes: dict[EntryId, Cause]) -> Cause:
    """The entry's own cause; a record of many entries has its own correlation id, and names them."""
    if len(move.entry_ids) == 1:
        return causes[EntryId(move.entry_ids[0])]
    return Cause(correlation_id=f"ledger-{move.entry_ids[0].hex}")
