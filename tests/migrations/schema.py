"""Each service's migrated schema as text, the checked sum of its migrations: `python -m tests.migrations.schema` writes it."""

import asyncio
import importlib
import shutil
from pathlib import Path
from typing import Any

import asyncpg

from defray_kernel import migrate
from defray_kernel.roles import ServiceDefinition
from defray_kernel.sql import Queries
from defray_sandbox.stack.paths import private_folder, stack_paths
from defray_sandbox.stack.postgres import PostgresServer
from defray_sandbox.stack.provision import ProvisionedDatabase, provision, stored_passwords
from tests.architecture.sources import ROOT

SERVICES = ("order", "payment", "settlement", "notifier")
Q = Queries(Path(__file__).with_name("catalogue.sql"))

_HEAD = "-- The sum of this service's migrations and the kernel's, written by `make contracts`; it is read, never applied.\n"


def definition(service: str) -> ServiceDefinition:
    """What the service says of itself."""
    found: ServiceDefinition = importlib.import_module(f"defray_{service}.__main__").SERVICE
    return found


def committed(service: str) -> Path:
    """Where the sum of a service's migrations stands."""
    return ROOT / "services" / service / "migrations" / "schema.sql"


async def apply(database: ProvisionedDatabase, service: str) -> list[str]:
    """Apply the service's migrations as its owner."""
    return await migrate.apply(
        database.owner_dsn(service), directories=definition(service).migrations, runtime_role=f"defray_{service}"
    )


async def schema_text(connection: "asyncpg.Connection[Any]", service: str) -> str:
    """The schema in the same words and order on every server; daily partitions, which come and go, are left out.

    `connection` is the owner's, whose search path names the schema.
    """
    role = f"defray_{service}"
    parts = [await _table(connection, table, role) for table in await connection.fetch(Q.tables)]
    parts += [
        f"{function['definition'].rstrip()};\n" + (f"-- {role} may call it.\n" if function["callable"] else "")
        for function in await connection.fetch(Q.functions, role)
    ]
    parts += [
        f"CREATE SEQUENCE {sequence['name']};  -- {role} may {'' if sequence['usable'] else 'not '}use it\n"
        for sequence in await connection.fetch(Q.sequences, role)
    ]
    return "\n".join([_HEAD, *parts]).replace(f"{definition(service).schema}.", "")


async def _table(connection: "asyncpg.Connection[Any]", table: asyncpg.Record, role: str) -> str:
    oid, name = table["oid"], table["name"]
    lines = [_column(column) for column in await connection.fetch(Q.columns, oid)]
    lines += [f"CONSTRAINT {c['name']} {c['definition']}" for c in await connection.fetch(Q.constraints, oid)]
    tail = f" PARTITION BY {table['partitioned_by']}" if table["partitioned_by"] else ""
    tail += f" WITH ({', '.join(table['options'])})" if table["options"] else ""
    head = "CREATE UNLOGGED TABLE" if table["unlogged"] else "CREATE TABLE"
    statements = [f"{head} {name} (\n  " + ",\n  ".join(lines) + f"\n){tail};"]
    statements += [f"{index['definition']};" for index in await connection.fetch(Q.indexes, oid)]
    statements += [f"{trigger['definition']};" for trigger in await connection.fetch(Q.triggers, oid)]
    grants = [
        grant["privilege"] + (f" ({grant['columns']})" if grant["columns"] else "")
        for grant in await connection.fetch(Q.grants, oid, role)
    ]
    statements += [f"GRANT {', '.join(grants)} ON {name} TO {role};"] if grants else []
    return "\n".join(statements) + "\n"


def _column(column: asyncpg.Record) -> str:
    words = [column["name"], column["type"]]
    if column["identity"] != b"\0" and column["identity"]:
        words.append(f"GENERATED {'ALWAYS' if column['identity'] == b'a' else 'BY DEFAULT'} AS IDENTITY")
    elif column["generated"] != b"\0" and column["generated"]:
        words.append(f"GENERATED ALWAYS AS ({column['default']}) STORED")
    elif column["default"] is not None:
        words.append(f"DEFAULT {column['default']}")
    return " ".join([*words, *(["NOT NULL"] if column["required"] else [])])


async def write(folder: Path) -> None:
    """Write every service's schema, from a Postgres of its own."""
    server = PostgresServer(folder / "postgres")
    await asyncio.to_thread(server.start)
    try:
        database = await provision(server.dsn(), stored_passwords(folder / "passwords.json"))
        for service in SERVICES:
            await apply(database, service)
            connection = await asyncpg.connect(database.owner_dsn(service))
            committed(service).write_text(await schema_text(connection, service), encoding="utf-8")
            await connection.close()
    finally:
        await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    private = private_folder(stack_paths(), "schema")
    try:
        asyncio.run(write(private))
    finally:
        shutil.rmtree(private, ignore_errors=True)
