"""A keep-alive HTTP/1.1 client on the raw protocol: the generator must cost less than what it measures."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

import httptools


class ConnectionLost(Exception):
    """The server closed a connection while an answer was outstanding."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of one answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection with at most one request outstanding; after a server's close it must be opened anew."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the host and port of `url`."""
        parts = urlsplit(url)
        _, connection = await asyncio.get_running_loop().create_connection(cls, parts.hostname, parts.port)
        return connection

    async def send(self, request: bytes) -> Answer:
        """Send one request in final form and return its answer. Raises ConnectionLost."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLost
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionLost())

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), b"".join(self._body))
        self._body.clear()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


def rendered(url: str, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = {"Host": urlsplit(url).netloc, "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
