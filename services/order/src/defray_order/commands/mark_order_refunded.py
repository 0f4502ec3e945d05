"""Mark orders refunded, in part or whole, as their money goes back: each sum once, whatever is told again."""

from collections.abc import Sequence

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import RefundSucceeded
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId, OrderId, PaymentId, parse
from defray_kernel.money import Money
from defray_order.commands import apply_reports, follow_refunds
from defray_order.commands.apply_reports import ApplyReport
from defray_order.domain.order import Report, Reported


async def handle(events: Sequence[Event[RefundSucceeded]], tx: WriteTx, clock: Clock) -> None:
    """Move the orders, then keep the refunds' state and move their requests. Raises RetryLater for an unknown order, Poison for a bad id."""
    await apply_reports.handle([_report(event) for event in events], tx, clock)
    await follow_refunds.handle(events, tx, clock)


def _report(event: Event[RefundSucceeded]) -> ApplyReport:
    data = event.data
    try:
        return ApplyReport(
            order_id=OrderId(parse("ord", data.order_id)),
            reported=Reported(
                report=Report.MONEY_REFUNDED,
                merchant_id=MerchantId(parse("mer", data.merchant_id)),
                at=data.done_at or event.time,
                money=Money(minor=data.payment_refunded_minor, currency=data.currency),
                payment_id=PaymentId(parse("pay", data.payment_id)),
            ),
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
