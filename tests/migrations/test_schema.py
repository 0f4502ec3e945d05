"""Migrations add up to the committed schema, change nothing the second time, and every named query fits the result."""

import asyncio
import importlib
import pkgutil
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

import defray_kernel
from defray_kernel import migrate, sql
from defray_sandbox.stack.provision import ProvisionedDatabase, drop_database, provision, stored_passwords
from tests.architecture.sources import ROOT
from tests.migrations import schema

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SERVICES = schema.SERVICES
APPEND_ONLY = ("event_log", "audit_log", "entry", "posting")

# Texts without a limit of their own, table by table, with what limits them instead; the list must match exactly.
LIMITED_ELSEWHERE = {
    "consumer_offset": {"cluster_id", "owner", "topic"},  # The broker's and the host's own short names.
    "daily_table": {"name"},  # Written by migrations only.
    # Moved here by the relay from the outbox, whose checks they passed.
    "event_log": {"aggregate_id", "event_type", "headers", "part_key", "payload", "topic"},
    # Whatever the broker took must fit, or it could not be parked; the topic's max.message.bytes is the limit.
    "parked_event": {"consumer", "headers", "key", "part_key", "payload", "topic"},
    "schema_history": {"checksum", "source", "version"},  # Written by migrations only.
}


# Run by operators as the owner: the serving role may not write history anew.
BY_OWNER = {"sealed"}


@pytest.fixture(scope="module")
def migrated(postgres_server: str, server_folder: Path) -> Iterator[ProvisionedDatabase]:
    """One database with every service's migrations applied once, as they stand side by side in the sandbox."""
    passwords = stored_passwords(server_folder / "passwords.json")
    name = f"test_{secrets.token_hex(6)}"

    async def prepare() -> ProvisionedDatabase:
        database = await provision(postgres_server, passwords, database=name)
        for service in SERVICES:
            assert await schema.apply(database, service) != []
        return database

    yield asyncio.run(prepare())
    asyncio.run(drop_database(postgres_server, name))


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def owner(migrated: ProvisionedDatabase, service: str) -> AsyncIterator[Connection]:
    """The owner's connection, inside a transaction that is rolled back."""
    connection = await asyncpg.connect(migrated.owner_dsn(service))
    await connection.execute("BEGIN")
    yield connection
    await connection.close()


@pytest.fixture
async def runtime(migrated: ProvisionedDatabase, service: str) -> AsyncIterator[Connection]:
    """The running service's connection."""
    connection = await asyncpg.connect(migrated.dsn(service))
    yield connection
    await connection.close()


async def test_a_second_run_changes_nothing(migrated: ProvisionedDatabase, service: str, owner: Connection) -> None:
    before = await schema.schema_text(owner, service)
    assert await schema.apply(migrated, service) == []
    assert await schema.schema_text(owner, service) == before


async def test_migrations_add_up_to_the_committed_schema(service: str, owner: Connection) -> None:
    now = await schema.schema_text(owner, service)
    assert schema.committed(service).read_text(encoding="utf-8") == now, "run `make contracts`"
    await owner.execute("ALTER TABLE outbox ADD COLUMN stray text")
    assert await schema.schema_text(owner, service) != now


async def test_every_named_query_fits_the_schema_and_is_permitted(
    service: str, runtime: Connection, owner: Connection
) -> None:
    checked = queries_of(service)
    found = {
        f"{queries.path.stem}.{name}": why
        for queries in checked
        for name, why in (await faults(owner if queries.path.stem in BY_OWNER else runtime, queries)).items()
    }
    assert found == {}
    assert sum(len(queries.by_name) for queries in checked) > 20


async def test_a_query_that_does_not_fit_or_is_not_permitted_is_seen(runtime: Connection, tmp_path: Path) -> None:
    path = tmp_path / "strays.sql"
    path.write_text(
        "-- name: typo\nSELECT no_such_column FROM outbox\n-- name: rewrites_history\nUPDATE event_log SET topic = $1\n"
        "-- name: fine\nSELECT count(*) FROM outbox WHERE lane = $1\n",
        encoding="utf-8",
    )
    assert set(await faults(runtime, sql.Queries(path))) == {"typo", "rewrites_history"}


async def test_history_is_append_only_by_grant(service: str, owner: Connection) -> None:
    tables = {table["name"]: table["oid"] for table in await owner.fetch(schema.Q.tables)}
    history = {name: oid for name, oid in tables.items() if name in APPEND_ONLY or name.endswith("_transition")}
    assert {"event_log", "audit_log"} <= set(history)
    for name, oid in history.items():
        granted = {row["privilege"] for row in await owner.fetch(schema.Q.grants, oid, f"defray_{service}")}
        assert granted <= {"SELECT", "INSERT"}, name


async def test_every_text_has_a_limit(owner: Connection) -> None:
    found = {row["name"] for row in await owner.fetch(schema.Q.unlimited_columns)}
    assert found == {f"{table}.{column}" for table, columns in LIMITED_ELSEWHERE.items() for column in columns}
    await owner.execute("CREATE TABLE stray (note text, kept text CHECK (length(kept) < 10))")
    again = {row["name"] for row in await owner.fetch(schema.Q.unlimited_columns)}
    assert again - found == {"stray.note"}


def queries_of(service: str) -> list[sql.Queries]:
    """Every named query that the service's image may run: its own files and the kernel's."""
    package = importlib.import_module(f"defray_{service}")
    for module in (*pkgutil.walk_packages(package.__path__, f"{package.__name__}."), *_kernel_modules()):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    projects_merchants = migrate.MERCHANT_MIGRATIONS in schema.definition(service).migrations
    own = ROOT / "services" / service / "src"
    kernel = Path(defray_kernel.__path__[0])
    found = [
        q
        for q in sql.all_queries()
        if q.path.is_relative_to(own)
        or (q.path.is_relative_to(kernel) and (projects_merchants or q.path.stem != "merchants"))
    ]
    assert any(q.path.is_relative_to(own) for q in found)
    files = set(own.rglob("*.sql"))
    assert files == {q.path for q in found if q.path.is_relative_to(own)}, "a .sql file that no module loads"
    return found


def _kernel_modules() -> list[pkgutil.ModuleInfo]:
    names = pkgutil.walk_packages(defray_kernel.__path__, "defray_kernel.")
    return [module for module in names if not module.name.startswith("defray_kernel.testing")]


async def faults(connection: Connection, queries: sql.Queries) -> dict[str, str]:
    """What the server says against each query; planning it as the running role also asks for its rights."""
    found = {}
    # Before 16 there are no generic plans for parameters, so only names and types are checked there.
    plans = connection.get_server_version().major >= 16
    for name, text in queries.by_name.items():
        try:
            await connection.prepare(text)
            if plans and text.split()[0].upper() in {"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"}:
                await connection.execute(f"EXPLAIN (GENERIC_PLAN) {text}")
        except asyncpg.PostgresError as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found
