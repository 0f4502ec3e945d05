"""The API of an order's life: ask it to end, say that it is fulfilled, see every step of it with its evidence."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, assert_never

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.db import Database, ReadConn
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import MerchantId, OrderId, parse, show
from defray_kernel.problems import Problem
from defray_order.announce import OrderShown
from defray_order.commands import cancel_order, fulfil_order
from defray_order.commands.cancel_order import CancelOrder
from defray_order.commands.fulfil_order import FulfilOrder
from defray_order.domain.order import Order
from defray_order.domain.timeline import StepKind, TimelineStep
from defray_order.entrypoints.http import look_at
from defray_order.entrypoints.payment_token import TokenBearer
from defray_order.entrypoints.write_edges import LifeEdges
from defray_order.store import orders, timelines

_EXAMPLE = {"reason": "out of stock"}


class CancelBody(RequestModel):
    """Why, for the order's timeline; never a buyer's personal data."""

    reason: Annotated[str, Text(cancel_order.NOTE_MAX)] | None = None


class StepShown(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an order's life.

    `what` is a stable word: the report that moved the order, the type of an event that was heard, a grant's or refund
    request's step. `event_id` is of the event that was heard, or told of the step; `causation_id` of what led to it.
    """

    at: dt.datetime
    kind: StepKind
    subject: str
    what: str
    status_before: str | None
    status: str | None
    amount_minor: int | None
    currency: str | None
    note: str | None
    event_id: str | None
    event_type: str | None
    correlation_id: str
    causation_id: str | None


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of how an order came to be what it is, oldest first; `truncated` when there is more."""

    order_id: str
    data: list[StepShown]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLifeApi:
    """Handlers of the public port. A merchant sees its own orders; a payment token may cancel its one order."""

    database: Database
    edges: LifeEdges

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route("POST", "/v1/orders/{order_id}/cancel", self.cancel, request=CancelBody, response=OrderShown,
                   auth="api_key_or_token", scope="orders:write", example=_EXAMPLE,
                   summary="Ask an unpaid order to end; asking again changes nothing")  # fmt: skip
        edge.route("POST", "/v1/orders/{order_id}/fulfil", self.fulfil, response=OrderShown, scope="orders:write",
                   summary="Say that a paid order was delivered, as far as it was not granted here")  # fmt: skip
        edge.route("GET", "/v1/orders/{order_id}/timeline", self.timeline, response=Timeline, scope="orders:read",
                   summary="Show every step of an order with its evidence")  # fmt: skip

    async def cancel(self, call: Call[CancelBody]) -> Reply:
        """The merchant asks by API key, the customer by payment token."""
        order_id = _order_id(call.path_params["order_id"])
        command = CancelOrder(
            merchant_id=_merchant(call, order_id),
            order_id=order_id,
            by="customer" if call.merchant is None else "merchant",
            reason=call.body.reason,
            cause=call.cause,
        )
        outcome = await self.edges.cancelling.submit(command)
        match outcome:
            case cancel_order.Asked(order=order):
                return await _reply(self.database, order)
            case cancel_order.Refused():
                raise Problem(
                    "invalid_state", detail="the order was paid before; its money goes back by a refund request"
                )
            case cancel_order.Unknown():
                raise Problem("not_found")
            case _:
                assert_never(outcome)

    async def fulfil(self, call: Call[None]) -> Reply:
        """The merchant's word."""
        order_id = _order_id(call.path_params["order_id"])
        command = FulfilOrder(merchant_id=_merchant(call, order_id), order_id=order_id, cause=call.cause)
        outcome = await self.edges.fulfilling.submit(command)
        match outcome:
            case fulfil_order.Fulfilled(order=order):
                return await _reply(self.database, order)
            case fulfil_order.Refused():
                raise Problem("invalid_state", detail="only an order that holds money can be fulfilled")
            case fulfil_order.Unknown():
                raise Problem("not_found")
            case _:
                assert_never(outcome)

    async def timeline(self, call: Call[None]) -> Reply:
        """All steps at once: an order has tens of them."""
        order_id = _order_id(call.path_params["order_id"])
        async with self.database.read() as conn:
            order = (await orders.get(conn, [order_id])).get(order_id)
            if order is None or order.merchant_id != _merchant(call, order_id):
                raise Problem("not_found")
            return Reply(content=await shown_timeline(conn, order_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorOrderLifeApi:
    """Handlers of the internal port; each act is audited in its own transaction."""

    database: Database
    clock: Clock

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route("POST", "/internal/v1/orders/{order_id}/cancel", self.cancel, request=CancelBody, status=204,
                   auth="operator", scope="operator", example=_EXAMPLE,
                   summary="Ask an unpaid order to end, in the system's name")  # fmt: skip
        edge.route("GET", "/internal/v1/orders/{order_id}/timeline", self.timeline, response=Timeline, auth="operator",
                   scope="viewer", summary="Show every step of an order with its evidence; the look is audited")  # fmt: skip

    async def cancel(self, call: Call[CancelBody]) -> Reply:
        """The act stands in the order's log and in the audit."""
        order_id = _order_id(call.path_params["order_id"])
        async with self.database.transaction() as tx:
            order = (await orders.get_for_update(tx, [order_id])).get(order_id)
            if order is None:
                raise Problem("not_found")
            command = CancelOrder(
                merchant_id=order.merchant_id,
                order_id=order_id,
                by="system",
                reason=call.body.reason,
                cause=call.cause,
            )
            (outcome,) = await cancel_order.handle([command], tx, self.clock)
            if not isinstance(outcome, cancel_order.Asked):
                raise Problem(
                    "invalid_state", detail="the order was paid before; its money goes back by a refund request"
                )
            await audit.append(
                tx,
                actor=_operator(call),
                action="order.order.cancel",
                subject=show("ord", order_id),
                clock=self.clock,
                detail={"reason": call.body.reason or ""},
            )
        return Reply(status=204)

    async def timeline(self, call: Call[None]) -> Reply:
        """What may not be written down may not be seen: the audit row commits first."""
        order_id = _order_id(call.path_params["order_id"])
        async with self.database.transaction() as tx:
            await audit.append(
                tx,
                actor=_operator(call),
                action="order.timeline.read",
                subject=show("ord", order_id),
                clock=self.clock,
            )
        async with self.database.read() as conn:
            if order_id not in await orders.get(conn, [order_id]):
                raise Problem("not_found")
            return Reply(content=await shown_timeline(conn, order_id))


async def shown_timeline(conn: ReadConn, order_id: OrderId) -> Timeline:
    """The timeline as the API shows it."""
    steps, truncated = await timelines.of_order(conn, order_id)
    return Timeline(order_id=show("ord", order_id), data=[_step(step) for step in steps], truncated=truncated)


def _step(step: TimelineStep) -> StepShown:
    return StepShown(
        at=step.at,
        kind=step.kind,
        subject=step.subject,
        what=step.what,
        status_before=step.status_before,
        status=step.status,
        amount_minor=step.amount_minor,
        currency=step.currency,
        note=step.note,
        event_id=None if step.event_id is None else str(step.event_id),
        event_type=step.event_type,
        correlation_id=step.correlation_id,
        causation_id=step.causation_id,
    )


async def _reply(database: Database, order: Order) -> Reply:
    """The order as it is after the act, with all that is known of it."""
    async with database.read() as conn:
        found = await look_at(conn, order.merchant_id, order.order_id)
    assert found is not None
    return Reply(content=found)


def _order_id(text: str) -> OrderId:
    try:
        return OrderId(parse("ord", text))
    except ValueError:
        raise Problem("not_found") from None


def _merchant(call: Call[CancelBody] | Call[None], order_id: OrderId) -> MerchantId:
    """Whose order it is to be; a token is good for its own order alone."""
    if call.merchant is not None:
        return call.merchant.merchant_id
    assert isinstance(call.token, TokenBearer)
    if call.token.order_id != order_id:
        raise Problem("not_found")
    return call.token.merchant_id


def _operator(call: Call[CancelBody] | Call[None]) -> str:
    assert call.operator is not None
    return call.operator.subject
