"""Ask for orders to end: CLOSING, which the payment service decides; an order never heard of leaves a tombstone."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import MerchantId, OrderId
from defray_order.domain.order import Order

By: TypeAlias = Literal["merchant", "customer", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOrder:
    """Who asks to end which order: named by its id, or by the merchant's number.

    An order that is not known by its number is remembered as cancelled, so that it never comes to life, with nothing due
    in `tombstone_currency` (any that the merchant sells in); without one, or when named by id, it is `Unknown`.
    """

    merchant_id: MerchantId
    order_id: OrderId | None = None
    merchant_order_no: str | None = None
    by: By
    reason: str | None = None
    tombstone_currency: str | None = None
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The order as it is now: CLOSING, or ended already (asking again changes nothing)."""

    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The order was paid before; the money is given back by a refund, not by a cancel."""

    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """This merchant has no such order."""


Outcome: TypeAlias = Asked | Refused | Unknown
