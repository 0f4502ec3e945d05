"""End orders that nobody can pay any more: CANCELLED or EXPIRED, as the payment service decided."""

from collections.abc import Sequence

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PayableClosed
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId, OrderId, parse
from defray_order.commands import apply_reports
from defray_order.commands.apply_reports import ApplyReport
from defray_order.domain.order import Report, Reported


async def handle(events: Sequence[Event[PayableClosed]], tx: WriteTx, clock: Clock) -> None:
    """Move the orders. Raises RetryLater for an unknown order, Poison for a bad id."""
    await apply_reports.handle([_report(event) for event in events], tx, clock)


def _report(event: Event[PayableClosed]) -> ApplyReport:
    data = event.data
    try:
        return ApplyReport(
            order_id=OrderId(parse("ord", data.order_id)),
            reported=Reported(
                report=Report.PAYABLE_EXPIRED if data.reason == "expired" else Report.PAYABLE_CANCELLED,
                merchant_id=MerchantId(parse("mer", data.merchant_id)),
                at=data.closed_at,
                reason=data.reason,
            ),
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
