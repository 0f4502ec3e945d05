"""Mark orders paid whose payment succeeded: once, whatever is told again."""

from collections.abc import Sequence

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentSucceeded
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId, OrderId, PaymentId, parse
from defray_kernel.money import Money
from defray_order.commands import apply_reports, project_payment
from defray_order.commands.apply_reports import ApplyReport
from defray_order.domain.order import Report, Reported


async def handle(events: Sequence[Event[PaymentSucceeded]], tx: WriteTx, clock: Clock) -> None:
    """Move the orders, then keep the payments' state. Raises RetryLater for an unknown order, Poison for a bad id."""
    await apply_reports.handle([_report(event) for event in events], tx, clock)
    await project_payment.handle(events, tx, clock)


def _report(event: Event[PaymentSucceeded]) -> ApplyReport:
    data = event.data
    # What was paid counts, not what was asked for: a channel that took another amount must show.
    minor = data.amount_minor if data.paid_minor is None else data.paid_minor
    try:
        return ApplyReport(
            order_id=OrderId(parse("ord", data.order_id)),
            reported=Reported(
                report=Report.PAYMENT_SUCCEEDED,
                merchant_id=MerchantId(parse("mer", data.merchant_id)),
                at=data.paid_at or event.time,
                money=Money(minor=minor, currency=data.currency),
                payment_id=PaymentId(parse("pay", data.payment_id)),
            ),
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
