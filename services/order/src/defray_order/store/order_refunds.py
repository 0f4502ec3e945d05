"""The projection of refunds: what the payment service told last about each, guarded by its sequence."""

from collections.abc import Sequence
from typing import Final

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_order.domain.refund import OrderRefund

Q = queries(__file__)

SHOWN_MAX: Final = 200


async def project(tx: WriteTx, refunds: Sequence[OrderRefund]) -> None:
    """Keep what is newer than what is known; older or repeated news changes nothing."""
    await tx.execute(
        Q.project,
        [r.refund_id for r in refunds],
        [r.payment_id for r in refunds],
        [r.order_id for r in refunds],
        [r.status for r in refunds],
        [r.reason for r in refunds],
        [r.amount.currency for r in refunds],
        [r.amount.minor for r in refunds],
        [r.requested_at for r in refunds],
        [r.done_at for r in refunds],
        [r.sequence for r in refunds],
    )


async def of_orders(conn: ReadConn, order_ids: Sequence[OrderId]) -> list[OrderRefund]:
    """The refunds of these orders' payments, oldest first, at most 200 together."""
    return [
        OrderRefund(
            refund_id=row["refund_id"],
            payment_id=row["payment_id"],
            order_id=row["order_id"],
            status=row["status"],
            reason=row["reason"],
            amount=Money(minor=row["amount_minor"], currency=row["currency"]),
            requested_at=row["requested_at"],
            done_at=row["done_at"],
            sequence=row["last_seq"],
        )
        for row in await conn.fetch(Q.of_orders, order_ids, SHOWN_MAX)
    ]
