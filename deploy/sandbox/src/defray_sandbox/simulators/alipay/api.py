"""The public face of the channel: one gateway address, strict requests, signed response nodes, and planned faults."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from urllib.parse import urlencode

from aiohttp import web

from defray_sandbox.simulators.alipay.bodies import (
    OrderRequest,
    read_certificate,
    read_order,
    read_refund,
    read_refund_query,
    read_which,
)
from defray_sandbox.simulators.alipay.channel import Channel
from defray_sandbox.simulators.alipay.envelope import Envelope, open_envelope, read_form, read_link
from defray_sandbox.simulators.alipay.errors import MESSAGES, GatewayError, business, planned
from defray_sandbox.simulators.alipay.ledger import Trade, TradeStatus
from defray_sandbox.simulators.alipay.messages import SigningKeys
from defray_sandbox.simulators.alipay.notices import (
    pay_node,
    refund_node,
    refund_query_node,
    time_text,
    trade_node,
)
from defray_sandbox.simulators.alipay.signing import notice_content, sign
from defray_sandbox.simulators.faults import Action, Fault, serve
from defray_sandbox.simulators.server import Reply as Sent
from defray_sandbox.simulators.server import transmit
from defray_sandbox.simulators.shapes import ShapeError

GATEWAY = "/gateway.do"


class Operation(StrEnum):
    """The operations of the channel that faults are planned for."""

    PAGE = "page"
    WAP = "wap"
    PRECREATE = "precreate"
    PAY = "pay"
    CREATE = "create"
    QUERY = "query"
    CLOSE = "close"
    CANCEL = "cancel"
    REFUND = "refund"
    REFUND_QUERY = "refund_query"
    CERTIFICATE = "certificate"


_METHODS: dict[str, Operation] = {
    "alipay.trade.page.pay": Operation.PAGE,
    "alipay.trade.wap.pay": Operation.WAP,
    "alipay.trade.precreate": Operation.PRECREATE,
    "alipay.trade.pay": Operation.PAY,
    "alipay.trade.create": Operation.CREATE,
    "alipay.trade.query": Operation.QUERY,
    "alipay.trade.close": Operation.CLOSE,
    "alipay.trade.cancel": Operation.CANCEL,
    "alipay.trade.refund": Operation.REFUND,
    "alipay.trade.fastpay.refund.query": Operation.REFUND_QUERY,
    "alipay.open.app.alipaycert.download": Operation.CERTIFICATE,
}
# What the payer opens: an order string for an app is never sent to the gateway by the merchant.
_LINKS = {"alipay.trade.page.pay": "page", "alipay.trade.wap.pay": "wap", "alipay.trade.app.pay": "app"}
_BY_BROWSER = (Operation.PAGE, Operation.WAP)
_UNCHANGING = (Operation.QUERY, Operation.REFUND_QUERY, Operation.CERTIFICATE)
# What a reply looks like that claims a success although nothing was applied.
_COUNTERFEIT: dict[str, object] = {"trade_no": "never-applied", "qr_code": "https://qr.alipay.com/never-applied",
                                   "fund_change": "Y", "retry_flag": "N"}  # fmt: skip
_FORM = "application/x-www-form-urlencoded"
_NUMBERS = ("out_request_no", "out_trade_no", "trade_no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back before it is signed: a response node, or a page or rubbish as `raw`."""

    name: str = ""
    node: Mapping[str, object] | None = None
    status: int = HTTPStatus.OK
    raw: bytes = b""
    content_type: str = "text/html;charset=utf-8"
    certificate_mode: bool = False
    signed: bool = True
    forged: bool = False
    broken: bool = False


Act = Callable[[Envelope], Awaitable[Mapping[str, object]]]


