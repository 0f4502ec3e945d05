"""Ask for a payment to be closed at its channel: from now on its attempt is closed there, whoever does it."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, PaymentId
from defray_payment.domain.payment import LIVE
from defray_payment.store import attempts, payables, payments
from defray_payment.store.payments import Found

LEASE: Final = dt.timedelta(seconds=30)
"""So long the timer leaves the attempt to whoever asked; then it takes over."""


class AskClose(msgspec.Struct, frozen=True, kw_only=True):
    """The wish of a merchant or cashier to close one payment."""

    order_id: OrderId
    payment_id: PaymentId


def keys(command: AskClose) -> list[str]:
    """Serial keys: the order."""
    return [f"order:{command.order_id}"]


async def handle(commands: Sequence[AskClose], tx: WriteTx, clock: Clock) -> list[Found]:
    """Mark live payments' attempts; returns each payment as it is. A decided payment stays as it is."""
    now = clock.now()
    await payables.lock(tx, [command.order_id for command in commands])
    found = await payments.by_ids(tx, [command.payment_id for command in commands])
    live = {key: each for key, each in found.items() if each.payment.status in LIVE}
    asked = {key: replace(each.attempt, closing=True, next_query_at=now + LEASE) for key, each in live.items()}
    await attempts.save(tx, list(asked.values()), now)
    return [
        replace(found[command.payment_id], attempt=asked.get(command.payment_id, found[command.payment_id].attempt))
        for command in commands
    ]
