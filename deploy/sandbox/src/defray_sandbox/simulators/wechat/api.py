"""The public face of the channel: WeChat Pay v3 paths, strict requests, signed replies, and planned faults."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from http import HTTPStatus

from aiohttp import web
from cryptography import x509

from defray_sandbox.simulators.faults import Action, Fault, serve
from defray_sandbox.simulators.server import Reply as Sent
from defray_sandbox.simulators.server import transmit
from defray_sandbox.simulators.shapes import ShapeError
from defray_sandbox.simulators.wechat.channel import Channel
from defray_sandbox.simulators.wechat.errors import STATUS, ChannelError, Code, of_shape
from defray_sandbox.simulators.wechat.messages import SigningKeys
from defray_sandbox.simulators.wechat.notices import to_text
from defray_sandbox.simulators.wechat.orders import (
    check_mchid,
    check_out_trade_no,
    read_close,
    read_order,
    read_reverse,
)
from defray_sandbox.simulators.wechat.refunds import read_refund
from defray_sandbox.simulators.wechat.signing import SigningBench, check_authorization, seal


class Operation(StrEnum):
    """The operations of the channel that faults are planned for."""

    NATIVE = "native"
    JSAPI = "jsapi"
    H5 = "h5"
    APP = "app"
    CODEPAY = "codepay"
    QUERY = "query"
    QUERY_ID = "query_id"
    CLOSE = "close"
    REVERSE = "reverse"
    REFUND = "refund"
    REFUND_QUERY = "refund_query"
    CERTIFICATES = "certificates"


_PREFIX = "/v3/pay/transactions"
_REFUNDS = "/v3/refund/domestic/refunds"
_PRODUCTS = (Operation.NATIVE, Operation.JSAPI, Operation.H5, Operation.APP, Operation.CODEPAY)
# What a reply looks like that claims a success although nothing was applied; None = 204.
_COUNTERFEITS: dict[Operation, dict[str, object] | None] = {
    Operation.NATIVE: {"code_url": "weixin://wxpay/bizpayurl?pr=never-applied"},
    Operation.JSAPI: {"prepay_id": "wx-never-applied"},
    Operation.APP: {"prepay_id": "wx-never-applied"},
    Operation.H5: {"h5_url": "https://wx.tenpay.com/never-applied"},
    Operation.CODEPAY: {"trade_state": "SUCCESS", "transaction_id": "never-applied"},
    Operation.REVERSE: {"out_trade_no": "never-applied"},
    Operation.REFUND: {"status": "SUCCESS", "refund_id": "never-applied"},
    Operation.CLOSE: None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back to the merchant before it is signed; `broken` cuts the connection half way."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    signed: bool = True
    forged: bool = False
    broken: bool = False
    content_type: str = "application/json; charset=utf-8"


Act = Callable[[web.Request, bytes], Awaitable[Reply]]


class ChannelApi:
    """Handlers of the channel's HTTP interface."""

    def __init__(self, *, channel: Channel, signing: SigningKeys, bench: SigningBench,
                 appid: str, mchid: str, plain_hosts: frozenset[str]) -> None:  # fmt: skip
        self.requests: Counter[str] = Counter()
        self._channel = channel
        self._signing = signing
        self._bench = bench
        self._appid = appid
        self._mchid = mchid
        self._plain_hosts = plain_hosts

    def routes(self) -> list[web.RouteDef]:
        """The paths of the channel."""
        order = f"{_PREFIX}/out-trade-no/{{out_trade_no}}"
        posts: dict[str, tuple[Operation, Act]] = {
            f"{_PREFIX}/{product}": (product, partial(self._do_create, product)) for product in _PRODUCTS
        }
        posts |= {
            f"{order}/close": (Operation.CLOSE, self._do_close),
            f"{order}/reverse": (Operation.REVERSE, self._do_reverse),
            _REFUNDS: (Operation.REFUND, self._do_refund),
        }
        gets: dict[str, tuple[Operation, Act]] = {
            order: (Operation.QUERY, self._do_query),
            f"{_PREFIX}/id/{{transaction_id}}": (Operation.QUERY_ID, self._do_query_id),
            f"{_REFUNDS}/{{out_refund_no}}": (Operation.REFUND_QUERY, self._do_refund_query),
            "/v3/certificates": (Operation.CERTIFICATES, self._do_certificates),
        }
        return [
            *(web.post(path, partial(self._serve, *found)) for path, found in posts.items()),
            *(web.get(path, partial(self._serve, *found)) for path, found in gets.items()),
        ]

    async def _serve(self, operation: Operation, act: Act, request: web.Request) -> web.StreamResponse:
        self.requests[operation] += 1
        body = await request.read()
        plan = self._channel.plan
        counterfeit = partial(_counterfeit, operation) if operation in _COUNTERFEITS else None
        reply = await serve(
            plan,
            operation,
            _number_of(request, body) if plan.has_faults else "",
            act=lambda: self._attempt(request, body, act),
            counterfeit=counterfeit,
            spoil=_spoil,
        )
        return await self._send(request, reply)

    async def _attempt(self, request: web.Request, body: bytes, act: Act) -> Reply:
        try:
            self._check_request(request, body)
            return await act(request, body)
        except ShapeError as error:
            return _json(HTTPStatus.BAD_REQUEST, of_shape(error).to_json())
        except ChannelError as error:
            # Who asks is unknown after a failed signature, so the channel cannot choose a key for the answer.
            return _json(error.status, error.to_json(), signed=error.code is not Code.SIGN_ERROR)

    def _check_request(self, request: web.Request, body: bytes) -> None:
        check_authorization(
            self._signing.keys,
            request.headers.get("Authorization"),
            mchid=self._mchid,
            now_s=self._channel.clock.real_s(),
            method=request.method,
            target=request.raw_path,
            body=body,
        )
        accept = request.headers.get("Accept", "")
        if "application/json" not in accept and "*/*" not in accept:
            raise _header_error("Accept", "must take application/json")
        if not request.headers.get("User-Agent"):
            raise _header_error("User-Agent", "is missing")
        if request.method == "POST" and request.content_type != "application/json":
            raise _header_error("Content-Type", "must be application/json")
        self._signing.of_reply(request.headers.get("Wechatpay-Serial"))

    async def _do_create(self, product: str, request: web.Request, body: bytes) -> Reply:
        _check_query(request, frozenset())
        wanted = read_order(
            body,
            product,
            appid=self._appid,
            mchid=self._mchid,
            now_s=self._channel.clock.business_s(),
            plain_hosts=self._plain_hosts,
        )
        return _json(HTTPStatus.OK, await self._channel.create(wanted))

    async def _do_query(self, request: web.Request, body: bytes) -> Reply:
        number = request.match_info["out_trade_no"]
        check_out_trade_no(number)
        self._check_get(request, body, frozenset({"mchid"}))
        return _json(HTTPStatus.OK, self._channel.show(self._channel.ledger.find(number)))

    async def _do_query_id(self, request: web.Request, body: bytes) -> Reply:
        self._check_get(request, body, frozenset({"mchid"}))
        order = self._channel.ledger.find_transaction(request.match_info["transaction_id"])
        return _json(HTTPStatus.OK, self._channel.show(order))

    async def _do_close(self, request: web.Request, body: bytes) -> Reply:
        _check_query(request, frozenset())
        number = request.match_info["out_trade_no"]
        check_out_trade_no(number)
        read_close(body, mchid=self._mchid)
        self._channel.close(number)
        return Reply(status=HTTPStatus.NO_CONTENT)

    async def _do_reverse(self, request: web.Request, body: bytes) -> Reply:
        _check_query(request, frozenset())
        number = request.match_info["out_trade_no"]
        check_out_trade_no(number)
        read_reverse(body, mchid=self._mchid, appid=self._appid)
        self._channel.reverse(number)
        return _json(HTTPStatus.OK, {"appid": self._appid, "mchid": self._mchid, "out_trade_no": number})

    async def _do_refund(self, request: web.Request, body: bytes) -> Reply:
        _check_query(request, frozenset())
        return _json(HTTPStatus.OK, await self._channel.refund(read_refund(body, plain_hosts=self._plain_hosts)))

    async def _do_refund_query(self, request: web.Request, body: bytes) -> Reply:
        self._check_get(request, body, frozenset())
        refund = self._channel.refunds.find(request.match_info["out_refund_no"])
        return _json(HTTPStatus.OK, self._channel.show_refund(refund))

    async def _do_certificates(self, request: web.Request, body: bytes) -> Reply:
        self._check_get(request, body, frozenset())
        if not self._signing.has_certificates:
            raise ChannelError(Code.RESOURCE_NOT_EXISTS, "无可用的平台证书")
        entries = []
        for platform in self._signing.published_certificates():
            certificate = x509.load_pem_x509_certificate(platform.certificate)
            sealed = seal(self._signing.keys.apiv3_key, platform.certificate, "certificate")
            del sealed["original_type"]
            entries.append(
                {
                    "serial_no": platform.serial,
                    "effective_time": to_text(certificate.not_valid_before_utc.timestamp()),
                    "expire_time": to_text(certificate.not_valid_after_utc.timestamp()),
                    "encrypt_certificate": sealed,
                }
            )
        return _json(HTTPStatus.OK, {"data": entries})

    def _check_get(self, request: web.Request, body: bytes, allowed: frozenset[str]) -> None:
        _check_query(request, allowed)
        if "mchid" in allowed:
            check_mchid(request.query.get("mchid"), self._mchid, location="query")
        if body:
            raise ChannelError(Code.PARAM_ERROR, "a query has no body")

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        headers = dict(reply.headers)
        if reply.signed:
            platform = self._signing.fallback(request.headers.get("Wechatpay-Serial"))
            key = self._signing.keys.forger if reply.forged else platform.private
            headers |= await self._bench.headers(key, platform.serial, self._channel.clock.real_s(), reply.body)
        if reply.body:
            headers["Content-Type"] = reply.content_type
        return await transmit(request, Sent(status=reply.status, body=reply.body, headers=headers, broken=reply.broken))


