"""Post money that channels have taken: one balanced entry per payment, each account moved once per transaction."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from defray_kernel import ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause, Event
from defray_kernel.contracts.payment_v1 import PaymentDuplicate, PaymentPaidLate, PaymentStateV1, PaymentSucceeded
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import EntryId, MerchantId
from defray_kernel.money import Money
from defray_settlement import announce
from defray_settlement.domain import posting
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.posting import Arrival, Kind
from defray_settlement.store import ledger, merchants
from defray_settlement.store.ledger import AccountMove

KINDS: Final[dict[type[PaymentStateV1], Kind]] = {
    PaymentSucceeded: Kind.SUCCEEDED,
    PaymentPaidLate: Kind.PAID_LATE,
    PaymentDuplicate: Kind.DUPLICATE,
}


async def handle(events: Sequence[Event[PaymentStateV1]], tx: WriteTx, clock: Clock) -> None:
    """Post each payment once; a payment posted before changes nothing.

    Raises RetryLater for a merchant that is not registered, Poison for an event that contradicts itself or the books.
    """
    arrivals = [_arrival(event) for event in events]
    rules = await merchants.fee_rules_at(tx, [(arrival.merchant_id, arrival.paid_at) for arrival in arrivals])
    if None in rules:
        raise RetryLater("a merchant is not registered here")
    now = clock.now()
    await ledger.lock_accounts(tx, [account for arrival in arrivals for account in _accounts(arrival)], now)
    entries = [
        posting.post(arrival, rule, EntryId(ids.uuid7()))
        for arrival, rule in zip(arrivals, rules, strict=True)
        if rule is not None
    ]
    new = await ledger.insert_entries(tx, entries, now)
    posted = {entry.entry_id for entry in new}
    repeats = [entry.arrival for entry in entries if entry.entry_id not in posted]
    if repeats and await ledger.contradicted(tx, repeats):
        raise Poison("posted before with other content")
    if not new:
        return
    moves = await ledger.move_accounts(tx, new)
    await ledger.insert_postings(tx, new, moves)
    causes = {entry.entry_id: entry.arrival.cause for entry in new}
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


async def lock(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Lock the accounts of a whole batch in id order, before its first round."""
    accounts: list[Account] = []
    for event in events:
        # An event that contradicts itself is poison for its own handler, not for the whole batch.
        with contextlib.suppress(Poison):
            accounts += _accounts(_arrival(event))
    if accounts:
        await ledger.lock_accounts(tx, accounts, max(event.time for event in events))


def _arrival(event: Event[PaymentStateV1]) -> Arrival:
    data = event.data
    # What the channel took is what counts; a payment that succeeded took its own amount.
    gross = data.amount_minor if data.paid_minor is None else data.paid_minor
    try:
        arrival = Arrival(
            kind=KINDS[type(data)],
            payment_id=ids.parse("pay", data.payment_id),
            order_id=ids.parse("ord", data.order_id),
            merchant_id=MerchantId(ids.parse("mer", data.merchant_id)),
            channel=data.channel,
            gross=Money(minor=gross, currency=data.currency),
            paid_at=data.paid_at or event.time,
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
    if gross <= 0 or (arrival.kind is Kind.SUCCEEDED and gross != data.amount_minor):
        raise Poison("the amount taken does not fit the payment")
    return arrival


def _accounts(arrival: Arrival) -> tuple[Account, ...]:
    try:
        return posting.accounts_of(arrival)
    except ValueError as error:
        raise Poison(str(error)) from error


def _cause(move: AccountMove, causes: dict[EntryId, Cause]) -> Cause:
    """The entry's own cause; a record of many entries has its own correlation id, and names them."""
    if len(move.entry_ids) == 1:
        return causes[EntryId(move.entry_ids[0])]
    return Cause(correlation_id=f"ledger-{move.entry_ids[0].hex}")
