"""A wish for an order, whichever door it came by: checked against its merchant and its own sums, then ready to be placed."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec

from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.ids import MerchantId, OrderId, parse, uuid7
from defray_kernel.money import Money
from defray_order.commands import coupon_codes
from defray_order.commands.place_order import PlaceOrder
from defray_order.domain import totals
from defray_order.domain.benefit import BenefitId
from defray_order.domain.order import OrderItem


class WishedItem(Protocol):
    """One line as a request has it."""

    @property
    def sku(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def quantity(self) -> int: ...
    @property
    def unit_amount_minor(self) -> int: ...
    @property
    def discount_minor(self) -> int: ...
    @property
    def benefits(self) -> Sequence[str]: ...


class WishedOrder(Protocol):
    """An order as a request has it; its fields were checked one by one by the door."""

    @property
    def merchant_order_no(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def amount_minor(self) -> int: ...
    @property
    def items(self) -> Sequence[WishedItem]: ...
    @property
    def expires_in_s(self) -> int: ...
    @property
    def coupon_codes(self) -> Sequence[str]: ...


class Seller(Protocol):
    """Who wishes; `state` is None when the merchant places no orders at present."""

    @property
    def merchant_id(self) -> MerchantId: ...
    @property
    def state(self) -> MerchantState | None: ...


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a wish is refused: a stable code, the field as the request names it, and our own words, never the input."""

    code: str
    field: str
    reason: str


def wish_from(
    body: WishedOrder,
    merchant: Seller,
    *,
    cause: Cause,
    idempotency_key: str | None = None,
    request_hash: bytes = b"",
) -> PlaceOrder | FieldProblem:
    """The command, under a new order id, or the first field that is wrong. Without a key it came by event."""
    state = merchant.state
    if state is None or state.status != "ACTIVE":
        return FieldProblem(
            code="merchant_disabled", field="merchant_id", reason="the merchant places no orders at present"
        )
    if state.suspended:
        return FieldProblem(code="merchant_suspended", field="merchant_id", reason="the merchant is suspended")
    if body.currency not in state.currencies:
        return FieldProblem(code="unsupported_currency", field="currency", reason="the merchant does not sell in it")
    items = tuple(
        OrderItem(
            sku=item.sku,
            title=item.title,
            quantity=item.quantity,
            unit_amount_minor=item.unit_amount_minor,
            discount_minor=item.discount_minor,
        )
        for item in body.items
    )
    extras = _extras(body)
    if isinstance(extras, FieldProblem):
        return extras
    coupons, benefits = extras
    wrong = totals.mismatch(items, body.amount_minor, with_coupons=bool(coupons))
    if wrong is not None:
        return FieldProblem(code="amount_mismatch", field=wrong, reason="the amounts do not add up to the minor unit")
    return PlaceOrder(
        order_id=OrderId(uuid7()),
        merchant_id=merchant.merchant_id,
        merchant_order_no=body.merchant_order_no,
        total=Money(minor=body.amount_minor, currency=body.currency),
        items=items,
        expires_in=dt.timedelta(seconds=body.expires_in_s),
        content_hash=_content_hash(body, items),
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        cause=cause,
        coupons=coupons,
        benefits=benefits,
    )


def _extras(body: WishedOrder) -> tuple[tuple[bytes, ...], tuple[tuple[int, BenefitId], ...]] | FieldProblem:
    """Coupons by digest and benefits by line: whether there are such, only the database knows."""
    coupons: list[bytes] = []
    for index, code in enumerate(body.coupon_codes):
        digest = coupon_codes.digest(code)
        if digest is None:
            return FieldProblem(code="coupon_unknown", field=f"coupon_codes[{index}]", reason="there is no such coupon")
        coupons.append(digest)
    benefits: list[tuple[int, BenefitId]] = []
    for line, item in enumerate(body.items, start=1):
        for index, benefit in enumerate(item.benefits):
            try:
                benefits.append((line, BenefitId(parse("bft", benefit))))
            except ValueError:
                field = f"items[{line - 1}].benefits[{index}]"
                return FieldProblem(code="benefit_unknown", field=field, reason="the merchant has no such benefit")
    return tuple(coupons), tuple(benefits)


def _content_hash(body: WishedOrder, items: Sequence[OrderItem]) -> bytes:
    """Of the content, not of the text: the same order is the same by either door, and with a default written out.

    A field that is added to wishes stands here only when it is given, so that a wish from before stays the same.
    """
    content: dict[str, object] = {
        "merchant_order_no": body.merchant_order_no,
        "currency": body.currency,
        "amount_minor": body.amount_minor,
        "items": [
            {
                "sku": item.sku,
                "title": item.title,
                "quantity": item.quantity,
                "unit_amount_minor": item.unit_amount_minor,
                "discount_minor": item.discount_minor,
                **({"benefits": list(wished.benefits)} if wished.benefits else {}),
            }
            for item, wished in zip(items, body.items, strict=True)
        ],
        "expires_in_s": body.expires_in_s,
    }
    if body.coupon_codes:
        content["coupon_codes"] = list(body.coupon_codes)
    return hashlib.sha256(msgspec.json.encode(content)).digest()