async def _spoil(reply: Reply, fault: Fault) -> Reply:
    """The reply after a fault has struck it."""
    match fault.action:
        case Action.DELAY:
            return reply
        case Action.DROP:
            return Reply(status=HTTPStatus.OK, signed=False, broken=True)
        case Action.INTERNAL:
            return _json(HTTPStatus.INTERNAL_SERVER_ERROR, _refusal(Code.SYSTEM_ERROR))
        case Action.BAD_GATEWAY:
            return Reply(
                status=HTTPStatus.BAD_GATEWAY,
                body=b"<html><head><title>502 Bad Gateway</title></head></html>",
                signed=False,
                content_type="text/html",
            )
        case Action.RATE_LIMITED:
            limited = _json(HTTPStatus.TOO_MANY_REQUESTS, _refusal(Code.FREQUENCY_LIMITED))
            wait = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            return replace(limited, headers=wait)
        case Action.REFUSE:
            code = fault.code or Code.SYSTEM_ERROR
            status = next((status for known, status in STATUS.items() if known == code), HTTPStatus.BAD_REQUEST)
            return _json(status, _refusal(code))
        case Action.GARBAGE:
            return Reply(status=HTTPStatus.OK, body=b'{"code_url":"weixin://wx\xff\xfe', headers=reply.headers)
        case Action.UNSIGNED:
            return replace(reply, signed=False)
        case Action.WRONG_KEY:
            return replace(reply, signed=True, forged=True)
        case Action.TRUNCATED:
            return replace(reply, broken=True)


