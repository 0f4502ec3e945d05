"""Listening: uvicorn on uvloop and httptools, with limits on the head of a request, and the internal health port."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from defray_kernel import metrics

DRAIN_S: Final = 10
_BACKLOG: Final = 2_048
_CONNECTIONS_MAX: Final = 4_096
_KEEP_ALIVE_S: Final = 75
_HEAD_BYTES_MAX: Final = 32 * 1024
_HEAD_S: Final = 10.0
_CHECK_S: Final = 1.0

Ask = Callable[[], Awaitable[str | None]]
"""A health check: None when fine, else what is missing, in a few words."""


class _HeadLimits(HttpToolsProtocol):
    """uvicorn's protocol reads headers without a limit of size or time; these end a connection that abuses it."""

    _head_bytes = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._in_head = True
        self._head_timer = self.loop.call_later(_HEAD_S, self._refuse, 408, "request_timeout")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES_MAX:
            self._refuse(431, "headers_too_large")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_S, self._refuse, 408, "request_timeout")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text is not ours
        self._refuse(400, "malformed_request")

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, code: str) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        metrics.count("http_refused", code=code)
        if not self._replying():
            problem = {"type": f"urn:defray:problem:{code}", "title": code, "status": status, "code": code}
            body = msgspec.json.encode(problem)
            head = (
                f"HTTP/1.1 {status} {code}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
            )
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _replying(self) -> bool:
        cycle = getattr(self, "cycle", None)
        return cycle is not None and cycle.response_started and not cycle.response_complete


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to roles.py, which stops the parts in order."""
        yield


class Listener:
    """One port. Raises OSError at once when it is taken."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_HeadLimits,
                loop="none",
                lifespan="off",
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                limit_concurrency=_CONNECTIONS_MAX,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop; then accept nothing more and answer what was accepted, at most 10 s."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._server.serve(sockets=[self._socket]))
            ending = group.create_task(stopping.wait())
            await asyncio.wait((serving, ending), return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            self._server.should_exit = True


class Internal:
    """The internal port: /livez, /readyz, /metrics at once, and the operators' API as soon as the service is wired."""

    def __init__(self) -> None:
        self.checks: dict[str, Ask] = {"wiring": self._not_wired}
        self.waits_for = "starting"
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope.get("path"):
            case "/livez":
                await _send(send, 200, b"alive\n", b"text/plain")
            case "/readyz":
                missing = await self.missing()
                body = msgspec.json.encode({"ready": not missing, "missing": missing})
                await _send(send, 503 if missing else 200, body, b"application/json")
            case "/metrics":
                await _send(send, 200, metrics.exposition(), b"text/plain; version=0.0.4; charset=utf-8")
            case _ if self.app is not None:
                await self.app(scope, receive, send)
            case _:
                await _send(send, 503, b"starting\n", b"text/plain")

    async def missing(self) -> Mapping[str, str]:
        """What is not there, by name of its check; a check that takes more than a second is not there."""
        names = list(self.checks)
        answers = await asyncio.gather(*(_asked(self.checks[name]) for name in names))
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    async def _not_wired(self) -> str | None:
        return self.waits_for


async def _asked(ask: Ask) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_S):
            return await ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready
        return type(error).__name__


async def _send(send: Send, status: int, body: bytes, content_type: bytes) -> None:
    headers: list[tuple[bytes, bytes]] = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
