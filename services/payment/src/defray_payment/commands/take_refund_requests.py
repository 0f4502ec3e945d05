"""Take the order service's requests for refunds: each is answered once, with a refund that is due at once or a refusal."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from defray_kernel import ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause, Event
from defray_kernel.contracts.order_v1 import OrderRefundRequested
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId, OrderId, RefundId, uuid7
from defray_kernel.money import Money
from defray_payment import announce
from defray_payment.channels.build import KINDS
from defray_payment.commands import ask_refund
from defray_payment.domain.attempt import number_of
from defray_payment.domain.payment import Payment
from defray_payment.domain.refund import Refund, RefundReason, may_refund
from defray_payment.domain.refusals import RequestRefusal
from defray_payment.store import payables, payments, refunds
from defray_payment.store.payments import Found
from defray_payment.store.refunds import RefundRefusal

_REASONS: Final = {"merchant": RefundReason.MERCHANT, "late_money": RefundReason.LATE}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """One request, its ids read."""

    event: Event[OrderRefundRequested]
    request_id: UUID
    payment_id: UUID
    order_id: OrderId
    merchant_id: MerchantId
    amount: Money

    @property
    def reason(self) -> RefundReason:
        return _REASONS[self.event.data.refund_reason]


async def handle(events: Sequence[Event[OrderRefundRequested]], tx: WriteTx, clock: Clock) -> None:
    """Answer requests of different orders; one that was answered before changes nothing. Raises Poison for a bad id.

    The refunds are sent by the timer: nobody waits for the channel here.
    """
    now = clock.now()
    wishes = [_wish(event) for event in events]
    await payables.lock(tx, [wish.order_id for wish in wishes])
    done = await refunds.answered(tx, [wish.request_id for wish in wishes])
    new = [wish for wish in wishes if wish.request_id not in done]
    found = await payments.by_ids(tx, [wish.payment_id for wish in new])
    counts = await refunds.counts(tx, [each.payment.payment_id for each in found.values()])
    by_rule = await refunds.sent_back(tx, [each.payment.payment_id for each in found.values()])
    asked: list[tuple[Payment, Refund]] = []
    causes: list[Cause] = []
    refused: list[tuple[_Wish, str]] = []
    for wish in new:
        match = found.get(wish.payment_id)
        refusal = _refusal(wish, match, counts, by_rule, now)
        if match is None or refusal is not None:
            refused.append((wish, refusal or RequestRefusal.PAYMENT_UNKNOWN))
            continue
        asked.append((match.payment, _refund(wish, match, now)))
        causes.append(replace(wish.event.cause(), correlation_id=match.payment.correlation_id))
    if asked:
        await ask_refund.begin(tx, asked, causes, now)
    if refused:
        await _refuse(tx, refused, now)


def _refusal(
    wish: _Wish,
    match: Found | None,
    counts: Mapping[UUID, int],
    by_rule: set[tuple[UUID, RefundReason]],
    now: dt.datetime,
) -> str | None:
    """Why no refund is made: identity first, then what refuses every refund of this payment."""
    if match is None:
        return RequestRefusal.PAYMENT_UNKNOWN
    payment = match.payment
    ours = (payment.order_id, payment.merchant_id, payment.amount.currency)
    if ours != (wish.order_id, wish.merchant_id, wish.amount.currency):
        return RequestRefusal.PAYMENT_UNKNOWN
    limits = KINDS[payment.channel]
    refusal = may_refund(
        payment,
        wish.amount.minor,
        refunds=counts.get(payment.payment_id, 0),
        refunds_max=limits.refunds_max,
        window=limits.refund_window,
        now=now,
    )
    if refusal is None and wish.reason is not RefundReason.MERCHANT and (payment.payment_id, wish.reason) in by_rule:
        return RequestRefusal.SENT_BACK_BEFORE
    return refusal


def _refund(wish: _Wish, match: Found, now: dt.datetime) -> Refund:
    refund = ask_refund.new_refund(
        match,
        amount=wish.amount,
        reason=wish.reason,
        note=wish.event.data.refund_note,
        refund_id=RefundId(uuid7()),
        refund_no=number_of(uuid7()),
        now=now,
    )
    return replace(refund, request_id=wish.request_id)


async def _refuse(tx: WriteTx, refused: Sequence[tuple[_Wish, str]], now: dt.datetime) -> None:
    rows = [
        RefundRefusal(
            request_id=wish.request_id,
            order_id=wish.order_id,
            payment_id=wish.payment_id,
            amount_minor=wish.amount.minor,
            code=code,
            cause=wish.event.cause(),
        )
        for wish, code in refused
    ]
    await refunds.refuse(tx, rows, now)
    told = [announce.refund_refused(wish.event.data, code, wish.event.cause(), now) for wish, code in refused]
    await outbox.append(tx, told)


def _wish(event: Event[OrderRefundRequested]) -> _Wish:
    data = event.data
    if data.refund_minor <= 0:
        raise Poison("a refund of nothing")
    try:
        return _Wish(
            event=event,
            request_id=ids.parse("rrq", data.refund_request_id),
            payment_id=ids.parse("pay", data.refund_payment_id),
            order_id=OrderId(ids.parse("ord", data.order_id)),
            merchant_id=MerchantId(ids.parse("mer", data.merchant_id)),
            amount=Money(minor=data.refund_minor, currency=data.currency),
        )
    except ValueError as error:
        raise Poison(str(error)) from None
