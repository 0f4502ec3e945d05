"""Apply what strangers ask by the same commands as the other door does; says of each why it was refused, or nothing."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.inbound import Unusable
from defray_kernel.contracts.order_inbound_v1 import OrderCancelRequested, OrderRequested, RequestData
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, uuid7
from defray_kernel.money import Money
from defray_order.commands import place_order
from defray_order.commands.place_order import Conflict, PlaceOrder, Told
from defray_order.domain.order import OrderItem
from defray_order.store.inbound import KnownMerchant


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a merchant that is known."""

    data: RequestData
    merchant: KnownMerchant
    cause: Cause


async def handle(asked: Sequence[Asked], tx: WriteTx, clock: Clock) -> list[Unusable | None]:
    """Apply requests of one type, no two for one order; one answer each, None where it was done (before, perhaps)."""
    answers: dict[int, Unusable | None] = {}
    places: dict[int, PlaceOrder] = {}
    for index, each in enumerate(asked):
        match each.data:
            case OrderRequested() as data:
                wish = _wish(each, data)
                if isinstance(wish, Unusable):
                    answers[index] = wish
                else:
                    places[index] = wish
            case OrderCancelRequested():
                answers[index] = Unusable("unknown_type", "ce_type", "not yet")
            case _:
                raise AssertionError(each.data.TYPE)
    if places:
        outcomes = await place_order.handle(list(places.values()), tx, clock)
        for index, outcome in zip(places, outcomes, strict=True):
            match outcome:
                case Told():
                    answers[index] = None
                case Conflict():
                    answers[index] = Unusable("order_conflict", "merchant_order_no", "an order of other content has it")
                case _:
                    raise AssertionError(outcome)
    return [answers[index] for index in range(len(asked))]


def _wish(asked: Asked, data: OrderRequested) -> PlaceOrder | Unusable:
    state = asked.merchant.state
    if state is None:
        return Unusable("merchant_disabled", "merchant_id", "the merchant places no orders at present")
    if data.currency not in state.currencies:
        return Unusable("unsupported_currency", "currency", "the merchant does not sell in it")
    order_id = OrderId(uuid7())
    return PlaceOrder(
        order_id=order_id,
        merchant_id=asked.merchant.merchant_id,
        merchant_order_no=data.merchant_order_no,
        total=Money(minor=data.amount_minor, currency=data.currency),
        items=tuple(
            OrderItem(
                sku=i.sku,
                title=i.title,
                quantity=i.quantity,
                unit_amount_minor=i.unit_amount_minor,
                discount_minor=i.discount_minor,
            )
            for i in data.items
        ),
        expires_in=dt.timedelta(seconds=data.expires_in_s),
        content_hash=hashlib.sha256(msgspec.json.encode(data)).digest(),
        idempotency_key=order_id.hex,
        request_hash=bytes(32),
        cause=asked.cause,
    )