class GatewayApi:
    """Handlers of the channel's HTTP interface."""

    def __init__(self, *, channel: Channel, signing: SigningKeys, signers: Executor,
                 app_id: str, seller_id: str) -> None:  # fmt: skip
        self.requests: Counter[str] = Counter()
        self._channel = channel
        self._signing = signing
        self._signers = signers
        self._app_id = app_id
        self._seller_id = seller_id
        self._acts: dict[Operation, Act] = {
            Operation.PRECREATE: self._precreate,
            Operation.PAY: self._pay,
            Operation.CREATE: self._create,
            Operation.QUERY: self._query,
            Operation.CLOSE: self._close,
            Operation.CANCEL: self._cancel,
            Operation.REFUND: self._refund,
            Operation.REFUND_QUERY: self._refund_query,
            Operation.CERTIFICATE: self._certificate,
        }

    def routes(self) -> list[web.RouteDef]:
        """The gateway; browsers come with GET as well."""
        return [web.post(GATEWAY, self._serve), web.get(GATEWAY, self._serve)]

    def open_link(self, link: str) -> Trade:
        """The payer opens a signed address, an order string or a QR code. Raises GatewayError or ShapeError."""
        offer = self._channel.ledger.offer_of(link)
        if offer is not None:
            return self._channel.open_offer(offer)
        return self._open(read_link(link))

    def return_link(self, trade: Trade) -> str | None:
        """Where the browser is sent after a payment, signed; the merchant must not believe it. None without an address."""
        if not trade.return_url:
            return None
        told = {
            "app_id": self._app_id,
            "auth_app_id": self._app_id,
            "charset": "utf-8",
            "method": f"alipay.trade.{trade.product}.pay.return",
            "out_trade_no": trade.out_trade_no,
            "seller_id": self._seller_id,
            "sign_type": "RSA2",
            "timestamp": time_text(self._channel.clock.real_s()),
            "total_amount": str(trade_node(trade)["total_amount"]),
            "trade_no": trade.trade_no,
            "version": "1.0",
        }
        told["sign"] = sign(self._signing.current.private, notice_content(told))
        return f"{trade.return_url}{'&' if '?' in trade.return_url else '?'}{urlencode(told)}"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            parameters = await self._parameters(request)
        except GatewayError as error:
            self.requests["unreadable"] += 1
            return await self._send(request, _refused("error_response", error))
        method = parameters.get("method", "")
        operation = _METHODS.get(method)
        self.requests[operation or "unknown"] += 1
        if operation is None:
            return await self._send(request, await self._attempt(request, parameters, method, None))
        plan = self._channel.plan
        name = f"{method.replace('.', '_')}_response"
        # A fault before the work leaves no trace, so the form of the reply is all that is known of the request.
        counterfeit = Reply(
            name=name, node=_success(_COUNTERFEIT), certificate_mode=bool(parameters.get("app_cert_sn"))
        )
        reply = await serve(
            plan,
            operation,
            _number_of(parameters) if plan.has_faults else "",
            act=partial(self._attempt, request, parameters, method, operation),
            counterfeit=None if operation in _UNCHANGING else lambda: counterfeit,
            spoil=_spoil,
        )
        return await self._send(request, reply)

    async def _parameters(self, request: web.Request) -> dict[str, str]:
        body = await request.read()
        if body and request.content_type != _FORM:
            raise GatewayError("40002", "isv.invalid-parameter", f"the body must be {_FORM}", signed=False)
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise GatewayError("40002", "isv.invalid-parameter", "the body is not UTF-8", signed=False) from error
        query, form = read_form(request.rel_url.raw_query_string), read_form(text)
        if query.keys() & form.keys():
            raise GatewayError("40002", "isv.invalid-parameter", "a parameter is repeated", signed=False)
        return query | form

    async def _attempt(
        self, request: web.Request, parameters: Mapping[str, str], method: str, operation: Operation | None
    ) -> Reply:
        name = f"{method.replace('.', '_')}_response"
        certificate_mode = bool(parameters.get("app_cert_sn"))
        try:
            if operation in _BY_BROWSER:
                return _page(self._open(parameters))
            envelope = open_envelope(
                parameters, self._signing.keys, app_id=self._app_id, now_s=self._channel.clock.real_s(),
                methods=frozenset(_METHODS), fresh=True,
            )  # fmt: skip
            if request.method != "POST":
                raise GatewayError("40002", "isv.invalid-method", "server calls are POST")
            assert operation is not None
            node = await self._acts[operation](envelope)
            return Reply(name=name, node=_success(node), certificate_mode=certificate_mode)
        except ShapeError as error:
            refusal = business("INVALID_PARAMETER", f"参数无效: {error}")
            return replace(_refused(name, refusal), certificate_mode=certificate_mode)
        except GatewayError as error:
            refused = _refused(name if error.signed else "error_response", error)
            return replace(refused, certificate_mode=certificate_mode)

    def _open(self, parameters: Mapping[str, str]) -> Trade:
        envelope = open_envelope(
            parameters, self._signing.keys, app_id=self._app_id, now_s=self._channel.clock.real_s(),
            methods=frozenset(_LINKS), fresh=False,
        )  # fmt: skip
        return self._channel.open(self._order(envelope, _LINKS[envelope.method]))

    def _order(self, envelope: Envelope, product: str) -> OrderRequest:
        return read_order(
            envelope.biz_content, product, seller_id=self._seller_id, now_s=self._channel.clock.business_s(),
            notify_url=envelope.notify_url, return_url=envelope.return_url,
        )  # fmt: skip

    async def _precreate(self, envelope: Envelope) -> Mapping[str, object]:
        order = self._order(envelope, "precreate")
        return {"out_trade_no": order.out_trade_no, "qr_code": self._channel.offer(order)}

    async def _pay(self, envelope: Envelope) -> Mapping[str, object]:
        trade = await self._channel.pay_by_code(self._order(envelope, "pay"))
        if trade.status is TradeStatus.WAIT_BUYER_PAY:
            waiting = {"code": "10003", "msg": MESSAGES["10003"]}
            return {**waiting, "out_trade_no": trade.out_trade_no, "trade_no": trade.trade_no}
        return pay_node(trade)

    async def _create(self, envelope: Envelope) -> Mapping[str, object]:
        trade = await self._channel.create(self._order(envelope, "create"))
        return {"out_trade_no": trade.out_trade_no, "trade_no": trade.trade_no}

    async def _query(self, envelope: Envelope) -> Mapping[str, object]:
        return trade_node(self._channel.find(read_which(envelope.biz_content, "query")))

    async def _close(self, envelope: Envelope) -> Mapping[str, object]:
        trade = self._channel.find(read_which(envelope.biz_content, "close"))
        await self._channel.close(trade)
        return {"out_trade_no": trade.out_trade_no, "trade_no": trade.trade_no}

    async def _cancel(self, envelope: Envelope) -> Mapping[str, object]:
        which = read_which(envelope.biz_content, "cancel")
        trade, action = await self._channel.cancel(which)
        if trade is None:
            return {"out_trade_no": which.out_trade_no, "retry_flag": "N"}
        return {
            "action": action,
            "out_trade_no": trade.out_trade_no,
            "retry_flag": "N",
            "trade_no": trade.trade_no,
        }

    async def _refund(self, envelope: Envelope) -> Mapping[str, object]:
        trade, refund, moved = await self._channel.refund(read_refund(envelope.biz_content))
        return refund_node(trade, refund, moved=moved)

    async def _refund_query(self, envelope: Envelope) -> Mapping[str, object]:
        which, number, with_time = read_refund_query(envelope.biz_content)
        trade = self._channel.find(which)
        refund = self._channel.ledger.find_refund(trade.out_trade_no, number)
        return refund_query_node(trade, refund, with_time=with_time)

    async def _certificate(self, envelope: Envelope) -> Mapping[str, object]:
        wanted = read_certificate(envelope.biz_content)
        for generation in self._signing.keys.generations:
            if generation.certificate_sn == wanted:
                return {"alipay_cert_content": base64.b64encode(generation.bundle).decode()}
        raise GatewayError("40004", "isv.invalid-alipay-cert-sn", "支付宝公钥证书序列号无效")

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        body = reply.raw
        if reply.node is not None:
            body = await self._text(reply)
        headers = {"Content-Type": reply.content_type}
        return await transmit(request, Sent(status=reply.status, body=body, headers=headers, broken=reply.broken))

    async def _text(self, reply: Reply) -> bytes:
        # Slashes come escaped, as the real gateway sends them: who serialises the node anew verifies another text.
        node = json.dumps(reply.node, ensure_ascii=False, separators=(",", ":")).replace("/", "\\/")
        parts = [f'"{reply.name}":{node}']
        key = self._signing.current
        if reply.certificate_mode:
            parts.append(f'"alipay_cert_sn":"{key.certificate_sn}"')
        if reply.signed:
            private = self._signing.keys.forger if reply.forged else key.private
            loop = asyncio.get_running_loop()
            parts.append(f'"sign":"{await loop.run_in_executor(self._signers, sign, private, node)}"')
        # A refusal may quote what is no valid Unicode.
        return f"{{{','.join(parts)}}}".encode(errors="backslashreplace")


