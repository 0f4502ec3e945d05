"""Forward-only migrations: plain SQL files in `pre` and `post` steps, one history per service, under a lock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import asyncpg

from defray_kernel.db import Connection, ReadConn
from defray_kernel.errors import StartRefused

Phase = Literal["pre", "post"]

KERNEL_MIGRATIONS: Final = Path(__file__).parent / "migrations"
MERCHANT_MIGRATIONS: Final = Path(__file__).parent / "migrations_merchants"

_FILE_NAME: Final = re.compile(r"^(\d{4})_(pre|post)_[a-z0-9_]+\.sql$")
_LOCK_KEY: Final = 0x0DEF4A
_LOCK_TIMEOUT: Final = "5s"
_STATEMENT_TIMEOUT: Final = "10min"
_HISTORY_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_history (
  source text NOT NULL, version text NOT NULL, checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (source, version))"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file: where it comes from, its name, its phase and its text."""

    source: str
    version: str
    phase: str
    text: str

    @property
    def checksum(self) -> str:
        """Of the file as it stands; an applied file never changes."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def find(directories: Sequence[Path]) -> list[Migration]:
    """All migrations, directory by directory, each in order of its number. Raises ValueError for a stray file name."""
    found = []
    for directory in directories:
        source = directory.parent.name if directory.name == "migrations" else directory.name
        for path in sorted(directory.glob("*.sql")):
            if path.name == "schema.sql":
                continue
            match = _FILE_NAME.match(path.name)
            if match is None:
                raise ValueError(f"migration {path.name} is not named 0001_pre_what.sql")
            found.append(Migration(source=source, version=path.stem, phase=match[2], text=path.read_text("utf-8")))
    return found


async def apply(dsn: str, *, directories: Sequence[Path], phase: Phase | None = None, runtime_role: str) -> list[str]:
    """Apply what is missing, each file once in a transaction of its own, as the schema's owner.

    `phase` limits the run to `pre` (before a roll-out) or `post` (after it); None runs both. Returns the versions
    applied. Raises StartRefused when an applied file was changed since; any SQL error leaves its file unapplied.
    """
    connection = await asyncpg.connect(dsn)
    try:
        # A lock of the session: two migrators of one schema wait for each other, whatever they apply.
        await connection.execute("SELECT pg_advisory_lock($1, hashtext(current_schema()))", _LOCK_KEY)
        await connection.execute(_HISTORY_TABLE)
        await connection.execute(f"GRANT SELECT ON schema_history TO {_quoted(runtime_role)}")
        done = await _history(connection)
        applied = []
        for migration in find(directories):
            if _is_applied(migration, done) or phase not in {None, migration.phase}:
                continue
            await _apply_one(connection, migration, runtime_role)
            applied.append(f"{migration.source}/{migration.version}")
        return applied
    finally:
        await connection.close()


async def check_current(connection: ReadConn, directories: Sequence[Path]) -> None:
    """Refuse to run on a schema that lacks a `pre` step or was migrated by something newer. Raises StartRefused."""
    done = await _history(connection)
    known = {(m.source, m.version): m for m in find(directories)}
    missing = [m.version for key, m in known.items() if key not in done and m.phase == "pre"]
    if missing:
        raise StartRefused(f"schema is behind: {', '.join(missing)} not applied; run the migrate role first")
    for key, migration in known.items():
        if key in done:
            _is_applied(migration, done)


async def _history(connection: Connection) -> dict[tuple[str, str], str]:
    if await connection.fetchval("SELECT to_regclass('schema_history')") is None:
        return {}
    rows = await connection.fetch("SELECT source, version, checksum FROM schema_history")
    return {(row["source"], row["version"]): row["checksum"] for row in rows}


def _is_applied(migration: Migration, done: dict[tuple[str, str], str]) -> bool:
    checksum = done.get((migration.source, migration.version))
    if checksum is not None and checksum != migration.checksum:
        raise StartRefused(f"migration {migration.source}/{migration.version} was changed after it was applied")
    return checksum is not None


async def _apply_one(connection: Connection, migration: Migration, runtime_role: str) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT}'")
        await connection.execute(migration.text.replace("__RUNTIME__", _quoted(runtime_role)))
        await connection.execute(
            "INSERT INTO schema_history (source, version, checksum) VALUES ($1, $2, $3)",
            migration.source,
            migration.version,
            migration.checksum,
        )


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'
