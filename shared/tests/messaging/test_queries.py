"""Every query of the messaging modules fits the migrated schema, as the runtime role sees it."""

from __future__ import annotations

import asyncpg
import pytest

from defray_kernel import consumer, event_log, inbox, outbox, parking, relay, wakeup
from shared.tests.messaging.conftest import Schema


async def test_every_query_prepares(schema: Schema) -> None:
    connection = await asyncpg.connect(schema.dsn)
    try:
        for module in (consumer, event_log, inbox, outbox, parking, relay, wakeup):
            for name, text in module.Q.by_name.items():
                assert await connection.prepare(text), f"{module.__name__}.{name}"
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event_log SET topic = 'x'",
        "DELETE FROM event_log",
        "TRUNCATE event_log",
        "DELETE FROM inbox",
        "UPDATE kernel_setting SET value = '9'",
        "UPDATE daily_table SET keep_days = 1",
        "UPDATE outbox SET topic = 'x'",
        "DROP TABLE event_log",
    ],
)
async def test_append_only_tables_are_append_only_by_grant(schema: Schema, statement: str) -> None:
    connection = await asyncpg.connect(schema.dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_young_partitions_cannot_be_dropped_and_old_ones_are(schema: Schema) -> None:
    connection = await asyncpg.connect(schema.dsn)
    try:
        await connection.execute("SELECT ensure_daily_partitions('event_log', '2025-03-01', 3)")
        with pytest.raises(asyncpg.RaiseError, match="kept for 30 days"):
            await connection.execute("SELECT drop_daily_partitions('event_log', current_date - 29)")
        with pytest.raises(asyncpg.RaiseError, match="not a daily table"):
            await connection.execute("SELECT drop_daily_partitions('outbox', '2020-01-01')")
        assert await connection.fetchval("SELECT drop_daily_partitions('event_log', '2025-03-03')") == 2
        assert await connection.fetchval("SELECT drop_daily_partitions('event_log', '2025-03-03')") == 0
        # An id of today falls into a partition of its day, not into the default.
        day = await connection.fetchval(
            "INSERT INTO inbox VALUES ('c', (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')"
            " || '7abc8def0123456789ab')::uuid) RETURNING tableoid::regclass::text"
        )
        assert day == await connection.fetchval("SELECT 'inbox_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
    finally:
        await connection.close()
