"""The limit of O2: COPY of the rows that our consumer wrote, as many orders in a transaction as it takes requests at once."""

import argparse
import io
import time
from pathlib import Path
from typing import Final

import asyncpg
import uvloop

from tests.bench.driver import say, told

ORDERS_PER_BATCH: Final = 500
_ORDERS_MAX: Final = 20_000
_SCHEMA: Final = "orders"
_TABLES: Final = {
    "orders": ("order_id", 1),
    "order_item": ("order_id, line", 2),
    "order_transition": ("order_id", 1),
    "inbound_seen": ("digest", 1),
    "outbox": ("id", 1),
}
"""What a request leaves: the table, in which order it is read, and how many rows of it each order has."""


async def keep(connection: asyncpg.Connection, folder: Path) -> int:
    """Write the rows to files, one for each table and batch, in COPY's binary form; returns of how many orders."""
    folder.mkdir()
    count = min(_ORDERS_MAX, await connection.fetchval("SELECT count(*) FROM orders.orders"))
    for batch in range(count // ORDERS_PER_BATCH):
        for table, (key, rows) in _TABLES.items():
            size = ORDERS_PER_BATCH * rows
            query = f"SELECT * FROM {_SCHEMA}.{table} ORDER BY {key} LIMIT {size} OFFSET {batch * size}"
            into = io.BytesIO()
            await connection.copy_from_query(query, output=into, format="binary")
            (folder / f"{table}-{batch:04}").write_bytes(into.getvalue())
    return count // ORDERS_PER_BATCH * ORDERS_PER_BATCH


async def copy(dsn: str, folder: Path, seconds: float) -> None:
    """Say `ready`, wait for a line, copy for so long, over and over into empty tables; emptying them does not count."""
    kept = [[(table, path.read_bytes()) for table in _TABLES for path in [folder / f"{table}-{batch:04}"]]
            for batch in range(len(list(folder.glob("orders-*"))))]  # fmt: skip
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"SET search_path TO {_SCHEMA}")
    say("ready")
    await told()
    batches, took_s = 0, 0.0
    while took_s < seconds:
        await connection.execute(f"TRUNCATE {', '.join(_TABLES)} CASCADE")
        for batch in kept:
            began = time.monotonic()
            async with connection.transaction():
                for table, rows in batch:
                    await connection.copy_to_table(table, source=io.BytesIO(rows), format="binary")
            took_s += time.monotonic() - began
            batches += 1
            if took_s >= seconds:
                break
    left = await connection.fetchval("SELECT count(*) FROM orders")
    say("copied", {"orders": batches * ORDERS_PER_BATCH, "took_s": took_s, "left": left, "kept": len(kept)})
    await told()
    await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    uvloop.run(copy(options.dsn, options.folder, options.seconds))
