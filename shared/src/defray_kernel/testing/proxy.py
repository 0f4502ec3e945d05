"""A TCP proxy in front of Postgres that loses the answer to a COMMIT, or the COMMIT itself, on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Final

_COMMIT: Final = b"COMMIT;\x00"
_CHUNK: Final = 65_536


class Cut(StrEnum):
    """Where the connection breaks: asyncpg raises the same error for both, only the database knows which it was."""

    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"


class CommitCutter:
    """Forwards bytes both ways; arm it and the next `count` COMMITs are cut."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._cut: Cut | None = None
        self._left = 0
        self.cuts = 0
        self.port = 0

    def arm(self, cut: Cut, count: int = 1) -> None:
        """Break the next `count` connections that send a COMMIT."""
        self._cut, self._left = cut, count

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[CommitCutter]:
        """Listen on a free loopback port while the context lasts."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        muted = asyncio.Event()
        down = asyncio.ensure_future(self._answers(up_reader, writer, muted))
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while chunk := await reader.read(_CHUNK):
                cut = self._take(chunk)
                if cut is Cut.BEFORE_COMMIT:
                    break
                if cut is Cut.AFTER_COMMIT:
                    muted.set()
                up_writer.write(chunk)
                await up_writer.drain()
                if cut is Cut.AFTER_COMMIT:
                    # Long enough for the server to have committed; its answer is swallowed.
                    await asyncio.sleep(0.2)
                    break
        writer.transport.abort()
        up_writer.transport.abort()
        down.cancel()

    def _take(self, chunk: bytes) -> Cut | None:
        if self._left == 0 or _COMMIT not in chunk:
            return None
        self._left -= 1
        self.cuts += 1
        return self._cut

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK):
                if muted.is_set():
                    continue
                writer.write(chunk)
                await writer.drain()
        writer.close()