def _counterfeit(operation: Operation) -> Reply:
    claimed = _COUNTERFEITS[operation]
    return Reply(status=HTTPStatus.NO_CONTENT) if claimed is None else _json(HTTPStatus.OK, claimed)


def _json(status: int, value: Mapping[str, object], *, signed: bool = True) -> Reply:
    # A refusal may quote a field name that is no valid Unicode.
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    return Reply(status=status, body=body, signed=signed)


def _refusal(code: str) -> dict[str, object]:
    return {"code": code, "message": "planned fault"}


def _number_of(request: web.Request, body: bytes) -> str:
    """The business number that a fault is planned by, of the refund if there is one; "" when it cannot be read."""
    for name in ("out_trade_no", "transaction_id", "out_refund_no"):
        if name in request.match_info:
            return request.match_info[name]
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(value.get("out_refund_no", value.get("out_trade_no", ""))) if isinstance(value, dict) else ""


def _check_query(request: web.Request, allowed: frozenset[str]) -> None:
    names = set(request.query.keys())
    if names - allowed or len(request.query) != len(names):
        raise ChannelError(Code.PARAM_ERROR, "unexpected query parameter", field=min(names)[:64], location="query")


def _header_error(name: str, issue: str) -> ChannelError:
    return ChannelError(Code.PARAM_ERROR, f"{name} {issue}", field=name, location="header")
