"""The outermost layer of an edge: what is refused before any route is looked at, and what every reply carries."""

import re
import time
from collections.abc import Mapping
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from defray_kernel import ids, metrics, trace
from defray_kernel.problems import Problem, Problems

_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}\Z")
_log = structlog.get_logger()


class Guard:
    """Pure ASGI (a function middleware would cost three times the request). Bounds concurrency, headers and framing.

    `direct` are the endpoints of paths without parameters: they need no router, which would cost as much as they do.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: Mapping[str, ASGIApp],
        problems: Problems,
        concurrent_max: int,
        header_bytes_max: int,
        header_count_max: int,
    ) -> None:
        self._app, self._direct, self._problems = app, direct, problems
        self._concurrent_max = concurrent_max
        self._header_bytes_max, self._header_count_max = header_bytes_max, header_count_max
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        exchange = Exchange(scope, receive, send)
        self._in_flight += 1
        metrics.gauge("http_in_flight", self._in_flight)
        try:
            problem = self._refusal(scope)
            if problem is None:
                app = self._direct.get(scope["path"])
                if app is None:
                    app = self._app
                else:
                    scope["path_params"] = {}
                await app(scope, receive, exchange.send)
            else:
                await reply_problem(exchange.send, self._problems, problem, exchange.correlation_id, close=True)
        except Exception as error:  # noqa: BLE001 - nothing may reach the server as a stack
            _log.error("http_failed", correlation_id=exchange.correlation_id, exc_info=error)
            if not exchange.started:
                await reply_problem(
                    exchange.send, self._problems, Problem("internal"), exchange.correlation_id, close=True
                )
        finally:
            self._in_flight -= 1
            exchange.measure()

    def _refusal(self, scope: Scope) -> Problem | None:
        if self._in_flight > self._concurrent_max:
            return Problem("overloaded", retry_after_s=1)
        if scope["http_version"] not in {"1.1", "1.0"}:
            return Problem("malformed_request", detail="this version of HTTP is not spoken")
        headers = scope["headers"]
        size = (
            sum(len(name) + len(value) for name, value in headers) + len(scope["raw_path"]) + len(scope["query_string"])
        )
        if size > self._header_bytes_max or len(headers) > self._header_count_max:
            return Problem("headers_too_large")
        names = [name for name, _ in headers if name in {b"content-length", b"transfer-encoding", b"host"}]
        # Two lengths, or a length beside a transfer encoding, are read differently by different servers: smuggling.
        if len(names) != len(set(names)) or (b"content-length" in names and b"transfer-encoding" in names):
            return Problem("malformed_request", detail="ambiguous framing")
        return None


class Exchange:
    """One request and its reply: correlation id, trace, and the header that every reply carries."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self.receive, self._send = scope, receive, send
        self._began = time.monotonic()
        self._status = 0
        self.correlation_id = ""
        traceparent = None
        for name, value in scope["headers"]:
            if name == b"x-correlation-id" and not self.correlation_id:
                text = value.decode("latin-1")
                self.correlation_id = text if _CORRELATION_ID.match(text) else ""
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
        self.correlation_id = self.correlation_id or ids.uuid7().hex
        scope["correlation_id"] = self.correlation_id
        scope["traceparent"] = trace.continued(traceparent)

    @property
    def started(self) -> bool:
        """Whether the reply has begun."""
        return self._status != 0

    async def send(self, message: Message) -> None:
        """Pass a message on, with the correlation id in its headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = [(b"x-correlation-id", self.correlation_id.encode()), *self._scope.get("rate_headers", ())]
            message["headers"] = [*message.get("headers", ()), *own]
        await self._send(message)

    def measure(self) -> None:
        """Count the reply under its route (never under the path: that is the caller's text)."""
        route = self._scope.get("route_name", "none")
        metrics.count("http_requests", route=route, status=str(self._status))
        metrics.observe("http_seconds", time.monotonic() - self._began, route=route)


async def reply_problem(
    send: Send,
    problems: Problems,
    problem: Problem,
    correlation_id: str,
    *,
    close: bool = False,
    allow: str | None = None,
) -> None:
    """Send a problem; `close` ends the connection, for when unread input may still be on it."""
    status, body = problems.encode(problem, correlation_id)
    metrics.count("http_refused", code=problem.code)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    if problem.retry_after_s is not None:
        headers.append((b"retry-after", str(problem.retry_after_s).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if allow is not None:
        headers.append((b"allow", allow.encode()))
    if close:
        headers.append((b"connection", b"close"))
    headers.append((b"cache-control", b"no-store"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
