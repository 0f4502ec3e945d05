"""Connections to Postgres as types that carry permission: having a WriteTx means somebody above commits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

import asyncpg
from asyncpg import exceptions as pg

from defray_kernel.errors import StartRefused, Unavailable

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

ReadConn = NewType("ReadConn", Connection)
"""A connection to read with."""
WriteTx = NewType("WriteTx", ReadConn)
"""An open transaction. Having one means somebody above will commit or roll back."""

COMMAND_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0

_LOST: Final = (
    pg.ConnectionDoesNotExistError,
    pg.ConnectionFailureError,
    pg.InterfaceError,
    pg.InternalClientError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.TooManyConnectionsError,
    OSError,
    TimeoutError,
)
_REPEATABLE: Final = (
    pg.DeadlockDetectedError,
    pg.SerializationError,
    pg.LockNotAvailableError,
    pg.QueryCanceledError,
    pg.InvalidCachedStatementError,
    pg.OutdatedSchemaCacheError,
)


class CommitUnknown(Exception):
    """The connection died while COMMIT was under way: done once or not at all, and nobody can tell from here."""


def is_lost(error: BaseException) -> bool:
    """Whether the connection, or the server behind it, is gone."""
    return isinstance(error, (*_LOST, Unavailable))


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed on a fresh connection: infrastructure, a lost race, or a stale plan."""
    return is_lost(error) or isinstance(error, _REPEATABLE)


@asynccontextmanager
async def begin(connection: Connection) -> AsyncIterator[WriteTx]:
    """One transaction on a held connection.

    Raises CommitUnknown when the connection is lost during COMMIT; whatever the body raises rolls back.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield WriteTx(ReadConn(connection))
    except BaseException:
        await _roll_back(connection, transaction)
        raise
    try:
        await transaction.commit()
    except _LOST as error:
        connection.terminate()
        raise CommitUnknown from error


async def _roll_back(connection: Connection, transaction: asyncpg.transaction.Transaction) -> None:
    # The first error is the one worth telling; a connection that cannot roll back is thrown away.
    try:
        if not connection.is_closed():
            await asyncio.shield(transaction.rollback())
    except Exception:  # noqa: BLE001 - see above: whatever it was, it comes second
        connection.terminate()


class Database:
    """One service's schema, reached as one role; connections are pooled for reads and held by batching writers."""

    def __init__(self, dsn: str, pool: asyncpg.Pool[asyncpg.Record], name: str) -> None:
        self._dsn, self._pool, self._name = dsn, pool, name

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, pool_size_max: int = 8, name: str = "defray") -> AsyncIterator[Database]:
        """Open lazily: the server need not be there yet, so that services start in any order."""
        pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=pool_size_max,
            command_timeout=COMMAND_TIMEOUT_S,
            timeout=CONNECT_TIMEOUT_S,
            reset=_no_reset,
            server_settings={"application_name": name},
        )
        async with pool:
            yield cls(dsn, pool, name)

    @property
    def dsn(self) -> str:
        """The address this database was opened with; it holds a password and is never logged."""
        return self._dsn

    async def connect(self) -> Connection:
        """A connection of one's own, to be held for long. Raises Unavailable when the server does not answer."""
        try:
            return await asyncpg.connect(
                self._dsn,
                command_timeout=COMMAND_TIMEOUT_S,
                timeout=CONNECT_TIMEOUT_S,
                server_settings={"application_name": self._name},
            )
        except _LOST as error:
            raise Unavailable(type(error).__name__) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConn]:
        """A pooled connection to read with. Raises Unavailable when none is to be had."""
        connection = await self._acquire()
        try:
            yield ReadConn(connection)
        finally:
            await self._pool.release(connection)  # type: ignore[arg-type]  # it came from this pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteTx]:
        """A transaction on a pooled connection; see `begin`."""
        async with self.read() as connection, begin(connection) as tx:
            yield tx

    async def _acquire(self) -> Connection:
        try:
            return await self._pool.acquire(timeout=CONNECT_TIMEOUT_S)  # type: ignore[return-value]  # a proxy that acts as one
        except _LOST as error:
            raise Unavailable(type(error).__name__) from error


async def _no_reset(_: object) -> None:
    """Skip the pool's reset round trip: no code here sets session state, and `begin` always ends its transaction."""


async def check_durability(connection: ReadConn) -> None:
    """Refuse a server that may forget what it acknowledged. Raises StartRefused naming the setting."""
    for setting in ("fsync", "synchronous_commit"):
        if await connection.fetchval("SELECT current_setting($1)", setting) in {"off", "local"}:
            raise StartRefused(f"Postgres runs with {setting} off: acknowledged payments could be lost")


def backoff_s(attempt: int, *, base_s: float = 0.02, cap_s: float = 1.0) -> float:
    """Full-jitter delay before the given retry (1, 2, …), in seconds."""
    return random.uniform(0.0, min(cap_s, base_s * 2.0**attempt))  # noqa: S311 - spreads retries, guards nothing
