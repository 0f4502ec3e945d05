"""The sandbox's levers on the channel, as JSON on a port of their own: payers, faults, callbacks, refunds, books."""

from aiohttp import web

from defray_sandbox.simulators.alipay.amounts import TOTAL_MAX
from defray_sandbox.simulators.alipay.api import GatewayApi, Operation
from defray_sandbox.simulators.alipay.bodies import OUT_REQUEST_NO, OUT_TRADE_NO
from defray_sandbox.simulators.alipay.channel import Channel, NotPossibleError
from defray_sandbox.simulators.alipay.errors import GatewayError
from defray_sandbox.simulators.alipay.ledger import Refund, RefundStatus, Trade, TradeStatus
from defray_sandbox.simulators.alipay.messages import AlipayMessages, SigningKeys, round_of
from defray_sandbox.simulators.alipay.notices import CallbackKind
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
from defray_sandbox.simulators.shapes import Flag, Integer, Record, Shape, Text

_CURRENCY = "CNY"
_LINK_CHARACTERS_MAX = 32 * 1024
_WHICH: dict[str, Shape] = {"out_trade_no": OUT_TRADE_NO, "link": Text(length_max=_LINK_CHARACTERS_MAX)}
_NUMBER = Record(required={"out_trade_no": OUT_TRADE_NO}, optional={})
_OPEN = Record(required={}, optional=_WHICH)
_PAY = Record(
    required={},
    optional={
        **_WHICH,
        "total": Integer(low=1, high=TOTAL_MAX),
        "callbacks": Integer(low=1, high=ROUND_KINDS_MAX),
        "concurrent": Flag(),
        "late": Flag(),
        "wait": Flag(),
    },
)
_SETTLE = Record(
    required={"out_trade_no": OUT_TRADE_NO, "out_request_no": OUT_REQUEST_NO, "outcome": OUTCOME},
    optional={"wait": Flag()},
)
# Everything that a notification may tell; a lying channel tells something else.
_OVERRIDES = ("app_id", "auth_app_id", "seller_id", "out_trade_no", "trade_no", "trade_status", "total_amount",
              "receipt_amount", "buyer_pay_amount", "refund_fee", "gmt_refund", "gmt_payment", "out_biz_no", "notify_id",
              "notify_type", "charset", "version", "passback_params", "subject", "body", "buyer_id")  # fmt: skip
_KEYS = Record(required={"generation": Integer(low=1, high=2)}, optional={})


