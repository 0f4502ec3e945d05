"""Migrations add up to the committed schema, change nothing the second time, and every named query fits the result."""

import importlib
import pkgutil
from pathlib import Path

import asyncpg
import pytest

import defray_kernel
from defray_kernel import migrate, sql
from defray_sandbox.stack.provision import ProvisionedDatabase
from tests.architecture.sources import ROOT
from tests.migrations import schema

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


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def migrated(fresh_database: ProvisionedDatabase, service: str) -> ProvisionedDatabase:
    """A database in which the service's migrations were applied once."""
    assert await schema.apply(fresh_database, service) != []
    return fresh_database


async def test_a_second_run_changes_nothing(migrated: ProvisionedDatabase, service: str) -> None:
    before = await schema.schema_text(migrated, service)
    assert await schema.apply(migrated, service) == []
    assert await schema.schema_text(migrated, service) == before


async def test_migrations_add_up_to_the_committed_schema(migrated: ProvisionedDatabase, service: str) -> None:
    now = await schema.schema_text(migrated, service)
    assert schema.committed(service).read_text(encoding="utf-8") == now, "run `make contracts`"
    connection = await asyncpg.connect(migrated.owner_dsn(service))
    await connection.execute("ALTER TABLE outbox ADD COLUMN stray text")
    await connection.close()
    assert await schema.schema_text(migrated, service) != now


async def test_every_named_query_fits_the_schema_and_is_permitted(migrated: ProvisionedDatabase, service: str) -> None:
    connection = await asyncpg.connect(migrated.dsn(service))
    try:
        wrong = {
            f"{q.path.stem}.{name}": fault
            for q in queries_of(service)
            for name, fault in (await faults(connection, q)).items()
        }
    finally:
        await connection.close()
    assert wrong == {}


async def test_a_query_that_does_not_fit_or_is_not_permitted_is_seen(
    migrated: ProvisionedDatabase, service: str, tmp_path: Path
) -> None:
    path = tmp_path / "strays.sql"
    path.write_text(
        "-- name: typo\nSELECT no_such_column FROM outbox\n-- name: forbidden\nTRUNCATE event_log\n"
        "-- name: rewrites_history\nUPDATE event_log SET topic = $1\n-- name: fine\nSELECT count(*) FROM outbox WHERE lane = $1\n",
        encoding="utf-8",
    )
    connection = await asyncpg.connect(migrated.dsn(service))
    found = await faults(connection, sql.Queries(path))
    await connection.close()
    assert set(found) == {"typo", "rewrites_history"}


async def test_history_is_append_only_by_grant(migrated: ProvisionedDatabase, service: str) -> None:
    connection = await asyncpg.connect(migrated.owner_dsn(service))
    tables = {table["name"]: table["oid"] for table in await connection.fetch(schema.Q.tables)}
    history = {name: oid for name, oid in tables.items() if name in APPEND_ONLY or name.endswith("_transition")}
    assert {"event_log", "audit_log"} <= set(history)
    for name, oid in history.items():
        granted = {row["privilege"] for row in await connection.fetch(schema.Q.grants, oid, f"defray_{service}")}
        assert granted <= {"SELECT", "INSERT"}, name
    await connection.close()


async def test_every_text_has_a_limit(migrated: ProvisionedDatabase, service: str) -> None:
    connection = await asyncpg.connect(migrated.owner_dsn(service))
    found = [row["name"] for row in await connection.fetch(schema.Q.unlimited_columns)]
    await connection.execute("CREATE TABLE stray (note text, kept text CHECK (length(kept) < 10))")
    again = [row["name"] for row in await connection.fetch(schema.Q.unlimited_columns)]
    await connection.close()
    assert sorted(set(again) - set(found)) == ["stray.note"]
    assert set(found) == {f"{table}.{column}" for table, columns in LIMITED_ELSEWHERE.items() for column in columns}


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


async def faults(connection: "asyncpg.Connection[asyncpg.Record]", queries: sql.Queries) -> dict[str, str]:
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
