"""The projection of payments: what the payment service told last about each, guarded by its sequence."""

from collections.abc import Sequence
from typing import Final

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.money import Money
from defray_kernel.sql import queries
from defray_order.domain.payment import OrderPayment

Q = queries(__file__)

SHOWN_MAX: Final = 100


async def project(tx: WriteTx, payments: Sequence[OrderPayment]) -> None:
    """Keep what is newer than what is known; older or repeated news changes nothing."""
    await tx.execute(
        Q.project,
        [p.payment_id for p in payments],
        [p.order_id for p in payments],
        [p.status for p in payments],
        [p.amount.currency for p in payments],
        [p.amount.minor for p in payments],
        [p.channel for p in payments],
        [p.paid_minor for p in payments],
        [p.paid_at for p in payments],
        [p.sequence for p in payments],
    )


async def of_orders(conn: ReadConn, order_ids: Sequence[OrderId]) -> list[OrderPayment]:
    """The payments of these orders, oldest first, at most 100 together."""
    return [
        OrderPayment(
            payment_id=row["payment_id"],
            order_id=row["order_id"],
            status=row["status"],
            amount=Money(minor=row["amount_minor"], currency=row["currency"]),
            channel=row["channel"],
            paid_minor=row["paid_minor"],
            paid_at=row["paid_at"],
            sequence=row["last_seq"],
        )
        for row in await conn.fetch(Q.of_orders, order_ids, SHOWN_MAX)
    ]
