"""The sandbox's levers on the channel, as JSON on a port of their own: payers, faults, callbacks, refunds, books."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from http import HTTPStatus
from typing import cast

from aiohttp import web

from defray_sandbox.simulators.courier import ROUND_KINDS_MAX, Round
from defray_sandbox.simulators.faults import Outcome
from defray_sandbox.simulators.levers import (
    NOTHING,
    OUTCOME,
    Body,
    SharedLevers,
    answer,
    conflict,
    integer,
    lever,
    missing,
    page,
    round_asked,
    told,
)
from defray_sandbox.simulators.shapes import Flag, Integer, ListOf, Record, Shape, ShapeError, Text, read_object
from defray_sandbox.simulators.wechat import batch
from defray_sandbox.simulators.wechat.api import ChannelApi, Operation
from defray_sandbox.simulators.wechat.channel import Channel, NotPayableError, books, order_view, refund_view
from defray_sandbox.simulators.wechat.ledger import Order, Refund, RefundStatus
from defray_sandbox.simulators.wechat.messages import SigningKeys, WechatMessages
from defray_sandbox.simulators.wechat.notices import CallbackKind
from defray_sandbox.simulators.wechat.orders import OUT_TRADE_NO, TOTAL_MAX
from defray_sandbox.simulators.wechat.refunds import OUT_REFUND_NO, NotSettleableError

_CURRENCY = Text(length_min=3, length_max=3, pattern="[A-Z]{3}")
_MINOR = Integer(low=-TOTAL_MAX, high=TOTAL_MAX)
_NUMBER = Record(required={"out_trade_no": OUT_TRADE_NO}, optional={})
_PAY = Record(
    required={"out_trade_no": OUT_TRADE_NO},
    optional={
        "total": Integer(low=1, high=TOTAL_MAX),
        "currency": _CURRENCY,
        "callbacks": Integer(low=1, high=ROUND_KINDS_MAX),
        "concurrent": Flag(),
        "late": Flag(),
        "wait": Flag(),
    },
)
_SETTLE = Record(required={"out_refund_no": OUT_REFUND_NO, "outcome": OUTCOME}, optional={"wait": Flag()})
_WORDS = ("appid", "mchid", "transaction_id", "trade_state", "trade_type", "success_time", "out_refund_no", "refund_id",
          "refund_status", "user_received_account")  # fmt: skip
_AMOUNTS = ("total", "payer_total", "refund", "payer_refund")
_OVERRIDE: dict[str, Shape] = {
    **{name: Text(length_max=64) for name in (*_WORDS, "out_trade_no")},
    "attach": Text(length_min=0, length_max=128),
    "amount": Record(
        required={},
        optional={**dict.fromkeys(_AMOUNTS, _MINOR), "currency": _CURRENCY, "payer_currency": _CURRENCY},
    ),
}
_PAYMENT = Record(
    required={"out_trade_no": OUT_TRADE_NO, "total": Integer(low=1, high=TOTAL_MAX)},
    optional={"currency": _CURRENCY},
)
_BATCH = Record(
    required={},
    optional={
        "orders": ListOf(item=_PAYMENT, count_max=batch.BATCH_MAX),
        "count": Integer(low=1, high=batch.BATCH_MAX),
        "prefix": Text(length_min=0, length_max=20, pattern=r"[0-9A-Za-z_\-]*"),
        "total": Integer(low=1, high=TOTAL_MAX),
        "ahead_s": Integer(low=-10_000, high=10_000),
    },
)
_GENERATION = Integer(low=1, high=2)
_KEYS = Record(
    required={},
    optional={
        "callback_generation": _GENERATION,
        "certificate_generation": _GENERATION,
        "certificates_published": _GENERATION,
        "public_key_percent": Integer(low=0, high=100),
    },
)


class ControlApi:
    """Handlers of the control interface; refusals are 400 (shape), 404 (not there) and 409 (not possible now)."""

    def __init__(self, *, channel: Channel, api: ChannelApi, messages: WechatMessages, signing: SigningKeys,
                 signers: Executor, appid: str, mchid: str) -> None:  # fmt: skip
        self._channel = channel
        self._api = api
        self._courier = channel.courier
        self._plan = channel.plan
        self._messages = messages
        self._signing = signing
        self._signers = signers
        self._appid = appid
        self._mchid = mchid
        self._shared = SharedLevers(
            plan=channel.plan, courier=channel.courier, clock=channel.clock, operations=tuple(Operation), kinds=tuple(CallbackKind),
            clock_moved=channel.settle_due_refunds,
        )  # fmt: skip

    def routes(self) -> list[web.RouteDef]:
        """All levers; POST takes and gives JSON."""
        send = Record(
            required={},
            optional={
                "out_trade_no": OUT_TRADE_NO,
                "out_refund_no": OUT_REFUND_NO,
                "kinds": self._shared.kinds,
                "concurrent": Flag(),
                "overrides": Record(required={}, optional=_OVERRIDE),
                "dry_run": Flag(),
            },
        )
        return [
            *self._shared.routes(),
            lever("/control/pay", _PAY, self._pay),
            lever("/control/decline", _NUMBER, self._decline),
            lever("/control/expire", _NUMBER, self._expire),
            lever("/control/refunds/settle", _SETTLE, self._settle),
            lever("/control/callbacks/send", send, self._send),
            lever("/control/keys", _KEYS, self._set_keys),
            lever("/control/reset", NOTHING, self._reset),
            web.post("/control/callbacks/batch", self._batch),
            web.get("/control/orders", self._orders),
            web.get("/control/orders/{out_trade_no}", self._order),
            web.get("/control/refunds", self._refunds),
            web.get("/control/refunds/{out_refund_no}", self._refund),
            web.get("/control/statistics", self._statistics),
            web.get("/books", self._books),
        ]

    async def _pay(self, body: Body) -> web.Response:
        order = self._find(body)
        total, currency = body.get("total"), body.get("currency")
        try:
            self._channel.capture(
                order,
                total=None if total is None else integer(total),
                currency=None if currency is None else str(currency),
                late=bool(body.get("late", False)),
            )
        except NotPayableError as error:
            raise conflict(f"the order cannot be paid: {error}") from error
        task = round_asked(body, Round(out_trade_no=order.out_trade_no))
        deliveries = await self._courier.announce(task, wait=bool(body.get("wait", False)))
        return answer({"transaction_id": order.transaction_id, "callbacks": told(deliveries)})

    async def _decline(self, body: Body) -> web.Response:
        self._channel.ledger.decline(self._find(body))
        return answer({})

    async def _expire(self, body: Body) -> web.Response:
        self._channel.ledger.expire(self._find(body), self._channel.clock.business_s())
        return answer({})

    async def _settle(self, body: Body) -> web.Response:
        refund = self._find_refund(body)
        try:
            self._channel.refunds.settle(refund, Outcome(str(body["outcome"])))
        except NotSettleableError as error:
            raise conflict(str(error)) from error
        deliveries = await self._channel.announce_refund(refund, wait=bool(body.get("wait", False)))
        return answer({"refund_id": refund.refund_id, "callbacks": told(deliveries)})

    async def _send(self, body: Body) -> web.Response:
        task = round_asked(body, self._subject(body))
        if body.get("dry_run", False):
            prepared = await self._messages.prepare(task)
            return answer({"callbacks": [
                {"kind": kind, "headers": notice.headers, "body": notice.body.decode()} for kind, notice in prepared
            ]})  # fmt: skip
        return answer({"callbacks": told(await self._courier.send(task))})

    def _subject(self, body: Body) -> Round:
        if "out_refund_no" in body:
            refund = self._find_refund(body)
            if not refund.event_id:
                raise conflict("only a settled refund has callbacks")
            return Round(out_trade_no=refund.out_trade_no, refund=refund.out_refund_no, topic=refund.event_id)
        order = self._find(body)
        if not order.transaction_id:
            raise conflict("only a paid order has callbacks")
        return Round(out_trade_no=order.out_trade_no)

    async def _set_keys(self, body: Body) -> web.Response:
        """Choose the keys that sign: generations, published certificates, and how far the migration has come."""
        signing, keys = self._signing, self._signing.keys
        of_keys = {"callback_generation": keys.generations, "certificate_generation": keys.certificates,
                   "certificates_published": keys.certificates}  # fmt: skip
        for name, held in of_keys.items():
            if integer(body.get(name, 0)) > len(held):
                raise conflict(f"{name}: there are only {len(held)} keys")
        percent = integer(body.get("public_key_percent", signing.public_key_percent))
        if percent < 100 and not signing.has_certificates:
            raise conflict("this channel has no platform certificates")
        signing.public_key_percent = percent
        signing.generation = integer(body.get("callback_generation", signing.generation + 1)) - 1
        signing.certificate = integer(body.get("certificate_generation", signing.certificate + 1)) - 1
        signing.published = integer(body.get("certificates_published", signing.published))
        certificates = [key.serial for key in keys.certificates]
        return answer({
            "serial": keys.generations[signing.generation].serial,
            "certificate_serial": certificates[signing.certificate] if certificates else None,
            "certificates_published": certificates[: signing.published],
            "public_key_percent": percent,
        })  # fmt: skip

    async def _reset(self, _body: Body) -> web.Response:
        self._plan.clear()
        self._courier.forget()
        self._courier.counts.clear()
        self._channel.create_requests.clear()
        self._channel.refund_requests.clear()
        self._api.requests.clear()
        self._channel.ledger.reset()
        return answer({})

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        """Signed callbacks of synthetic orders, streamed as JSON lines."""
        raw = await request.read()
        # A long list of orders is larger than what a channel would take, so the size limit is the server's.
        try:
            body = read_object(raw, _BATCH, bytes_max=len(raw))
        except ShapeError as error:
            return answer({"message": str(error), "field": error.at}, HTTPStatus.BAD_REQUEST)
        real_s = self._channel.clock.real_s()
        terms = batch.BatchTerms(
            appid=self._appid,
            mchid=self._mchid,
            signed_at_s=real_s + integer(body.get("ahead_s", 0)),
            paid_at_s=self._channel.clock.business_s(),
        )
        total = integer(body.get("total", 100))
        payments = batch.series(str(body.get("prefix", "BENCH")), integer(body.get("count", 1)), total, "CNY")
        if "orders" in body:
            listed = cast("Sequence[dict[str, object]]", body["orders"])
            payments = (
                batch.Payment(out_trade_no=str(item["out_trade_no"]), total=integer(item["total"]),
                              currency=str(item.get("currency", "CNY")))
                for item in listed
            )  # fmt: skip
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        produced = batch.lines(self._signers, self._signing.keys, terms, payments)
        while (chunk := await asyncio.to_thread(next, produced, None)) is not None:
            await response.write(chunk)
        return response

    async def _books(self, _request: web.Request) -> web.Response:
        return answer(books(self._channel.ledger))

    async def _orders(self, request: web.Request) -> web.Response:
        """Orders in the order of their creation, at most 1,000 a page: ?after=<out_trade_no>&state=SUCCESS."""
        return answer({"orders": page(request, self._channel.ledger, lambda order: order.out_trade_no, self._view)})

    async def _order(self, request: web.Request) -> web.Response:
        return answer(self._view(self._find({"out_trade_no": request.match_info["out_trade_no"]})))

    async def _refunds(self, request: web.Request) -> web.Response:
        """Refunds in the order of their creation, at most 1,000 a page: ?after=<out_refund_no>&state=ABNORMAL."""
        refunds = page(request, self._channel.ledger.refunds(), lambda refund: refund.out_refund_no, self._refund_view)
        return answer({"refunds": refunds})

    async def _refund(self, request: web.Request) -> web.Response:
        return answer(self._refund_view(self._find_refund({"out_refund_no": request.match_info["out_refund_no"]})))

    async def _statistics(self, _request: web.Request) -> web.Response:
        """What was really done, once and for all orders: the proof of exactly once from the other side."""
        ledger, courier = self._channel.ledger, self._courier
        applied = [order.applied for order in ledger]
        refunds = list(ledger.refunds())
        return answer({
            "orders_created": sum(counts.get("created", 0) for counts in applied),
            "orders_paid": sum(counts.get("paid", 0) for counts in applied),
            "orders_closed": sum(counts.get("closed", 0) for counts in applied),
            "orders_reversed": sum(counts.get("reversed", 0) for counts in applied),
            "orders_notified": sum(order.notified for order in ledger),
            "created_more_than_once": sum(counts.get("created", 0) > 1 for counts in applied),
            "paid_more_than_once": sum(counts.get("paid", 0) > 1 for counts in applied),
            "refunds_created": len(refunds),
            "refunds_succeeded": sum(refund.status is RefundStatus.SUCCESS for refund in refunds),
            "refunds_abnormal": sum(refund.status is RefundStatus.ABNORMAL for refund in refunds),
            "refunds_closed": sum(refund.status is RefundStatus.CLOSED for refund in refunds),
            "refunds_notified": sum(refund.notified for refund in refunds),
            "refunded_more_than_paid": sum(ledger.reserved(order) > order.paid_total for order in ledger),
            "requests": dict(self._api.requests),
            "callbacks": dict(courier.counts),
            "callbacks_waiting": courier.waiting,
        })  # fmt: skip

    def _view(self, order: Order) -> dict[str, object]:
        state = self._channel.ledger.state_at(order, self._channel.clock.business_s())
        return dict(order_view(order, state, self._channel.create_requests[order.out_trade_no]))

    def _refund_view(self, refund: Refund) -> dict[str, object]:
        return dict(refund_view(refund, self._channel.refund_requests[refund.out_refund_no]))

    def _find(self, body: Body) -> Order:
        order = self._channel.ledger.find(str(body.get("out_trade_no", "")))
        if order is None:
            raise missing("order")
        return order

    def _find_refund(self, body: Body) -> Refund:
        refund = self._channel.ledger.find_refund(str(body["out_refund_no"]))
        if refund is None:
            raise missing("refund")
        return refund
