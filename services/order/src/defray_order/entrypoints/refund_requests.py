"""The merchant API of refund requests: ask for money to go back, look at what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from pydantic import Field

from defray_kernel.db import Database, ReadConn
from defray_kernel.fields import AmountMinor, RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply, replayed
from defray_kernel.idempotency import Claim, Replay, scope_of
from defray_kernel.ids import MerchantId, OrderId, parse, uuid7
from defray_kernel.problems import Problem, ProblemKind, Problems
from defray_order import announce
from defray_order.announce import RefundRequestShown
from defray_order.commands.ask_refund import AskRefund, Outcome
from defray_order.commands.told import Told
from defray_order.domain.refund_request import LineWish, RefundRefusal, RefundRequest, RefundRequestId, RequestRefused
from defray_order.entrypoints.order_list import LIMIT, read_limit
from defray_order.store import orders, refund_requests

_PROBLEM_TYPE: Final = "application/problem+json"

PROBLEMS: Final = (
    ProblemKind(code=RefundRefusal.ORDER_NOT_PAID, status=409, title="Nothing was paid that could go back"),
    ProblemKind(
        code=RefundRefusal.REFUND_EXCEEDS_PAID, status=409, title="More than what is left of the order cannot go back"
    ),
    ProblemKind(
        code=RefundRefusal.REFUND_EXCEEDS_LINE, status=409, title="More than what is left of the line cannot go back"
    ),
    ProblemKind(code=RefundRefusal.TOO_MANY_REFUNDS, status=409, title="The order has had too many refund requests"),
    ProblemKind(code=RefundRefusal.REFUND_OF_NOTHING, status=422, title="The named lines cost nothing"),
    ProblemKind(code=RefundRefusal.LINE_UNKNOWN, status=422, title="The order has no such line"),
    ProblemKind(code=RefundRefusal.LINE_REPEATED, status=422, title="The line is named twice"),
)


class RefundLineBody(RequestModel):
    """One line: so many of its units, or so much of what was paid for it; one of the two."""

    line: Annotated[int, Field(ge=1, le=100)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    amount_minor: AmountMinor | None = None


class RefundRequestBody(RequestModel):
    """What goes back: an amount in minor units of the order's currency, or lines. The payer may be shown the reason."""

    amount_minor: AmountMinor | None = None
    lines: Annotated[tuple[RefundLineBody, ...], Field(min_length=1, max_length=100, strict=False)] | None = None
    reason: Annotated[str, Text(80)]


class RefundRequestsShown(msgspec.Struct, frozen=True, kw_only=True):
    """A page of an order's refund requests, oldest first; `?after=<next_after>` gives the next one."""

    data: list[RefundRequestShown]
    next_after: str | None


