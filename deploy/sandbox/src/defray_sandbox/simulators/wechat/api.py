"""The public face of the channel: WeChat Pay v3 paths, strict requests, signed replies, and planned faults."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from aiohttp import web

from defray_sandbox.simulators.wechat.channel import Channel
from defray_sandbox.simulators.wechat.errors import STATUS, ChannelError, Code
from defray_sandbox.simulators.wechat.faults import Action, Fault, Moment, Operation
from defray_sandbox.simulators.wechat.keys import ChannelKeys, PlatformKey
from defray_sandbox.simulators.wechat.orders import check_mchid, check_out_trade_no, read_close, read_native
from defray_sandbox.simulators.wechat.signing import SigningBench, check_authorization

_PREFIX = "/v3/pay/transactions"
_COUNTERFEIT = {"code_url": "weixin://wxpay/bizpayurl?pr=never-applied"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back to the merchant; `broken` cuts the connection half way."""

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

    def __init__(self, *, channel: Channel, keys: ChannelKeys, bench: SigningBench,
                 appid: str, mchid: str, plain_hosts: frozenset[str]) -> None:  # fmt: skip
        self.requests: Counter[str] = Counter()
        self._channel = channel
        self._keys = keys
        self._bench = bench
        self._appid = appid
        self._mchid = mchid
        self._plain_hosts = plain_hosts

    def routes(self) -> list[web.RouteDef]:
        """The paths of the Native product."""
        return [
            web.post(f"{_PREFIX}/native", self._native),
            web.get(f"{_PREFIX}/out-trade-no/{{out_trade_no}}", self._query),
            web.get(f"{_PREFIX}/id/{{transaction_id}}", self._query_id),
            web.post(f"{_PREFIX}/out-trade-no/{{out_trade_no}}/close", self._close),
        ]

    async def _native(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Operation.NATIVE, self._do_native)

    async def _query(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Operation.QUERY, self._do_query)

    async def _query_id(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Operation.QUERY_ID, self._do_query_id)

    async def _close(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, Operation.CLOSE, self._do_close)

    async def _serve(self, request: web.Request, operation: Operation, act: Act) -> web.StreamResponse:
        self.requests[operation] += 1
        body = await request.read()
        plan = self._channel.plan
        number = _number_of(request, body) if plan.has_faults else ""
        before = plan.strike(operation, number, Moment.BEFORE_APPLY)
        reply: Reply | None
        if (
            before is not None
            and before.action is not Action.DELAY
            and operation in (Operation.NATIVE, Operation.CLOSE)
        ):
            reply = await _spoil(_counterfeit(operation), before)
            return await self._send(request, reply)
        if before is not None and before.action is Action.DELAY:
            await asyncio.sleep(before.delay_s)
        try:
            platform = self._check_request(request, body)
            reply = await act(request, body)
        except ChannelError as error:
            platform = self._claimed_platform(request)
            # Who asks is unknown after a failed signature, so the channel cannot choose a key for the answer.
            reply = _json(error.status, error.to_json(), signed=error.code is not Code.SIGN_ERROR)
        after = plan.strike(operation, number, Moment.AFTER_APPLY)
        if after is None and before is not None and before.action is not Action.DELAY:
            after = before  # Nothing is applied by a query: the moment makes no difference.
        if after is not None:
            reply = await _spoil(reply, after)
        return await self._send(request, reply, platform)

    def _check_request(self, request: web.Request, body: bytes) -> PlatformKey:
        check_authorization(
            self._keys,
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
        serial = request.headers.get("Wechatpay-Serial")
        if serial is None:
            raise _header_error("Wechatpay-Serial", "is missing")
        for platform in self._keys.generations:
            if platform.serial == serial:
                return platform
        raise ChannelError(Code.RESOURCE_NOT_EXISTS, "no such platform public key", field="Wechatpay-Serial",
                           location="header")  # fmt: skip

    async def _do_native(self, request: web.Request, body: bytes) -> Reply:
        _check_query(request, frozenset())
        native = read_native(
            body,
            appid=self._appid,
            mchid=self._mchid,
            now_s=self._channel.clock.business_s(),
            plain_hosts=self._plain_hosts,
        )
        return _json(HTTPStatus.OK, {"code_url": await self._channel.create(native)})

    async def _do_query(self, request: web.Request, body: bytes) -> Reply:
        number = request.match_info["out_trade_no"]
        check_out_trade_no(number)
        self._check_get(request, body)
        return _json(HTTPStatus.OK, self._channel.show(self._channel.ledger.find(number)))

    async def _do_query_id(self, request: web.Request, body: bytes) -> Reply:
        self._check_get(request, body)
        order = self._channel.ledger.find_transaction(request.match_info["transaction_id"])
        return _json(HTTPStatus.OK, self._channel.show(order))

    async def _do_close(self, request: web.Request, body: bytes) -> Reply:
        _check_query(request, frozenset())
        number = request.match_info["out_trade_no"]
        check_out_trade_no(number)
        read_close(body, mchid=self._mchid)
        self._channel.close(number)
        return Reply(status=HTTPStatus.NO_CONTENT)

    def _check_get(self, request: web.Request, body: bytes) -> None:
        _check_query(request, frozenset({"mchid"}))
        check_mchid(request.query.get("mchid"), self._mchid, location="query")
        if body:
            raise ChannelError(Code.PARAM_ERROR, "a query has no body")

    async def _send(
        self, request: web.Request, reply: Reply, platform: PlatformKey | None = None
    ) -> web.StreamResponse:
        platform = platform or self._claimed_platform(request)
        headers = dict(reply.headers)
        if reply.signed:
            key = self._keys.forger if reply.forged else platform.private
            headers |= await self._bench.headers(key, platform.serial, self._channel.clock.real_s(), reply.body)
        if reply.body:
            headers["Content-Type"] = reply.content_type
        if not reply.broken:
            return web.Response(status=reply.status, body=reply.body or None, headers=headers)
        if not reply.body:
            _cut(request)
            return web.Response(status=reply.status)
        headers["Content-Length"] = str(len(reply.body))
        response = web.StreamResponse(status=reply.status, headers=headers)
        await response.prepare(request)
        await response.write(reply.body[: len(reply.body) // 2])
        _cut(request)
        return response

    def _claimed_platform(self, request: web.Request) -> PlatformKey:
        serial = request.headers.get("Wechatpay-Serial")
        known = (platform for platform in self._keys.generations if platform.serial == serial)
        return next(known, self._keys.generations[-1])


async def _spoil(reply: Reply, fault: Fault) -> Reply:
    """The reply after a fault has struck it."""
    match fault.action:
        case Action.DELAY:
            await asyncio.sleep(fault.delay_s)
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
            status = next((status for code, status in STATUS.items() if code == fault.code), HTTPStatus.BAD_REQUEST)
            return _json(status, _refusal(fault.code))
        case Action.GARBAGE:
            return Reply(status=HTTPStatus.OK, body=b'{"code_url":"weixin://wx\xff\xfe', headers=reply.headers)
        case Action.UNSIGNED:
            return replace(reply, signed=False)
        case Action.WRONG_KEY:
            return replace(reply, signed=True, forged=True)
        case Action.TRUNCATED:
            return replace(reply, broken=True)


def _counterfeit(operation: Operation) -> Reply:
    """What a reply would look like that claims a success although nothing was applied."""
    if operation is Operation.CLOSE:
        return Reply(status=HTTPStatus.NO_CONTENT)
    return _json(HTTPStatus.OK, _COUNTERFEIT)


def _json(status: int, value: Mapping[str, object], *, signed: bool = True) -> Reply:
    # A refusal may quote a field name that is no valid Unicode.
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    return Reply(status=status, body=body, signed=signed)


def _refusal(code: str) -> dict[str, object]:
    return {"code": code, "message": "planned fault"}


def _number_of(request: web.Request, body: bytes) -> str:
    """The business number that a fault is planned by; "" for a body that cannot be read."""
    if "out_trade_no" in request.match_info:
        return request.match_info["out_trade_no"]
    if "transaction_id" in request.match_info:
        return request.match_info["transaction_id"]
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(value.get("out_trade_no", "")) if isinstance(value, dict) else ""


def _check_query(request: web.Request, allowed: frozenset[str]) -> None:
    names = set(request.query.keys())
    if names - allowed or len(request.query) != len(names):
        raise ChannelError(Code.PARAM_ERROR, "unexpected query parameter", field=min(names)[:64], location="query")


def _header_error(name: str, issue: str) -> ChannelError:
    return ChannelError(Code.PARAM_ERROR, f"{name} {issue}", field=name, location="header")


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
