"""The list of a merchant's orders: filters, and pages joined by sealed cursors that fit their caller and filters only."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from defray_kernel.contracts.order_v1 import ClosingReason, OrderStatus
from defray_kernel.crypto import CannotOpen, Envelope
from defray_kernel.db import Database
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import MerchantId, show
from defray_kernel.problems import Problem
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.domain import buyer
from defray_order.domain.buyer import LookUp, WrongField
from defray_order.domain.order import OrderState
from defray_order.store import order_pages
from defray_order.store.order_pages import ListedOrder, Place, Wanted

T = TypeVar("T")

PAGE_MAX: Final = 100
_FILTERS: Final = ("status", "created_from", "created_before", "merchant_order_no", "email", "phone", "customer_ref")
_CURSOR_CHARACTERS_MAX: Final = 400
_NUMBER_MAX: Final = 64
STATUS: Final = {"type": "string", "enum": [state.value for state in OrderState]}
MOMENT: Final = {"type": "string", "format": "date-time"}
LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_MAX}
PARAMETERS: Final[dict[str, dict[str, Any]]] = {name: {"type": "string"} for name in (*_FILTERS, "cursor")} | {
    "status": STATUS,
    "created_from": MOMENT,
    "created_before": MOMENT,
    "merchant_order_no": {"type": "string", "minLength": 1, "maxLength": _NUMBER_MAX},
    "limit": LIMIT,
}


class OrderSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An order without its lines, payments and refunds; amounts in minor units of `currency`."""

    order_id: str
    merchant_id: str
    merchant_order_no: str
    status: OrderStatus
    amount_minor: int
    currency: str
    refunded_minor: int
    placed_at: dt.datetime
    expires_at: dt.datetime
    paid_at: dt.datetime | None
    closing_reason: ClosingReason | None
    payment_id: str | None
    correlation_id: str


class OrderListBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of orders, oldest first; `?cursor=<next_cursor>` with the same filters gives the next one."""

    data: list[OrderSummary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderList:
    """The handler; a caller lists its own orders."""

    database: Database
    envelope: Envelope
    vault: BuyerVault

    def declare(self, edge: Edge) -> None:
        """Add the route."""
        edge.route("GET", "/v1/orders", self.page, summary="List orders, oldest first", response=OrderListBody,
                   scope="orders:read", query=PARAMETERS)  # fmt: skip

    async def page(self, call: Call[None]) -> Reply:
        """One page. A cursor of somebody else, of other filters, or made up is no cursor."""
        if not set(call.query) <= {*_FILTERS, "limit", "cursor"}:
            raise Problem("invalid_parameter")
        limit = read_limit(call)
        wanted = await self._wanted(call)
        context = _context(wanted.merchant_id, call.query)
        after = self._opened(call.query["cursor"], context) if "cursor" in call.query else None
        async with self.database.read() as conn:
            found = await order_pages.page(conn, wanted, after=after, limit=limit + 1)
        cursor = self._sealed(found[limit - 1], context) if len(found) > limit else None
        return Reply(content=OrderListBody(data=[summary(order) for order in found[:limit]], next_cursor=cursor))

    async def _wanted(self, call: Call[None]) -> Wanted:
        assert call.merchant is not None
        merchant_id = call.merchant.merchant_id
        look_ups = {kind: value for kind in LookUp if (value := read(call, kind, _look_up(kind))) is not None}
        return Wanted(
            merchant_id=merchant_id,
            state=read(call, "status", OrderState),
            created_from=read(call, "created_from", moment),
            created_before=read(call, "created_before", moment),
            merchant_order_no=read(call, "merchant_order_no", _number),
            digests=[await self.vault.digest(merchant_id, kind, value) for kind, value in look_ups.items()],
        )

    def _sealed(self, last: ListedOrder, context: str) -> str:
        place = Place(placed_at=last.placed_at, order_id=last.order_id)
        return self.envelope.seal(msgspec.json.encode(place), context).hex()

    def _opened(self, text: str, context: str) -> Place:
        try:
            sealed = bytes.fromhex(text[:_CURSOR_CHARACTERS_MAX])
            return msgspec.json.decode(self.envelope.open(sealed, context), type=Place)
        except (ValueError, CannotOpen, msgspec.MsgspecError):
            raise Problem("invalid_parameter", field="cursor") from None


def summary(order: ListedOrder) -> OrderSummary:
    """As lists show it."""
    return OrderSummary(
        order_id=show("ord", order.order_id),
        merchant_id=show("mer", order.merchant_id),
        merchant_order_no=order.merchant_order_no,
        status=order.state.value,
        amount_minor=order.total.minor,
        currency=order.total.currency,
        refunded_minor=order.refunded_minor,
        placed_at=order.placed_at,
        expires_at=order.expires_at,
        paid_at=order.paid_at,
        closing_reason=order.closing_reason,
        payment_id=None if order.payment_id is None else show("pay", order.payment_id),
        correlation_id=order.correlation_id,
    )


def read(call: Call[None], name: str, form: Callable[[str], T]) -> T | None:
    """A query parameter in its form, None when it is not given. Raises Problem `invalid_parameter`."""
    try:
        return form(call.query[name]) if name in call.query else None
    except (ValueError, OverflowError):
        raise Problem("invalid_parameter", field=name) from None


def read_limit(call: Call[None]) -> int:
    """How many items a page holds: 1 to 100, 100 without `?limit=`. Raises Problem `invalid_parameter`."""
    text = call.query.get("limit", str(PAGE_MAX))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= PAGE_MAX):
        raise Problem("invalid_parameter", field="limit")
    return int(text)


def moment(text: str) -> dt.datetime:
    """An RFC 3339 time with its zone. Raises ValueError or OverflowError."""
    at = dt.datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return at.astimezone(dt.UTC)


def _number(text: str) -> str:
    if not 1 <= len(text) <= _NUMBER_MAX:
        raise ValueError("not a merchant's order number")
    return text


def _look_up(kind: LookUp) -> Callable[[str], str]:
    def form(text: str) -> str:
        found = buyer.read(**{kind.value: text})
        if isinstance(found, WrongField):
            raise ValueError(found.reason)  # noqa: TRY004 - the value is wrong, not its type
        return buyer.normal(kind, text)

    return form


def _context(merchant_id: MerchantId, query: Mapping[str, str]) -> str:
    filters = msgspec.json.encode([query.get(name) for name in _FILTERS])
    return f"cursor.orders:{merchant_id}:{hashlib.sha256(filters).hexdigest()}"
