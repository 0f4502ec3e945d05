"""What the settlement service listens to: one line per event."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from defray_kernel.consumer import Subscription
from defray_kernel.contracts import order_v1, payment_v1
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentPaidLate, PaymentStateV1
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_settlement.commands import post_entries, post_payments, post_refunds, post_reopened
from defray_settlement.domain.accounts import Account
from defray_settlement.domain.posting import Flow, Kind
from defray_settlement.store import ledger, order_facts
from defray_settlement.store.order_facts import Reopening

PAYMENTS_TOPIC: Final = payment_v1.TOPIC
PAYMENTS: Final[tuple[Subscription[Any], ...]] = (
    Subscription(payment_v1.PaymentSucceeded, post_payments.handle),
    Subscription(payment_v1.PaymentPaidLate, post_reopened.handle_late),
    Subscription(payment_v1.PaymentDuplicate, post_payments.handle),
    Subscription(payment_v1.RefundRequested, post_refunds.handle_requested),
    Subscription(payment_v1.RefundSucceeded, post_refunds.handle),
)
ORDERS_TOPIC: Final = order_v1.TOPIC
ORDERS: Final[tuple[Subscription[Any], ...]] = (Subscription(order_v1.OrderPaid, post_reopened.handle_paid),)


async def lock_accounts(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """Lock a whole batch before its first round: orders that money came late for, then accounts, each in id order."""
    came: list[tuple[Event[Any], Flow]] = []
    went: list[Flow] = []
    for event in events:
        # An event that contradicts itself is poison for its own handler, not for the whole batch.
        with contextlib.suppress(Poison):
            if isinstance(event.data, PaymentStateV1):
                flow = post_payments.flow_of(event)
                post_entries.accounts_of(flow)
                came.append((event, flow))
            else:
                # Which account gives the money is known when the payment's own entry is read.
                flows = [post_refunds.flow_of(event, kind) for kind in (Kind.REFUNDED, Kind.RETURNED)]
                post_entries.accounts_of(flows[0])
                went += flows
    late = [flow for event, flow in came if isinstance(event.data, PaymentPaidLate)]
    reopened: dict[UUID, Reopening] = {}
    if late or went:
        reopened = await order_facts.lock(tx, [flow.order_id for flow in late], beside=[flow.order_id for flow in went])
    kept = [dataclasses.replace(flow, kind=Kind.REOPENED) for flow in late if flow.order_id in reopened]
    opened = [account for flow in [*(flow for _, flow in came), *kept] for account in post_entries.accounts_of(flow)]
    # None is opened for a refund here.
    beside = [account for flow in went for account in post_entries.accounts_of(flow)]
    if opened or beside:
        await ledger.lock_accounts(tx, opened, max(event.time for event in events), beside=beside)


async def lock_reopened(events: Sequence[Event[Any]], tx: WriteTx) -> None:
    """The same for orders that were reopened: their rows, then the accounts of late money that is there already."""
    told: list[Reopening] = []
    for event in events:
        if event.data.reopened:
            with contextlib.suppress(Poison):
                told.append(post_reopened.reopening_of(event))
    if not told:
        return
    await order_facts.lock(tx, [each.order_id for each in told])
    opened: list[Account] = []
    for each in told:
        with contextlib.suppress(Poison):
            for flow in await post_reopened.flows_of([each], tx):
                opened += post_entries.accounts_of(flow)
    if opened:
        await ledger.lock_accounts(tx, opened, max(event.time for event in events))
