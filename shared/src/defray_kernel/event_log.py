"""The log of sent events: its daily partitions, and sending parts of it again after Kafka has lost them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import structlog

from defray_kernel.db import Database, WriteTx
from defray_kernel.sql import queries
from defray_kernel.timers import Timer

Q = queries(__file__)
_log = structlog.get_logger()

_DAYS_AHEAD: Final = 7
_PAGE: Final = 1_000
_INBOX_DAYS_BACK: Final = 10


async def keep_partitions(database: Database) -> None:
    """Make the coming days' partitions of every daily table and drop those beyond their time.

    A default partition that is not empty is told: its rows will not be dropped with their day.
    """
    async with database.transaction() as tx:
        for row in await tx.fetch(Q.daily_tables):
            # Ids of events may be older than today: an inbox needs its past days too.
            back = _INBOX_DAYS_BACK if row["name"] == "inbox" else 1
            await tx.execute(Q.ensure_days, row["name"], back, back + 1 + _DAYS_AHEAD)
            await tx.execute(Q.drop_days, row["name"], row["keep_days"])
        strays = await tx.fetchval(Q.strays)
    if strays:
        _log.error("rows_outside_daily_partitions", rows=strays)


def partition_timer(database: Database) -> Timer:
    """Keeps the partitions, hourly; part of every service's timers role."""

    async def claim(_tx: WriteTx, _now: dt.datetime, _limit: int) -> Sequence[str]:
        return ("partitions",)

    async def apply(_rows: Sequence[str]) -> None:
        await keep_partitions(database)

    return Timer(name="partitions", claim=claim, apply=apply, every_s=3_600.0)


async def republish(
    database: Database,
    since: dt.datetime,
    until: dt.datetime,
    topic: str | None = None,
    ids: Sequence[UUID] | None = None,
) -> int:
    """Put events sent in [since, until) (real time) into the outbox again; returns how many.

    They keep event id, bytes, headers and their place: the relay sends them before anything newer of the same key, and
    whoever has seen them skips them by sequence or id. The log itself does not grow.
    """
    total, last_id = 0, -1
    while True:
        async with database.transaction() as tx:
            row = await tx.fetchrow(
                Q.republish, since, until, last_id, topic, None if ids is None else list(ids), _PAGE
            )
        assert row is not None
        if not row["events"]:
            _log.info("events_republished", events=total, topic=topic)
            return total
        total, last_id = total + row["events"], row["last_id"]
