"""What other services ask of the order service: requests that strangers publish as CloudEvents, refused by field when wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import msgspec

from defray_kernel.contracts.order_v1 import Currency

TOPIC = "order.inbound.v1"

# No `$` at the ends: in Python it lets a line end pass, which in JSON Schema it does not.
_END = r"(?![\s\S])"
_LINE = rf"^[^\u0000-\u001f\u007f-\u009f]*{_END}"
Amount = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Sku = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=_LINE)]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_LINE)]
Quantity = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
OrderNumber = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=rf"^[!-~]+{_END}")]
BenefitRef = Annotated[str, msgspec.Meta(pattern=rf"^bft_[0-9a-f]{{32}}{_END}")]
CouponCode = Annotated[str, msgspec.Meta(min_length=1, max_length=40, pattern=_LINE)]
MerchantRef = Annotated[str, msgspec.Meta(pattern=rf"^mer_[0-9a-f]{{32}}{_END}")]


class RequestData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every request's body: closed, because a field that is not understood would be a wish not granted.

    `merchant_id` and `merchant_order_no` name the order; fields may be added with defaults, the service first.
    """

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str] = TOPIC

    merchant_id: MerchantRef
    merchant_order_no: OrderNumber


class RequestedItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line; it costs quantity x unit_amount_minor - discount_minor, in minor units, and never less than nothing.

    Paid, it brings the `benefits` named by their ids.
    """

    sku: Sku
    title: Title
    quantity: Quantity
    unit_amount_minor: Amount
    discount_minor: Amount = 0
    benefits: Annotated[list[BenefitRef], msgspec.Meta(max_length=3)] = []


class OrderRequested(RequestData, frozen=True, kw_only=True):
    """Place this order: the same as `POST /v1/orders`.

    `amount_minor` must be what its lines cost together, less what its coupons take off, each off the rest.
    """

    TYPE: ClassVar[str] = "order.requested.v1"

    currency: Currency
    amount_minor: Amount
    items: Annotated[list[RequestedItem], msgspec.Meta(min_length=1, max_length=100)]
    expires_in_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 24 * 3600)] = 7200
    coupon_codes: Annotated[list[CouponCode], msgspec.Meta(max_length=5)] = []


class OrderCancelRequested(RequestData, frozen=True, kw_only=True):
    """End this order before it is paid. One that is not known yet is remembered, so that it never comes to life."""

    TYPE: ClassVar[str] = "order.cancel_requested.v1"

    by: Literal["merchant", "customer", "system"] = "merchant"
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_LINE)] | None = None


class Priced(Protocol):
    """A line, whichever door it came by."""

    @property
    def quantity(self) -> int: ...
    @property
    def unit_amount_minor(self) -> int: ...
    @property
    def discount_minor(self) -> int: ...


def total_mismatch(items: Sequence[Priced], total_minor: int, *, with_coupons: bool = False) -> str | None:
    """The field that does not add up to the minor unit, as the request names it; None when all do.

    `with_coupons`: the total may be less than the lines; by how much, only the order service knows.
    """
    costs = [item.quantity * item.unit_amount_minor - item.discount_minor for item in items]
    for index, cost in enumerate(costs):
        if cost < 0:
            return f"items[{index}].discount_minor"
    fits = total_minor <= sum(costs) if with_coupons else total_minor == sum(costs)
    return None if fits else "amount_minor"
