"""The merchant's API: place an order, look at it; and the keys that payment tokens are verified with."""

from typing import Annotated, Final

import msgspec
from pydantic import Field

from defray_kernel.db import Database, ReadConn
from defray_kernel.fields import AmountMinorOrZero, CurrencyCode, RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply, replayed
from defray_kernel.idempotency import Replay
from defray_kernel.ids import MerchantId, OrderId, parse
from defray_kernel.problems import Problem, ProblemKind
from defray_order import announce
from defray_order.announce import OrderShown
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.commands.place_order import Cancelled, Conflict, NotWith, Outcome, PlaceOrder
from defray_order.commands.told import Told
from defray_order.commands.wishes import FieldProblem, wish_from
from defray_order.domain.coupon import CODES_MAX
from defray_order.entrypoints.buyers import BuyerBody, checked
from defray_order.entrypoints.payment_token import PaymentTokens
from defray_order.store import coupons, order_payments, order_refunds, orders, refund_requests

PROBLEMS: Final = (
    ProblemKind(code="merchant_disabled", status=403, title="The merchant places no orders at present"),
    ProblemKind(code="merchant_suspended", status=403, title="The merchant is suspended; it places no orders"),
    ProblemKind(code="amount_mismatch", status=422, title="The amounts do not add up to the minor unit"),
    ProblemKind(
        code="order_conflict", status=409, title="An order of other content has this merchant_order_no already"
    ),
    ProblemKind(
        code="order_cancelled", status=409, title="The order of this merchant_order_no was cancelled before it came"
    ),
)

_shown = msgspec.json.Decoder(OrderShown)


class ItemBody(RequestModel):
    """One line; it costs quantity × unit_amount_minor − discount_minor. Paid, it brings the `benefits` named by their ids."""

    sku: Annotated[str, Text(64)]
    title: Annotated[str, Text(200)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    unit_amount_minor: AmountMinorOrZero
    discount_minor: AmountMinorOrZero = 0
    benefits: Annotated[tuple[Annotated[str, Text(36)], ...], Field(max_length=3, strict=False)] = ()


class OrderBody(RequestModel):
    """An order; `amount_minor` must be what its lines cost together, less what its coupons take off, each off the rest."""

    merchant_order_no: Annotated[str, Text(64, pattern="^[!-~]+$")]
    currency: CurrencyCode
    amount_minor: AmountMinorOrZero
    items: Annotated[tuple[ItemBody, ...], Field(min_length=1, max_length=100, strict=False)]
    expires_in_s: Annotated[int, Field(ge=60, le=7 * 24 * 3600)] = 7200
    buyer: BuyerBody | None = None
    coupon_codes: Annotated[tuple[Annotated[str, Text(40)], ...], Field(max_length=CODES_MAX, strict=False)] = ()


class KeySet(msgspec.Struct, frozen=True, kw_only=True):
    """A JWKS (RFC 7517)."""

    keys: list[dict[str, str]]


class OrdersApi:
    """Handlers of the public port."""

    def __init__(
        self, database: Database, placing: GroupCommit[PlaceOrder, Outcome], tokens: PaymentTokens, vault: BuyerVault
    ) -> None:
        self._database, self._placing, self._tokens, self._vault = database, placing, tokens, vault

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route(
            "POST",
            "/v1/orders",
            self.place,
            summary="Place an order",
            request=OrderBody,
            response=OrderShown,
            status=201,
            also=(200,),  # the order of this merchant_order_no was placed before
            scope="orders:write",
            idempotency_key=True,
        )
        edge.route("GET", "/v1/orders/{order_id}", self.get, summary="Show an order",
                   response=OrderShown, scope="orders:read")  # fmt: skip
        edge.route("GET", "/.well-known/jwks.json", self.jwks, summary="Keys that payment tokens are verified with",
                   response=KeySet, auth="none")  # fmt: skip

    async def place(self, call: Call[OrderBody]) -> Reply:
        """Check what the database need not be asked for, then wait for the commit."""
        command = _command(call)
        if call.body.buyer is not None:
            command = await self._vault.sealed_into(command, checked(call.body.buyer))
        outcome = await self._placing.submit(command)
        match outcome:
            case Told(status=status, body=body):
                return Reply(status=status, content=self._with_token(body))
            case Conflict():
                raise Problem("order_conflict", field="merchant_order_no")
            case NotWith(code=code, field=field):
                raise Problem(code, field=field)
            case Cancelled():
                raise Problem("order_cancelled", field="merchant_order_no")
            case Replay(body=body):
                reply = replayed(outcome)
                assert reply is not None
                return msgspec.structs.replace(reply, content=self._with_token(body))
            case _:
                replayed(outcome)
                raise AssertionError(outcome)

    async def get(self, call: Call[None]) -> Reply:
        """One order of the caller's; what belongs to others is not there."""
        try:
            order_id = OrderId(parse("ord", call.path_params["order_id"]))
        except ValueError:
            raise Problem("not_found") from None
        async with self._database.read() as conn:
            found = await look_at(conn, _merchant(call), order_id)
        if found is None:
            raise Problem("not_found")
        return Reply(content=found)

    async def jwks(self, _call: Call[None]) -> Reply:
        """Public keys; a verifier may keep them for an hour."""
        return Reply(content=self._tokens.key_set(), headers={"Cache-Control": "max-age=3600"})

    def _with_token(self, body: bytes) -> bytes:
        order = _shown.decode(body)
        if order.amount_minor == 0:
            return body
        return msgspec.json.encode(msgspec.structs.replace(order, payment_token=self._tokens.sign(order)))


async def look_at(conn: ReadConn, merchant_id: MerchantId, order_id: OrderId) -> OrderShown | None:
    """One order of this merchant's with all that is known of it."""
    order = (await orders.get(conn, [order_id])).get(order_id)
    if order is None or order.merchant_id != merchant_id:
        return None
    payments = await order_payments.of_orders(conn, [order_id])
    requests = await refund_requests.of_order(conn, order_id, limit=refund_requests.PER_PAGE_MAX)
    steps = await refund_requests.steps(conn, [request.request_id for request in requests])
    return announce.shown(
        order,
        payments,
        await order_refunds.of_orders(conn, [order_id]),
        [announce.request_shown(request, steps) for request in requests],
        (await coupons.debts(conn, [order_id])).get(order_id, 0),
    )


def _command(call: Call[OrderBody]) -> PlaceOrder:
    assert call.merchant is not None
    assert call.idempotency_key is not None
    wish = wish_from(
        call.body,
        call.merchant,
        cause=call.cause,
        idempotency_key=call.idempotency_key,
        request_hash=call.request_hash,
    )
    if isinstance(wish, FieldProblem):
        raise Problem(wish.code, field=wish.field)
    return wish


def _merchant(call: Call[None]) -> MerchantId:
    assert call.merchant is not None
    return call.merchant.merchant_id
