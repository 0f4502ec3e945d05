"""A TCP proxy in front of Postgres that loses the answer to COMMIT, or COMMIT itself, when told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from urllib.parse import urlsplit

_CHUNK = 64 * 1024
_COMMIT = b"COMMIT;\x00"


class Lose(StrEnum):
    """What is lost with the connection; either looks the same from the client's side."""

    ANSWER = "answer"  # the server has committed
    COMMIT = "commit"  # the server has not, and rolls back


class CommitProxy:
    """Passes bytes on both ways; `lose` the next `times` commits, whichever connections they come by."""

    def __init__(self, dsn: str) -> None:
        self._url = urlsplit(dsn)
        self._what, self._times = Lose.ANSWER, 0
        self._port = 0
        self.lost = 0

    @property
    def dsn(self) -> str:
        """The database's address through the proxy."""
        credentials = self._url.netloc.rpartition("@")[0]
        return self._url._replace(netloc=f"{credentials}@127.0.0.1:{self._port}").geturl()

    def lose(self, what: Lose, times: int) -> None:
        """Arm it."""
        self._what, self._times = what, times

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["CommitProxy"]:
        """Accept connections until the block is left."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection(self._url.hostname, self._url.port)
        answers = asyncio.Event()  # set while answers are passed on
        answers.set()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._questions(client_in, server_out, answers))
                both.create_task(self._answers(server_in, client_out, answers))
        except* OSError:
            pass
        finally:
            client_out.transport.abort()
            server_out.transport.abort()

    async def _questions(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, answers: asyncio.Event
    ) -> None:
        while data := await client.read(_CHUNK):
            if _COMMIT in data and self._times > 0:
                self._times -= 1
                self.lost += 1
                if self._what is Lose.COMMIT:
                    raise ConnectionAbortedError
                answers.clear()
            server.write(data)
            await server.drain()
        raise ConnectionAbortedError

    async def _answers(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, answers: asyncio.Event
    ) -> None:
        while data := await server.read(_CHUNK):
            if not answers.is_set():
                # The server has answered, so the commit is done; nobody will hear of it.
                raise ConnectionAbortedError
            client.write(data)
            await client.drain()
        raise ConnectionAbortedError