async def _spoil(reply: Reply, fault: Fault) -> Reply:
    """The reply after a fault has struck it."""
    match fault.action:
        case Action.DELAY:
            return reply
        case Action.DROP:
            return Reply(broken=True)
        case Action.INTERNAL:
            return Reply(status=HTTPStatus.INTERNAL_SERVER_ERROR, raw=b"<html>500</html>")
        case Action.BAD_GATEWAY:
            return Reply(status=HTTPStatus.BAD_GATEWAY, raw=b"<html><head><title>502 Bad Gateway</title></head></html>")
        case Action.RATE_LIMITED:
            # This channel has no status 429: it says so in the node.
            return replace(reply, node=planned("40005").to_node())
        case Action.REFUSE:
            return replace(reply, node=planned(fault.code).to_node())
        case Action.GARBAGE:
            return Reply(raw=b'{"alipay_trade_query_response":{"code":"10000","msg":"\xff\xfe')
        case Action.UNSIGNED:
            return replace(reply, signed=False)
        case Action.WRONG_KEY:
            return replace(reply, forged=True)
        case Action.TRUNCATED:
            return replace(reply, broken=True)


def _success(node: Mapping[str, object]) -> dict[str, object]:
    return {"code": "10000", "msg": MESSAGES["10000"], **node}


def _refused(name: str, error: GatewayError) -> Reply:
    return Reply(name=name, node=error.to_node(), signed=error.signed)


def _page(trade: Trade) -> Reply:
    """What a browser is shown; a person would log in and pay here."""
    text = f"<html><title>Simulated cashier</title><p>Trade {trade.trade_no} waits for its payer.</p></html>"
    return Reply(raw=text.encode())


def _number_of(parameters: Mapping[str, str]) -> str:
    """The business number that a fault is planned by, of the refund if there is one; "" when it cannot be read."""
    try:
        value = json.loads(parameters.get("biz_content", ""))
    except (ValueError, RecursionError):
        return ""
    found = value if isinstance(value, dict) else {}
    return next((str(found[name]) for name in _NUMBERS if name in found), "")
