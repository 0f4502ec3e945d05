"""Apply what strangers ask by the same commands as the other door does; says of each why it was refused, or nothing."""

from collections.abc import Sequence
from typing import assert_never

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.inbound import Unusable
from defray_kernel.contracts.order_inbound_v1 import OrderCancelRequested, OrderRequested, RequestData
from defray_kernel.db import WriteTx
from defray_order.commands import cancel_order, place_order
from defray_order.commands.cancel_order import CancelOrder
from defray_order.commands.place_order import Cancelled, Conflict, NotWith, PlaceOrder
from defray_order.commands.told import Told
from defray_order.commands.wishes import FieldProblem, wish_from
from defray_order.store.inbound import KnownMerchant


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a merchant that is known."""

    data: RequestData
    merchant: KnownMerchant
    cause: Cause


async def handle(asked: Sequence[Asked], tx: WriteTx, clock: Clock) -> list[Unusable | None]:
    """Apply requests, no two for one order; one answer each, None where it was done (before, perhaps)."""
    answers: dict[int, Unusable | None] = {}
    places: dict[int, PlaceOrder] = {}
    cancels: dict[int, CancelOrder] = {}
    for index, each in enumerate(asked):
        match each.data:
            case OrderRequested() as data:
                wish = wish_from(data, each.merchant, cause=each.cause)
                if isinstance(wish, FieldProblem):
                    answers[index] = Unusable(wish.code, wish.field, wish.reason)
                else:
                    places[index] = wish
            case OrderCancelRequested() as data:
                cancels[index] = _cancel(each, data)
            case _:
                raise AssertionError(each.data.TYPE)
    answers |= await _place(places, tx, clock) if places else {}
    answers |= await _end(cancels, tx, clock) if cancels else {}
    return [answers[index] for index in range(len(asked))]


async def _place(places: dict[int, PlaceOrder], tx: WriteTx, clock: Clock) -> dict[int, Unusable | None]:
    answers: dict[int, Unusable | None] = {}
    for index, outcome in zip(places, await place_order.handle(list(places.values()), tx, clock), strict=True):
        match outcome:
            case Told():
                answers[index] = None
            case Conflict():
                answers[index] = Unusable("order_conflict", "merchant_order_no", "an order of other content has it")
            case NotWith(code=code, field=field):
                answers[index] = Unusable(code, field, "not with this coupon, benefit or total")
            case Cancelled():
                answers[index] = Unusable("order_cancelled", "merchant_order_no", "it was cancelled before it came")
            case _:
                raise AssertionError(outcome)
    return answers


async def _end(cancels: dict[int, CancelOrder], tx: WriteTx, clock: Clock) -> dict[int, Unusable | None]:
    answers: dict[int, Unusable | None] = {}
    for index, outcome in zip(cancels, await cancel_order.handle(list(cancels.values()), tx, clock), strict=True):
        match outcome:
            case cancel_order.Asked():
                answers[index] = None
            case cancel_order.Refused():
                answers[index] = Unusable("invalid_state", "merchant_order_no", "the order was paid before")
            case cancel_order.Unknown():
                answers[index] = Unusable("unknown_order", "merchant_order_no", "the merchant has no such order")
            case _:
                assert_never(outcome)
    return answers


def _cancel(asked: Asked, data: OrderCancelRequested) -> CancelOrder:
    state = asked.merchant.state
    return CancelOrder(
        merchant_id=asked.merchant.merchant_id,
        merchant_order_no=data.merchant_order_no,
        by=data.by,
        reason=data.reason,
        tombstone_currency=None if state is None else next(iter(state.currencies), None),
        cause=asked.cause,
    )
