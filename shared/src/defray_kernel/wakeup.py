"""Wake the relay after a commit: one coalesced NOTIFY on a connection of its own, never inside a business transaction."""

from __future__ import annotations

import asyncio
from typing import Final

from defray_kernel.db import Connection, Database, backoff_s, is_transient
from defray_kernel.held import Held
from defray_kernel.sql import queries
from defray_kernel.timers import wait_for_stop

Q = queries(__file__)

_APART_S: Final = 0.003
"""A NOTIFY takes a lock all notifying commits share; 3 ms apart they cost nothing and the relay's p99 stays below 20 ms."""


class Wakeup:
    """`poke` after each commit that may have filled the outbox; `run` carries pokes to the relay, at most one per 3 ms."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._poked = asyncio.Event()

    def poke(self) -> None:
        """Say that there may be something to send. Never waits, never fails; a lost poke costs one relay poll."""
        self._poked.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Notify until told to stop."""
        failures = 0
        with Held(self._database) as held:
            while not stopping.is_set():
                await wait_for_stop(self._poked, 0.5)
                if not self._poked.is_set():
                    continue
                self._poked.clear()
                try:
                    await (await held.get()).execute(Q.wake)
                    failures = 0
                    await asyncio.sleep(_APART_S)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    held.drop()
                    failures += 1
                    await asyncio.sleep(backoff_s(failures, base_s=0.05))


async def channel(connection: Connection) -> str:
    """The name of this schema's channel: notifications are seen by a whole database, which several services share."""
    return str(await connection.fetchval(Q.channel))
