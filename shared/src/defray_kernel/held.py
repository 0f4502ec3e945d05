"""A connection held for long by one loop: opened when needed, thrown away after a fault, closed with the loop."""

from __future__ import annotations

from typing import Self

from defray_kernel.db import Connection, Database


class Held:
    """Use as a context manager around the loop. `setup` is run once on each new connection."""

    def __init__(self, database: Database, *, setup: str | None = None) -> None:
        self._database, self._setup = database, setup
        self._connection: Connection | None = None

    async def get(self) -> Connection:
        """The open connection. Raises Unavailable when the server does not answer."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
            if self._setup is not None:
                await self._connection.execute(self._setup)
        return self._connection

    def drop(self) -> None:
        """Throw the connection away, with whatever transaction is open on it."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
