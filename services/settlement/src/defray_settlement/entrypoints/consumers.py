"""What the settlement service listens to: one line per event."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from defray_kernel.consumer import Subscription
from defray_kernel.contracts import payment_v1
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentStateV1
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_settlement.commands import post_entries, post_payments, post_refunds
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.posting import Kind
from defray_settlement.store import ledger

PAYMENTS_TOPIC: Final = payment_v1.TOPIC
PAYMENTS: Final[tuple[Subscription[Any], ...]] = (
    Subscription(payment_v1.PaymentSucceeded, post_payments.handle),
    Subscription(payment_v1.PaymentPaidLate, post_payments.handle),
    Subscription(payment_v1.PaymentDuplicate, post_payments.handle),
    Subscription(payment_v1.RefundRequested, post_refunds.handle_requested),
    Subscription(payment_v1.RefundSucceeded, post_refunds.handle),
)


async def lock_accounts(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Lock the accounts of a whole batch in id order, before its first round."""
    opened: list[Account] = []
    locked: list[Account] = []
    for event in events:
        # An event that contradicts itself is poison for its own handler, not for the whole batch.
        with contextlib.suppress(Poison):
            if isinstance(event.data, PaymentStateV1):
                opened += post_entries.accounts_of(post_payments.flow_of(event))
            else:
                # Which account gives the money is known when the payment's own entry is read; none is opened for it here.
                for kind in (Kind.REFUNDED, Kind.RETURNED):
                    locked += post_entries.accounts_of(post_refunds.flow_of(event, kind))
    if opened or locked:
        await ledger.lock_accounts(tx, opened, max(event.time for event in events), beside=locked)
