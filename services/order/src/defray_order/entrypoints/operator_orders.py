"""The operators' API on the internal port: orders of all merchants, and who an order is for; every look is audited."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import Database, WriteTx
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import parse
from defray_kernel.problems import Problem
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.domain.order import OrderState
from defray_order.entrypoints import buyers
from defray_order.entrypoints.buyers import BuyerShown
from defray_order.entrypoints.order_list import OrderSummary, read, read_limit, summary
from defray_order.store import order_pages

_FILTERS: Final = frozenset({"merchant_id", "status", "before", "limit"})
_LAST: Final = UUID(int=(1 << 128) - 1)


class OperatorOrders(msgspec.Struct, frozen=True, kw_only=True):
    """A page of orders, newest first; `?before=<next_before>` with the same filters gives the next one."""

    data: list[OrderSummary]
    next_before: str | None


class OperatorOrdersApi:
    """Handlers of the internal port. What may not be written down may not be seen: the audit row commits first."""

    def __init__(self, database: Database, vault: BuyerVault, clock: Clock) -> None:
        self._database, self._vault, self._clock = database, vault, clock

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route("GET", "/internal/v1/orders", self.page, response=OperatorOrders, auth="operator", scope="viewer",
                   summary="List orders of all merchants (?merchant_id= ?status= ?before= ?limit=)")  # fmt: skip
        edge.route("GET", "/internal/v1/orders/{order_id}/buyer", self.buyer, response=BuyerShown, auth="operator",
                   scope="operator", summary="Show who an order is for; the look is audited")  # fmt: skip

    async def page(self, call: Call[None]) -> Reply:
        """One page, of one merchant or of all."""
        if not set(call.query) <= _FILTERS:
            raise Problem("invalid_parameter")
        limit = read_limit(call)
        merchant_id = read(call, "merchant_id", lambda text: parse("mer", text))
        state = read(call, "status", OrderState)
        before = read(call, "before", lambda text: parse("ord", text)) or _LAST
        async with self._database.transaction() as tx:
            await self._audit(tx, call, "order.orders.list", call.query.get("merchant_id", "all merchants"))
        async with self._database.read() as conn:
            found = await order_pages.of_all(conn, merchant_id=merchant_id, state=state, before=before, limit=limit + 1)
        shown = [summary(order) for order in found[:limit]]
        return Reply(content=OperatorOrders(data=shown, next_before=shown[-1].order_id if len(found) > limit else None))

    async def buyer(self, call: Call[None]) -> Reply:
        """Personal data of one buyer."""
        order_id = call.path_params["order_id"]
        try:
            parse("ord", order_id)
        except ValueError:
            raise Problem("not_found") from None
        async with self._database.transaction() as tx:
            await self._audit(tx, call, "order.buyer.read", order_id)
        return Reply(content=await buyers.shown(self._database, self._vault, order_id, None))

    async def _audit(self, tx: WriteTx, call: Call[Any], action: str, subject: str) -> None:
        assert call.operator is not None
        detail = {"status": call.query["status"]} if "status" in call.query else None
        await audit.append(
            tx, actor=call.operator.subject, action=action, subject=subject, clock=self._clock, detail=detail
        )
