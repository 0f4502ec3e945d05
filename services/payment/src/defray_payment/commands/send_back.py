"""Send back money that may not be kept, by rule: the refund is born in the transaction that learned of the money."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, RefundId, uuid7
from defray_kernel.money import Money
from defray_kernel.outbox import OutboxEvent
from defray_payment import announce
from defray_payment.commands.ask_refund import new_refund, reserving
from defray_payment.domain.attempt import number_of
from defray_payment.domain.refund import RefundReason
from defray_payment.store import refunds
from defray_payment.store.payments import Found

_NOTES: Final = {
    RefundReason.LATE: "paid after the order had ended",
    RefundReason.DUPLICATE: "the order was paid already",
    RefundReason.MISMATCH: "not the amount that was asked for",
}


class Unkept(msgspec.Struct, frozen=True, kw_only=True):
    """Money that goes back whole: `amount` as it came, by this payment's attempt and the channel's transaction."""

    found: Found
    amount: Money
    channel_txn_id: str
    reason: RefundReason


async def handle(
    tx: WriteTx, unkept: Sequence[Unkept], causes: Mapping[OrderId, Cause], now: dt.datetime
) -> list[OutboxEvent]:
    """Create the refunds, due at once, and reserve their amounts; what a rule has sent back before is left out.

    The caller holds the payables' locks, has written the payments' moves, and puts the events behind theirs.
    """
    if not unkept:
        return []
    done = await refunds.sent_back(tx, [each.found.payment.payment_id for each in unkept])
    news = [each for each in unkept if (each.found.payment.payment_id, each.reason) not in done]
    made = [
        replace(
            new_refund(
                replace(each.found, payment=replace(each.found.payment, channel_txn_id=each.channel_txn_id)),
                amount=each.amount,
                reason=each.reason,
                note=_NOTES[each.reason],
                refund_id=RefundId(uuid7()),
                refund_no=number_of(uuid7()),
                now=now,
            ),
            total=each.amount,
        )
        for each in news
    ]
    pairs = list(zip((each.found.payment for each in news), made, strict=True))
    held = [(payment, reserving(payment, refund)) for payment, refund in pairs if refund.reserves]
    await refunds.reserve(tx, [before for before, _ in held], [after for _, after in held], now)
    reasons = [causes[refund.order_id].causation_id or "send_back" for refund in made]
    await refunds.insert(tx, made, reasons, now)
    told = [announce.refund_event(refund, payment, causes[refund.order_id], now) for payment, refund in pairs]
    return [event for event in told if event is not None]
