"""What happens to one request on a declared route, in order of precedence: who, what, how much; then the handler."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
import structlog
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from defray_kernel import fields, metrics, redaction, strict_json
from defray_kernel.calls import Call, Doors, Limits, Reply, RouteSpec
from defray_kernel.db import CommitUnknown, is_transient
from defray_kernel.errors import OutcomeUnknown, Overloaded, RetryLater
from defray_kernel.guard import reply_problem
from defray_kernel.idempotency import request_hash
from defray_kernel.merchants import Merchant
from defray_kernel.operators import Operator
from defray_kernel.problems import Problem

_QUERY_PARAMETERS_MAX: Final = 20
_STREAM_S: Final = 300.0
_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{1,255}")
_log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, in the one form the route asked for."""

    merchant: Merchant | None = None
    token: Any = None
    operator: Operator | None = None


class Endpoint:
    """The routes of one path as a plain ASGI application: no Request, no Response, no dependency graph."""

    def __init__(self, doors: Doors, specs: Sequence[RouteSpec], rates: "Rates") -> None:
        self._doors = doors
        self._by_method: Mapping[str, RouteSpec] = {spec.method: spec for spec in specs}
        self._allow = ", ".join(sorted(self._by_method))
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        correlation_id = scope["correlation_id"]
        spec = self._by_method.get(scope["method"])
        if spec is None:
            problem = Problem("method_not_allowed")
            await reply_problem(send, self._doors.problems, problem, correlation_id, close=True, allow=self._allow)
            return
        scope["route_name"] = spec.name
        body = _Body(receive, self._doors.limits)
        try:
            # One timer for both: the body's deadline first, then the handler's.
            async with asyncio.timeout(self._doors.limits.body_timeout_s) as deadline:
                call = await self._check(spec, scope, body)
                deadline.reschedule(asyncio.get_running_loop().time() + self._doors.limits.handler_timeout_s)
                reply = await spec.handler(call)
            await _send_reply(send, spec, reply)
        except Exception as error:  # noqa: BLE001 - the last place that can still answer
            late = isinstance(error, TimeoutError) and not body.complete
            problem = Problem("request_timeout") if late else _as_problem(error, spec, correlation_id)
            # What was not read of this request would be taken for the next one.
            await reply_problem(send, self._doors.problems, problem, correlation_id, close=not body.complete)

    async def _check(self, spec: RouteSpec, scope: Scope, incoming: "_Body") -> Call[Any]:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        caller = await self._authenticate(spec, headers)
        if caller.merchant is not None:
            wait_s, left = self._rates.take(caller.merchant)
            scope["rate_headers"] = self._rates.headers(left)
            if wait_s > 0:
                raise Problem("rate_limited", retry_after_s=max(1, round(wait_s)))
        key = _idempotency_key(spec, headers)
        query = _query(scope["query_string"])
        raw = await incoming.read(headers, json_expected=spec.request is not None)
        body, parsed = self._parse(spec.request, raw)
        return Call(
            body=body,
            raw=raw,
            path_params=scope["path_params"],
            query=query,
            headers=headers,
            merchant=caller.merchant,
            token=caller.token,
            operator=caller.operator,
            idempotency_key=key,
            request_hash=request_hash(spec.method, scope["path"], parsed) if key is not None else b"",
            correlation_id=scope["correlation_id"],
            traceparent=scope["traceparent"],
        )

    async def _authenticate(self, spec: RouteSpec, headers: Mapping[str, str]) -> Caller:
        if spec.auth == "none":
            return Caller()
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        caller = await self._caller(spec, credential.strip()) if scheme.lower() == "bearer" and credential else None
        if caller is None:
            metrics.count("security_events", kind="unauthenticated")
            raise Problem("unauthenticated")
        if spec.scope is not None and not _allowed(caller, spec.scope):
            metrics.count("security_events", kind="forbidden")
            raise Problem("forbidden")
        return caller

    async def _caller(self, spec: RouteSpec, credential: str) -> Caller | None:
        doors = self._doors
        if spec.auth == "operator":
            operator = doors.operators.verify(credential) if doors.operators is not None else None
            return None if operator is None else Caller(operator=operator)
        if spec.auth == "token" or (spec.auth == "api_key_or_token" and not credential.startswith("sk_")):
            token = doors.tokens(credential) if doors.tokens is not None else None
            return None if token is None else Caller(token=token)
        assert doors.merchants is not None, "a route that takes API keys needs a merchant directory"
        if not doors.merchants.ready:
            raise Problem("unavailable", retry_after_s=1)
        merchant = await doors.merchants.authenticate(credential)
        return None if merchant is None else Caller(merchant=merchant)

    def _parse(self, model: type[BaseModel] | None, raw: bytes) -> tuple[BaseModel | None, object]:
        if model is None:
            # Not hashed as JSON: the route takes bytes of any kind, or none.
            return None, raw.hex() if raw else None
        try:
            parsed = strict_json.loads(raw)
            if redaction.might_have_card_number(raw):
                fields.refuse_card_numbers(parsed)
            return model.model_validate_json(raw), parsed
        except strict_json.MalformedJson as error:
            raise Problem("malformed_json", detail=error.detail) from None
        except ValidationError as error:
            raise fields.problem(error, self._doors.problems) from None


