"""Post money that channels have given back: one entry per refund, from where the money of its payment was put."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from defray_kernel import ids
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import RefundRequested, RefundStateV1, RefundSucceeded
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import MerchantId
from defray_kernel.money import Money
from defray_settlement.commands import post_entries
from defray_settlement.domain import posting
from defray_settlement.domain.posting import Flow, Kind
from defray_settlement.store import ledger

R = TypeVar("R", bound=RefundStateV1)


async def handle(events: Sequence[Event[RefundSucceeded]], tx: WriteTx, clock: Clock) -> None:
    """Post each refund once. Raises RetryLater while its payment's money is not posted, else like `post_entries.handle`."""
    flows = [flow_of(event, Kind.REFUNDED) for event in events]
    arrived = await ledger.arrivals(tx, flows)
    if None in arrived:
        raise RetryLater("the money that went back has not come yet")
    went = [
        dataclasses.replace(flow, kind=posting.going_back(kind))
        for flow, kind in zip(flows, arrived, strict=True)
        if kind is not None
    ]
    await post_entries.handle(went, tx, clock)


async def handle_requested(events: Sequence[Event[RefundRequested]], tx: WriteTx, clock: Clock) -> None:
    """Post money of a wrong amount as it is about to go back: no payment ever told of it. Raises like the above."""
    came = [flow_of(event, Kind.MISMATCHED) for event in events if event.data.reason == "mismatch"]
    if came:
        await post_entries.handle(came, tx, clock)


def flow_of(event: Event[R], kind: Kind) -> Flow:
    """The money that a refund tells of. Raises Poison for an event that contradicts itself."""
    data = event.data
    try:
        flow = Flow(
            kind=kind,
            payment_id=ids.parse("pay", data.payment_id),
            refund_id=ids.parse("rfd", data.refund_id),
            order_id=ids.parse("ord", data.order_id),
            merchant_id=MerchantId(ids.parse("mer", data.merchant_id)),
            channel=data.channel,
            gross=Money(minor=data.amount_minor, currency=data.currency),
            at=data.done_at or data.requested_at,
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error
    if data.amount_minor <= 0:
        raise Poison("a refund of nothing")
    return flow
