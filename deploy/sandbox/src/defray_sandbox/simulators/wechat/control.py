"""The sandbox's levers on the channel, as JSON on a port of their own: payers, faults, callbacks, books."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import cast

from aiohttp import web

from defray_sandbox.simulators.wechat import batch
from defray_sandbox.simulators.wechat.api import ChannelApi
from defray_sandbox.simulators.wechat.channel import Channel, NotPayableError, books, duplicates, order_view
from defray_sandbox.simulators.wechat.courier import ROUND_KINDS_MAX, Round
from defray_sandbox.simulators.wechat.errors import ChannelError
from defray_sandbox.simulators.wechat.faults import (
    Action,
    CallbackKind,
    CallbackPlan,
    Chance,
    Fault,
    Moment,
    Operation,
)
from defray_sandbox.simulators.wechat.keys import ChannelKeys
from defray_sandbox.simulators.wechat.ledger import Order, TradeState
from defray_sandbox.simulators.wechat.orders import OUT_TRADE_NO, TOTAL_MAX
from defray_sandbox.simulators.wechat.shapes import (
    Flag,
    Integer,
    ListOf,
    Number,
    OneOf,
    Record,
    Shape,
    Text,
    read_object,
)

_PAGE_MAX = 1000
_DELAY_S_MAX = 600.0
_CURRENCY = Text(length_min=3, length_max=3, pattern="[A-Z]{3}")
_KINDS = ListOf(item=OneOf(words=tuple(CallbackKind)), count_max=ROUND_KINDS_MAX)
_CHANCE: dict[str, Shape] = {
    "orders": Text(length_max=64),
    "count": Integer(low=1, high=10**6),
    "probability": Number(low=0, high=1),
    "seed": Integer(low=0, high=2**63),
}
_NUMBER = Record(required={"out_trade_no": OUT_TRADE_NO}, optional={})
_PAY = Record(
    required={"out_trade_no": OUT_TRADE_NO},
    optional={
        "total": Integer(low=1, high=TOTAL_MAX),
        "currency": _CURRENCY,
        "callbacks": Integer(low=1, high=ROUND_KINDS_MAX),
        "concurrent": Flag(),
        "wait": Flag(),
    },
)
_FAULT = Record(
    required={"action": OneOf(words=tuple(Action))},
    optional={
        **_CHANCE,
        "operation": OneOf(words=tuple(Operation)),
        "moment": OneOf(words=tuple(Moment)),
        "delay_s": Number(low=0, high=_DELAY_S_MAX),
        "retry_after_s": Integer(low=0, high=3600),
        "code": Text(length_max=64),
    },
)
_CALLBACKS = Record(
    required={},
    optional={
        **_CHANCE,
        "kinds": _KINDS,
        "duplicates": Integer(low=1, high=ROUND_KINDS_MAX),
        "concurrent": Flag(),
        "delay_s": Number(low=0, high=_DELAY_S_MAX),
        "never": Flag(),
        "before_answer": Flag(),
    },
)
_OVERRIDES = Record(
    required={},
    optional={
        "appid": Text(length_max=32),
        "mchid": Text(length_max=32),
        "out_trade_no": Text(length_max=64),
        "transaction_id": Text(length_max=64),
        "trade_state": Text(length_max=32),
        "trade_type": Text(length_max=32),
        "attach": Text(length_min=0, length_max=128),
        "success_time": Text(length_max=64),
        "amount": Record(
            required={},
            optional={
                "total": Integer(low=-TOTAL_MAX, high=TOTAL_MAX),
                "payer_total": Integer(low=-TOTAL_MAX, high=TOTAL_MAX),
                "currency": _CURRENCY,
                "payer_currency": _CURRENCY,
            },
        ),
    },
)
_SEND = Record(
    required={"out_trade_no": OUT_TRADE_NO},
    optional={"kinds": _KINDS, "concurrent": Flag(), "overrides": _OVERRIDES, "dry_run": Flag()},
)
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
_CLOCK = Record(required={"offset_s": Number(low=0, high=10**9)}, optional={})
_KEYS = Record(required={"callback_generation": Integer(low=1, high=2)}, optional={})
_NOTHING = Record(required={}, optional={})

Body = dict[str, object]
Lever = Callable[[Body], Awaitable[web.StreamResponse]]


class ControlApi:
    """Handlers of the control interface; refusals are 400 (shape), 404 (no such order) and 409 (not possible now)."""

    def __init__(self, *, channel: Channel, api: ChannelApi, keys: ChannelKeys, signers: Executor,
                 appid: str, mchid: str) -> None:  # fmt: skip
        self._channel = channel
        self._api = api
        self._keys = keys
        self._signers = signers
        self._appid = appid
        self._mchid = mchid

    def routes(self) -> list[web.RouteDef]:
        """All levers; POST takes and gives JSON."""
        levers: dict[str, tuple[Record, Lever]] = {
            "/control/pay": (_PAY, self._pay),
            "/control/decline": (_NUMBER, self._decline),
            "/control/expire": (_NUMBER, self._expire),
            "/control/faults": (_FAULT, self._plan_fault),
            "/control/faults/clear": (_NOTHING, self._clear),
            "/control/callbacks": (_CALLBACKS, self._plan_callbacks),
            "/control/callbacks/send": (_SEND, self._send),
            "/control/clock": (_CLOCK, self._move_clock),
            "/control/keys": (_KEYS, self._rotate),
            "/control/reset": (_NOTHING, self._reset),
        }
        posts = [web.post(path, _lever(shape, act)) for path, (shape, act) in levers.items()]
        gets = {"/health": self._health, "/control/orders": self._orders, "/control/statistics": self._statistics,
                "/books": self._books}  # fmt: skip
        return [
            *posts,
            *(web.get(path, handler) for path, handler in gets.items()),
            web.get("/control/orders/{out_trade_no}", self._order),
            web.post("/control/callbacks/batch", self._batch),
        ]

    async def _pay(self, body: Body) -> web.Response:
        order = self._find(body)
        total, currency = body.get("total"), body.get("currency")
        try:
            self._channel.capture(
                order,
                total=None if total is None else _int(total),
                currency=None if currency is None else str(currency),
            )
        except NotPayableError as error:
            raise _conflict(f"the order cannot be paid: {error}") from error
        task = Round(
            out_trade_no=order.out_trade_no,
            kinds=duplicates(_int(body.get("callbacks", 1))),
            concurrent=bool(body.get("concurrent", False)),
        )
        deliveries = await self._channel.announce(task, wait=bool(body.get("wait", False)))
        return _answer({
            "transaction_id": order.transaction_id,
            "callbacks": [{"kind": delivery.kind, "status": delivery.status} for delivery in deliveries],
        })  # fmt: skip

    async def _decline(self, body: Body) -> web.Response:
        self._channel.ledger.decline(self._find(body))
        return _answer({})

    async def _expire(self, body: Body) -> web.Response:
        self._channel.ledger.expire(self._find(body), self._channel.clock.business_s())
        return _answer({})

    async def _plan_fault(self, body: Body) -> web.Response:
        retry_after = body.get("retry_after_s")
        try:
            self._channel.plan.add(
                Fault(
                    chance=_chance(body),
                    operation=Operation(str(body.get("operation", Operation.ANY))),
                    moment=Moment(str(body.get("moment", Moment.AFTER_APPLY))),
                    action=Action(str(body["action"])),
                    delay_s=_number(body.get("delay_s", 0)),
                    retry_after_s=None if retry_after is None else _int(retry_after),
                    code=str(body.get("code", "SYSTEM_ERROR")),
                )
            )
        except ValueError as error:
            raise _conflict(str(error)) from error
        return _answer({})

    async def _plan_callbacks(self, body: Body) -> web.Response:
        kinds = [CallbackKind(word) for word in cast("list[str]", body.get("kinds", [CallbackKind.GENUINE]))]
        try:
            self._channel.plan.add_callbacks(
                CallbackPlan(
                    chance=_chance(body),
                    kinds=duplicates(_int(body["duplicates"])) if "duplicates" in body else kinds,
                    concurrent=bool(body.get("concurrent", False)),
                    delay_s=_number(body.get("delay_s", 0)),
                    never=bool(body.get("never", False)),
                    before_answer=bool(body.get("before_answer", False)),
                )
            )
        except ValueError as error:
            raise _conflict(str(error)) from error
        return _answer({})

    async def _clear(self, _body: Body) -> web.Response:
        self._channel.plan.clear()
        return _answer({})

    async def _send(self, body: Body) -> web.Response:
        order = self._find(body)
        if order.state is not TradeState.SUCCESS:
            raise _conflict("only a paid order has callbacks")
        task = Round(
            out_trade_no=order.out_trade_no,
            kinds=[CallbackKind(word) for word in cast("list[str]", body.get("kinds", [CallbackKind.GENUINE]))],
            concurrent=bool(body.get("concurrent", False)),
            overrides=cast("dict[str, object]", body.get("overrides", {})),
        )
        if body.get("dry_run", False):
            prepared = await self._channel.courier.prepare(task)
            return _answer({"callbacks": [
                {"kind": kind, "headers": notice.headers, "body": notice.body.decode()} for kind, notice in prepared
            ]})  # fmt: skip
        deliveries = await self._channel.courier.send(task)
        return _answer({
            "callbacks": [{"kind": delivery.kind, "status": delivery.status} for delivery in deliveries],
        })  # fmt: skip

    async def _move_clock(self, body: Body) -> web.Response:
        return _answer({"offset_s": self._channel.clock.move_to_offset(_number(body["offset_s"]))})

    async def _rotate(self, body: Body) -> web.Response:
        generation = _int(body["callback_generation"])
        if generation > len(self._keys.generations):
            raise _conflict("there is only one generation of platform keys")
        self._channel.courier.generation = generation - 1
        return _answer({"serial": self._keys.generations[generation - 1].serial})

    async def _reset(self, _body: Body) -> web.Response:
        self._channel.plan.clear()
        self._channel.courier.forget()
        self._channel.courier.counts.clear()
        self._channel.create_requests.clear()
        self._api.requests.clear()
        self._channel.ledger.reset()
        return _answer({})

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        """Signed callbacks of synthetic orders, streamed as JSON lines."""
        raw = await request.read()
        # A long list of orders is larger than what a channel would take, so the size limit is the server's.
        try:
            body = read_object(raw, _BATCH, bytes_max=len(raw))
        except ChannelError as error:
            return _answer(error.to_json(), HTTPStatus.BAD_REQUEST)
        real_s = self._channel.clock.real_s()
        terms = batch.BatchTerms(
            appid=self._appid,
            mchid=self._mchid,
            signed_at_s=real_s + _int(body.get("ahead_s", 0)),
            paid_at_s=self._channel.clock.business_s(),
        )
        total = _int(body.get("total", 100))
        payments = batch.series(str(body.get("prefix", "BENCH")), _int(body.get("count", 1)), total, "CNY")
        if "orders" in body:
            listed = cast("list[dict[str, object]]", body["orders"])
            payments = (
                batch.Payment(out_trade_no=str(item["out_trade_no"]), total=_int(item["total"]),
                              currency=str(item.get("currency", "CNY")))
                for item in listed
            )  # fmt: skip
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        produced = batch.lines(self._signers, self._keys, terms, payments)
        while (chunk := await asyncio.to_thread(next, produced, None)) is not None:
            await response.write(chunk)
        return response

    async def _health(self, _request: web.Request) -> web.Response:
        return _answer({"status": "ok"})

    async def _books(self, _request: web.Request) -> web.Response:
        return _answer(books(self._channel.ledger))

    async def _orders(self, request: web.Request) -> web.Response:
        """Orders in the order of their creation, at most 1,000 a page: ?after=<out_trade_no>&state=SUCCESS."""
        after, state = request.query.get("after"), request.query.get("state")
        found: list[object] = []
        started = after is None
        for order in self._channel.ledger:
            if started and len(found) < _PAGE_MAX:
                view = self._view(order)
                if state is None or view["state"] == state:
                    found.append(view)
            started = started or order.out_trade_no == after
        return _answer({"orders": found})

    async def _order(self, request: web.Request) -> web.Response:
        order = self._channel.ledger.find(request.match_info["out_trade_no"])
        if order is None:
            return _answer({"message": "no such order"}, HTTPStatus.NOT_FOUND)
        return _answer(dict(self._view(order)))

    async def _statistics(self, _request: web.Request) -> web.Response:
        """What was really done, once and for all orders: the proof of exactly once from the other side."""
        ledger, courier = self._channel.ledger, self._channel.courier
        applied = [order.applied for order in ledger]
        return _answer({
            "orders_created": sum(counts.get("created", 0) for counts in applied),
            "orders_paid": sum(counts.get("paid", 0) for counts in applied),
            "orders_closed": sum(counts.get("closed", 0) for counts in applied),
            "orders_notified": sum(order.notified for order in ledger),
            "created_more_than_once": sum(counts.get("created", 0) > 1 for counts in applied),
            "paid_more_than_once": sum(counts.get("paid", 0) > 1 for counts in applied),
            "requests": dict(self._api.requests),
            "callbacks": dict(courier.counts),
            "callbacks_waiting": courier.waiting,
        })  # fmt: skip

    def _view(self, order: Order) -> dict[str, object]:
        state = self._channel.ledger.state_at(order, self._channel.clock.business_s())
        return dict(order_view(order, state, self._channel.create_requests[order.out_trade_no]))

    def _find(self, body: Body) -> Order:
        order = self._channel.ledger.find(str(body["out_trade_no"]))
        if order is None:
            raise web.HTTPNotFound(text='{"message":"no such order"}', content_type="application/json")
        return order


def _lever(shape: Record, act: Lever) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            return await act(read_object(raw or b"{}", shape))
        except ChannelError as error:
            return _answer(error.to_json(), HTTPStatus.BAD_REQUEST)

    return handle


def _chance(body: Body) -> Chance:
    count = body.get("count")
    return Chance(
        orders=str(body.get("orders", "*")),
        count=None if count is None else _int(count),
        probability=_number(body.get("probability", 1)),
        seed=_int(body.get("seed", 0)),
    )


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _conflict(message: str) -> web.HTTPConflict:
    return web.HTTPConflict(text=json.dumps({"message": message}), content_type="application/json")


def _answer(value: dict[str, object], status: int = HTTPStatus.OK) -> web.Response:
    return web.json_response(value, status=status)