class _Body:
    """The request's body, cut at the limit and at the deadline; what is over the limit is never held."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self.complete = False

    async def read(self, headers: Mapping[str, str], *, json_expected: bool) -> bytes:
        length = headers.get("content-length")
        if length is None and "transfer-encoding" not in headers:
            self.complete = True
        elif length is not None and int(length) > self._limits.body_bytes_max:
            raise Problem("body_too_large")
        if json_expected and (not _is_json(headers.get("content-type", "")) or "content-encoding" in headers):
            raise Problem("unsupported_media_type")
        if self.complete:
            return b""
        return await self._read()

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise Problem("malformed_request", detail="the connection was closed")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limits.body_bytes_max:
                raise Problem("body_too_large")
            chunks.append(chunk)
            if not message.get("more_body", False):
                self.complete = True
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class Rates:
    """One bucket per merchant that holds a second's worth of requests; merchants do not feel each other."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: dict[object, tuple[float, float]] = {}  # merchant → tokens left, when; bounded by the registry

    def take(self, merchant: Merchant) -> tuple[float, int]:
        """Seconds until a request may go on (0: this one may, and is counted), and how many more may go at once."""
        now = time.monotonic()
        left, at = self._buckets.get(merchant.merchant_id, (self._per_s, now))
        left = min(self._per_s, left + (now - at) * self._per_s)
        if left < 1:
            return (1 - left) / self._per_s, 0
        self._buckets[merchant.merchant_id] = (left - 1, now)
        return 0, int(left - 1)

    def headers(self, left: int) -> Sequence[tuple[bytes, bytes]]:
        """What a reply tells of it (draft-ietf-httpapi-ratelimit-headers-10)."""
        policy = b'"merchant";q=%d;w=1' % int(self._per_s)
        return (b"ratelimit-policy", policy), (b"ratelimit", b'"merchant";r=%d;t=1' % left)


def _allowed(caller: Caller, scope: str) -> bool:
    if caller.operator is not None:
        return caller.operator.may(scope)
    return caller.merchant is None or scope in caller.merchant.scopes


def _idempotency_key(spec: RouteSpec, headers: Mapping[str, str]) -> str | None:
    if not spec.idempotency_key:
        return None
    key = headers.get("idempotency-key")
    if key is None:
        raise Problem("idempotency_key_missing")
    if _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise Problem("idempotency_key_invalid")
    return key


def _query(raw: bytes) -> Mapping[str, str]:
    if not raw:
        return {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), True, True, errors="strict", max_num_fields=_QUERY_PARAMETERS_MAX)
    except ValueError:
        raise Problem("invalid_parameter") from None
    query = dict(pairs)
    if len(query) != len(pairs) or any("\0" in value for value in query.values()):
        raise Problem("invalid_parameter")
    return query


def _is_json(content_type: str) -> bool:
    media_type, _, parameters = content_type.lower().partition(";")
    charset = parameters.strip()
    return media_type.strip() == "application/json" and charset in {"", "charset=utf-8", 'charset="utf-8"'}


def _as_problem(error: Exception, spec: RouteSpec, correlation_id: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, (OutcomeUnknown, CommitUnknown)):
        problem = Problem("outcome_unknown", retry_after_s=1)
    elif isinstance(error, Overloaded):
        problem = Problem("overloaded", retry_after_s=1)
    elif is_transient(error) or isinstance(error, RetryLater):
        problem = Problem("unavailable", retry_after_s=2)
    else:
        _log.error("http_failed", route=spec.name, correlation_id=correlation_id, exc_info=error)
        return Problem("internal")
    _log.warning(
        "http_unavailable",
        route=spec.name,
        correlation_id=correlation_id,
        code=problem.code,
        error=type(error).__name__,
    )
    return problem


async def _send_reply(send: Send, spec: RouteSpec, reply: Reply) -> None:
    status = reply.status or spec.status
    content = reply.content
    stream = content if isinstance(content, AsyncGenerator) else None
    body = content if isinstance(content, bytes) else b"" if content is None or stream else _encode(content)
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body or stream:
        headers.append((b"content-type", reply.content_type.encode()))
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    if status == 204 or stream:
        headers = headers[1:]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if stream:
        async with asyncio.timeout(_STREAM_S), aclosing(stream):
            async for part in stream:
                await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": body})
