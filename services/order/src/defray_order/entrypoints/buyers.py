"""The merchant's API for buyers: who an order is for, and erasing a buyer."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import MerchantId, OrderId, parse, show
from defray_kernel.problems import Problem
from defray_order.commands import erase_buyers
from defray_order.commands.erase_buyers import EraseBuyer
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.domain import buyer
from defray_order.domain.buyer import Buyer, WrongField
from defray_order.store import orders


class BuyerBody(RequestModel):
    """Who an order is for: at least one of the fields; `phone` in E.164 form, `customer_ref` the merchant's own name."""

    name: Annotated[str, Text(100)] | None = None
    email: Annotated[str, Text(254)] | None = None
    phone: Annotated[str, Text(16)] | None = None
    customer_ref: Annotated[str, Text(64)] | None = None


class ErasureBody(RequestModel):
    """Whom to erase: exactly one of the fields. Other orders under the same `customer_ref` are the same buyer's."""

    email: Annotated[str, Text(254)] | None = None
    phone: Annotated[str, Text(16)] | None = None
    customer_ref: Annotated[str, Text(64)] | None = None


class BuyerShown(msgspec.Struct, frozen=True, kw_only=True):
    """The buyer of an order; once erased, only when that was."""

    order_id: str
    status: Literal["KEPT", "ERASED"]
    name: str | None
    email: str | None
    phone: str | None
    customer_ref: str | None
    erased_at: dt.datetime | None


class ErasureShown(msgspec.Struct, frozen=True, kw_only=True):
    """In how many orders the buyer was erased now; ask again while it is not `complete`."""

    orders: int
    complete: bool


class BuyersApi:
    """Handlers of the public port."""

    def __init__(self, database: Database, vault: BuyerVault, clock: Clock) -> None:
        self._database, self._vault, self._clock = database, vault, clock

    def declare(self, edge: Edge) -> None:
        """Add the routes. Erasing is no DELETE with a query: addresses of pages end up in logs."""
        edge.route("GET", "/v1/orders/{order_id}/buyer", self.show, summary="Show who an order is for",
                   response=BuyerShown, scope="buyers:read")  # fmt: skip
        edge.route("POST", "/v1/buyers/erase", self.erase, summary="Erase a buyer; orders and sums stay",
                   request=ErasureBody, response=ErasureShown, scope="buyers:erase",
                   example={"customer_ref": "c-1042"})  # fmt: skip

    async def show(self, call: Call[None]) -> Reply:
        """The buyer of one of the caller's orders."""
        assert call.merchant is not None
        found = await shown(self._database, self._vault, call.path_params["order_id"], call.merchant.merchant_id)
        return Reply(content=found)

    async def erase(self, call: Call[ErasureBody]) -> Reply:
        """Erase among the caller's orders; erasing again finds nobody."""
        assert call.merchant is not None
        body, merchant_id = call.body, call.merchant.merchant_id
        asked = buyer.read(email=body.email, phone=body.phone, customer_ref=body.customer_ref)
        if isinstance(asked, WrongField):
            raise Problem("invalid_field" if asked.field else "missing_field", field=asked.field or "customer_ref")
        look_ups = asked.look_ups()
        if len(look_ups) != 1:
            raise Problem("invalid_field", field=list(look_ups)[-1], detail="name the buyer by one field only")
        ((kind, value),) = look_ups.items()
        digest = await self._vault.digest(merchant_id, kind, value)
        command = EraseBuyer(merchant_id=merchant_id, key_id=call.merchant.key_id, kind=kind, digest=digest)
        async with self._database.transaction() as tx:
            erased = await erase_buyers.handle(command, tx, self._clock)
        return Reply(content=ErasureShown(orders=erased.orders, complete=erased.complete))


def checked(body: BuyerBody) -> Buyer:
    """The buyer of an order's body. Raises Problem, naming the field."""
    found = buyer.read(name=body.name, email=body.email, phone=body.phone, customer_ref=body.customer_ref)
    if isinstance(found, WrongField):
        raise Problem("invalid_field", field=f"buyer.{found.field}" if found.field else "buyer", detail=found.reason)
    return found


async def shown(database: Database, vault: BuyerVault, order: str, merchant_id: MerchantId | None) -> BuyerShown:
    """The buyer of an order, of this merchant's if one is named. Raises Problem `not_found`, also for one without."""
    try:
        order_id = OrderId(parse("ord", order))
    except ValueError:
        raise Problem("not_found") from None
    async with database.read() as conn:
        of = (await orders.get(conn, [order_id])).get(order_id)
        own = of is not None and merchant_id in {None, of.merchant_id}
        found = await vault.show(conn, order_id) if own else None
    if found is None:
        raise Problem("not_found")
    kept, plain = found
    known = plain or Buyer()
    return BuyerShown(
        order_id=show("ord", order_id),
        status="KEPT" if plain is not None else "ERASED",
        name=known.name,
        email=known.email,
        phone=known.phone,
        customer_ref=known.customer_ref,
        erased_at=kept.erased_at,
    )