class ControlApi:
    """Handlers of the control interface; refusals are 400 (shape), 404 (not there) and 409 (not possible now)."""

    def __init__(self, *, channel: Channel, api: GatewayApi, messages: AlipayMessages, signing: SigningKeys) -> None:
        self._channel = channel
        self._api = api
        self._messages = messages
        self._signing = signing
        self._shared = SharedLevers(
            plan=channel.plan, courier=channel.courier, clock=channel.clock, operations=tuple(Operation),
            kinds=tuple(CallbackKind), clock_moved=channel.come_due,
        )  # fmt: skip

    def routes(self) -> list[web.RouteDef]:
        """All levers; POST takes and gives JSON."""
        overrides: dict[str, Shape] = {name: Text(length_min=0, length_max=512) for name in _OVERRIDES}
        send = Record(
            required={"out_trade_no": OUT_TRADE_NO},
            optional={
                "out_request_no": OUT_REQUEST_NO,
                "kinds": self._shared.kinds,
                "concurrent": Flag(),
                "overrides": Record(required={}, optional=overrides),
                "dry_run": Flag(),
            },
        )
        return [
            *self._shared.routes(),
            lever("/control/open", _OPEN, self._open),
            lever("/control/pay", _PAY, self._pay),
            lever("/control/decline", _NUMBER, self._decline),
            lever("/control/expire", _NUMBER, self._expire),
            lever("/control/finish", _NUMBER, self._finish),
            lever("/control/refunds/settle", _SETTLE, self._settle),
            lever("/control/callbacks/send", send, self._send),
            lever("/control/keys", _KEYS, self._set_keys),
            lever("/control/reset", NOTHING, self._reset),
            web.get("/control/orders", self._orders),
            web.get("/control/orders/{out_trade_no}", self._order),
            web.get("/control/refunds", self._refunds),
            web.get("/control/statistics", self._statistics),
            web.get("/books", self._books),
        ]

    async def _open(self, body: Body) -> web.Response:
        trade = self._opened(body)
        return answer({"trade_no": trade.trade_no, "out_trade_no": trade.out_trade_no, "state": trade.status})

    async def _pay(self, body: Body) -> web.Response:
        """The payer opens the order, unless it is open, and pays."""
        late = bool(body.get("late", False))
        trade = self._find(body) if late else self._opened(body)
        total = body.get("total")
        try:
            notice = self._channel.capture(trade, total=None if total is None else integer(total), late=late)
        except NotPossibleError as error:
            raise conflict(str(error)) from error
        task = round_asked(body, round_of(notice))
        deliveries = await self._channel.courier.announce(task, wait=bool(body.get("wait", False)))
        return answer({
            "trade_no": trade.trade_no,
            "out_trade_no": trade.out_trade_no,
            "return_url": self._api.return_link(trade),
            "callbacks": told(deliveries),
        })  # fmt: skip

    async def _decline(self, body: Body) -> web.Response:
        self._channel.ledger.decline(self._find(body))
        return answer({})

    async def _expire(self, body: Body) -> web.Response:
        self._channel.ledger.expire(self._find(body), self._channel.clock.business_s())
        await self._channel.come_due()
        return answer({})

    async def _finish(self, body: Body) -> web.Response:
        try:
            await self._channel.finish(self._find(body))
        except NotPossibleError as error:
            raise conflict(str(error)) from error
        return answer({})

    async def _settle(self, body: Body) -> web.Response:
        refund = self._channel.ledger.find_refund(str(body["out_trade_no"]), str(body["out_request_no"]))
        if refund is None:
            raise missing("refund")
        try:
            deliveries = await self._channel.settle(
                refund, Outcome(str(body["outcome"])), wait=bool(body.get("wait", False))
            )
        except NotPossibleError as error:
            raise conflict(str(error)) from error
        return answer({"callbacks": told(deliveries)})

    async def _send(self, body: Body) -> web.Response:
        number, request_no = str(body["out_trade_no"]), str(body.get("out_request_no", ""))
        notice = self._channel.ledger.latest_notice(number, request_no)
        if notice is None:
            self._find(body)
            raise conflict("nothing was notified of it")
        task: Round = round_asked(body, round_of(notice))
        if body.get("dry_run", False):
            prepared = await self._messages.prepare(task)
            return answer({"callbacks": [
                {"kind": kind, "headers": made.headers, "body": made.body.decode()} for kind, made in prepared
            ]})  # fmt: skip
        return answer({"callbacks": told(await self._channel.courier.send(task))})

    async def _set_keys(self, body: Body) -> web.Response:
        """Choose the generation that signs replies and notifications from now on."""
        generation = integer(body["generation"])
        if generation > len(self._signing.keys.generations):
            raise conflict("there is only one generation of keys")
        self._signing.generation = generation - 1
        return answer({"alipay_cert_sn": self._signing.current.certificate_sn})

    async def _reset(self, _body: Body) -> web.Response:
        self._channel.plan.clear()
        self._channel.courier.forget()
        self._channel.courier.counts.clear()
        self._channel.create_requests.clear()
        self._channel.refund_requests.clear()
        self._api.requests.clear()
        self._channel.ledger.reset()
        return answer({})

    async def _books(self, _request: web.Request) -> web.Response:
        """What the channel took in and gave back, count and sum in fen."""
        ledger = self._channel.ledger
        paid = [trade.paid_total for trade in ledger.trades() if trade.paid_at_s]
        back = [refund.amount for refund in ledger.refunds() if refund.status is RefundStatus.SUCCESS]
        return answer({
            name: {_CURRENCY: {"count": len(amounts), "amount_minor": sum(amounts)}} if amounts else {}
            for name, amounts in (("captures", paid), ("refunds", back))
        })  # fmt: skip

    async def _orders(self, request: web.Request) -> web.Response:
        """Trades in the order of their opening, at most 1,000 a page: ?after=<out_trade_no>&state=TRADE_SUCCESS."""
        ledger = self._channel.ledger
        return answer({"orders": page(request, ledger.trades(), lambda trade: trade.out_trade_no, self._view)})

    async def _order(self, request: web.Request) -> web.Response:
        return answer(self._view(self._find({"out_trade_no": request.match_info["out_trade_no"]})))

    async def _refunds(self, request: web.Request) -> web.Response:
        """Refunds in the order of their acceptance, at most 1,000 a page: ?after=<out_request_no>&state=ACCEPTED."""
        ledger = self._channel.ledger
        refunds = page(request, ledger.refunds(), lambda refund: refund.out_request_no, self._refund_view)
        return answer({"refunds": refunds})

    async def _statistics(self, _request: web.Request) -> web.Response:
        """What was really done, once and for all trades: the proof of exactly once from the other side."""
        ledger, courier = self._channel.ledger, self._channel.courier
        applied = [trade.applied for trade in ledger.trades()]
        refunds = list(ledger.refunds())
        return answer({
            "codes_made": ledger.offers_made(),
            "orders_created": sum(counts.get("created", 0) for counts in applied),
            "orders_paid": sum(counts.get("paid", 0) for counts in applied),
            "orders_closed": sum(counts.get("closed", 0) for counts in applied),
            "orders_notified": sum(notice.taken for notice in ledger.notices() if notice.about == "paid"),
            "created_more_than_once": sum(counts.get("created", 0) > 1 for counts in applied),
            "paid_more_than_once": sum(counts.get("paid", 0) > 1 for counts in applied),
            "refunds_created": len(refunds),
            "refunds_succeeded": sum(refund.status is RefundStatus.SUCCESS for refund in refunds),
            "refunds_failed": sum(refund.status is RefundStatus.FAILED for refund in refunds),
            "refunds_notified": sum(notice.taken for notice in ledger.notices() if notice.about == "refunded"),
            "refunded_more_than_paid": sum(ledger.reserved(trade) > trade.paid_total for trade in ledger.trades()),
            "requests": dict(self._api.requests),
            "callbacks": dict(courier.counts),
            "callbacks_waiting": courier.waiting,
        })  # fmt: skip

    def _view(self, trade: Trade) -> dict[str, object]:
        return {
            "out_trade_no": trade.out_trade_no,
            "product": trade.product,
            "state": trade.status,
            "total": trade.total,
            "currency": _CURRENCY,
            "trade_no": trade.trade_no,
            "paid_total": trade.paid_total,
            "refunded": trade.refunded,
            "is_cancelled": trade.is_cancelled,
            "notify_url": trade.notify_url,
            "refunds": list(trade.refunds),
            "create_requests": self._channel.create_requests[trade.out_trade_no],
            "applied": dict(trade.applied),
        }

    def _refund_view(self, refund: Refund) -> dict[str, object]:
        return {
            "out_request_no": refund.out_request_no,
            "out_trade_no": refund.out_trade_no,
            "state": refund.status,
            "amount": refund.amount,
            "requests": self._channel.refund_requests[refund.out_request_no],
            "applied": dict(refund.applied),
        }

    def _opened(self, body: Body) -> Trade:
        number = str(body.get("out_trade_no", ""))
        trade = self._channel.ledger.find(number)
        if trade is not None and trade.status is TradeStatus.WAIT_BUYER_PAY:
            return trade
        try:
            if "link" in body:
                return self._api.open_link(str(body["link"]))
            offer = self._channel.ledger.offer(number)
            if offer is not None:
                return self._channel.open_offer(offer)
        except GatewayError as error:
            raise conflict(str(error)) from error
        if trade is None:
            raise missing("order")
        return trade

    def _find(self, body: Body) -> Trade:
        trade = self._channel.ledger.find(str(body.get("out_trade_no", "")))
        if trade is None:
            raise missing("order")
        return trade