class Answers:
    """How refusals are put for callers."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def refusal(self, refused: RequestRefused, correlation_id: str) -> tuple[int, bytes]:
        """The problem of this code, naming the part of the wish that is wrong."""
        return self._problems.encode(Problem(refused.code, field=refused.field), correlation_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequestsApi:
    """Handlers of the public port; what belongs to other merchants is not there."""

    database: Database
    asking: GroupCommit[AskRefund, Outcome]

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route(
            "POST",
            "/v1/orders/{order_id}/refund-requests",
            self.ask,
            summary="Ask for all or part of an order's money to go back",
            request=RefundRequestBody,
            response=RefundRequestShown,
            status=201,
            scope="refunds:write",
            idempotency_key=True,
            example={"lines": [{"line": 1, "quantity": 1}], "reason": "one shirt returned"},
        )
        edge.route(
            "GET",
            "/v1/orders/{order_id}/refund-requests",
            self.of_order,
            summary="List the refund requests of an order",
            response=RefundRequestsShown,
            scope="refunds:read",
            query={"after": {"type": "string"}, "limit": LIMIT},
        )
        edge.route(
            "GET",
            "/v1/refund-requests/{refund_request_id}",
            self.get,
            summary="Show a refund request",
            response=RefundRequestShown,
            scope="refunds:read",
        )

    async def ask(self, call: Call[RefundRequestBody]) -> Reply:
        """Decided and committed here; the payment service answers by event."""
        order_id = await self._own_order(call)
        outcome = await self.asking.submit(_command(call, order_id))
        match outcome:
            case Told(status=status, body=body):
                return _reply(status, body)
            case Replay(status=status, body=body):
                return _reply(status, body, {"Idempotency-Replayed": "true"})
            case _:
                replayed(outcome)
                raise AssertionError(outcome)

    async def of_order(self, call: Call[None]) -> Reply:
        """The requests of one order, page by page."""
        order_id = await self._own_order(call)
        if not set(call.query) <= {"after", "limit"}:
            raise Problem("invalid_parameter")
        limit = read_limit(call)
        try:
            after = parse("rrq", call.query["after"]) if "after" in call.query else refund_requests.FIRST
        except ValueError:
            raise Problem("invalid_parameter", field="after") from None
        async with self.database.read() as conn:
            page = await refund_requests.of_order(conn, order_id, after=after, limit=limit + 1)
            shown = await _shown(conn, page[:limit])
        more = len(page) > limit
        return Reply(content=RefundRequestsShown(data=shown, next_after=shown[-1].refund_request_id if more else None))

    async def get(self, call: Call[None]) -> Reply:
        """One request."""
        request_id = RefundRequestId(_parsed("rrq", call.path_params["refund_request_id"]))
        async with self.database.read() as conn:
            found = await refund_requests.known(conn, [request_id], [])
            if not found or found[0].merchant_id != _merchant(call):
                raise Problem("not_found")
            (shown,) = await _shown(conn, found)
        return Reply(content=shown)

    async def _own_order(self, call: Call[RefundRequestBody] | Call[None]) -> OrderId:
        order_id = OrderId(_parsed("ord", call.path_params["order_id"]))
        async with self.database.read() as conn:
            order = (await orders.get(conn, [order_id])).get(order_id)
        if order is None or order.merchant_id != _merchant(call):
            raise Problem("not_found")
        return order_id


async def _shown(conn: ReadConn, requests: list[RefundRequest]) -> list[RefundRequestShown]:
    steps = await refund_requests.steps(conn, [request.request_id for request in requests])
    return [announce.request_shown(request, steps) for request in requests]


def _command(call: Call[RefundRequestBody], order_id: OrderId) -> AskRefund:
    assert call.idempotency_key is not None
    body, merchant_id = call.body, _merchant(call)
    _one_of("amount_minor", "lines", body.amount_minor, body.lines, "")
    for index, line in enumerate(body.lines or ()):
        _one_of("quantity", "amount_minor", line.quantity, line.amount_minor, f"lines[{index}].")
    return AskRefund(
        key=Claim(scope=scope_of(merchant_id, "ask_refund"), key=call.idempotency_key, request_hash=call.request_hash),
        request_id=RefundRequestId(uuid7()),
        order_id=order_id,
        merchant_id=merchant_id,
        amount_minor=body.amount_minor,
        lines=tuple(
            LineWish(line=line.line, quantity=line.quantity, minor=line.amount_minor) for line in body.lines or ()
        ),
        note=body.reason,
        cause=call.cause,
    )


def _one_of(first: str, second: str, one: object, other: object, path: str) -> None:
    """Exactly one of two fields. Raises Problem naming the one that is missing or too much."""
    code: Literal["missing_field", "invalid_field"]
    if one is None and other is None:
        code, field = "missing_field", first
    elif one is not None and other is not None:
        code, field = "invalid_field", second
    else:
        return
    raise Problem(code, field=path + field)


def _merchant(call: Call[RefundRequestBody] | Call[None]) -> MerchantId:
    assert call.merchant is not None
    return call.merchant.merchant_id


def _parsed(prefix: str, text: str) -> UUID:
    try:
        return parse(prefix, text)
    except ValueError:
        raise Problem("not_found") from None


def _reply(status: int, body: bytes, headers: dict[str, str] | None = None) -> Reply:
    kind = _PROBLEM_TYPE if status >= 400 else "application/json"
    return Reply(status=status, content=body, headers=headers or {}, content_type=kind)
