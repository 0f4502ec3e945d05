"""Decide over money that came after its order had ended, where the merchant wants it decided: reopen, or ask it back."""

from collections.abc import Sequence

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentPaidLate
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import MerchantId, OrderId, PaymentId, parse
from defray_kernel.money import Money
from defray_order.commands import apply_reports, ask_refund, effects, project_payment
from defray_order.commands.apply_reports import ApplyReport
from defray_order.commands.ask_refund import LateMoney
from defray_order.domain.order import Moved, Report, Reported, decide
from defray_order.store import orders, policies, refund_requests


class _Late(msgspec.Struct, frozen=True, kw_only=True):
    command: ApplyReport
    payment_id: PaymentId
    money: Money


async def handle(events: Sequence[Event[PaymentPaidLate]], tx: WriteTx, clock: Clock) -> None:
    """Keep the payments' state, then decide. Raises RetryLater for an unknown order, Poison for a bad id.

    Under the policies `return` and `case` the payment service has sent the money back, or a person decides.
    """
    await project_payment.handle(events, tx, clock)
    late = [_late(event) for event in events]
    policy = await policies.late_money(tx, list({each.command.reported.merchant_id for each in late}))
    ours = {merchant_id for merchant_id, told in policy.items() if told.reopen}
    # What was asked back once stays so, whatever could be kept by now.
    asked_back = await refund_requests.late_payments(tx, [each.payment_id for each in late])
    late = [each for each in late if each.command.reported.merchant_id in ours and each.payment_id not in asked_back]
    if not late:
        return
    known = await orders.get_for_update(tx, [each.command.order_id for each in late])
    if len(known) < len(late):
        raise RetryLater("the order is not known")
    could = [
        known[each.command.order_id]
        for each in late
        if isinstance(decide(known[each.command.order_id], each.command.reported), Moved)
    ]
    active = [order for order in could if policy[order.merchant_id].active]
    kept = await effects.can_reopen(active, tx, clock) if active else set()
    unkept = {order.order_id for order in could} - kept
    await apply_reports.handle([each.command for each in late if each.command.order_id not in unkept], tx, clock)
    back = [
        LateMoney(
            order_id=each.command.order_id, payment_id=each.payment_id, amount=each.money, cause=each.command.cause
        )
        for each in late
        if each.command.order_id in unkept
    ]
    if back:
        await ask_refund.late_money(back, tx, clock)


def _late(event: Event[PaymentPaidLate]) -> _Late:
    data = event.data
    minor = data.amount_minor if data.paid_minor is None else data.paid_minor
    money = Money(minor=minor, currency=data.currency)
    try:
        payment_id = PaymentId(parse("pay", data.payment_id))
        command = ApplyReport(
            order_id=OrderId(parse("ord", data.order_id)),
            reported=Reported(
                report=Report.LATE_MONEY_KEPT,
                merchant_id=MerchantId(parse("mer", data.merchant_id)),
                at=data.paid_at or event.time,
                money=money,
                payment_id=payment_id,
            ),
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
    return _Late(command=command, payment_id=payment_id, money=money)
