"""Roles and schemas: every service sees its own schema only, and provisioning twice changes nothing."""

import asyncio
import itertools

import asyncpg
import pytest

from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.paths import CHECKOUT
from defray_sandbox.stack.provision import SERVICES, Passwords, ProvisionedDatabase, provision, role_names

_FACTS = """
SELECT rolname::text, rolconfig::text, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles
WHERE rolname LIKE 'defray%' UNION ALL
SELECT nspname::text, nspacl::text, false, false, false, false, false FROM pg_namespace ORDER BY 1
"""


async def _with_table(database: ProvisionedDatabase, service: str) -> None:
    owner = await asyncpg.connect(database.owner_dsn(service), timeout=5)
    await owner.execute("CREATE TABLE secret (n int)")
    await owner.execute(f"GRANT SELECT, INSERT ON secret TO defray_{service}")
    await owner.close()


@pytest.mark.parametrize(("reader", "other"), list(itertools.permutations(SERVICES, 2)))
async def test_no_role_enters_anothers_schema(fresh_database: ProvisionedDatabase, reader: str, other: str) -> None:
    await _with_table(fresh_database, other)
    for dsn in (fresh_database.dsn(reader), fresh_database.owner_dsn(reader)):
        connection = await asyncpg.connect(dsn, timeout=5)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for schema"):
            await connection.fetch(f"SELECT * FROM {SERVICES[other]}.secret")
        await connection.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_runtime_role_may_do_what_its_migrations_granted_and_no_more(
    fresh_database: ProvisionedDatabase, service: str
) -> None:
    await _with_table(fresh_database, service)
    connection = await asyncpg.connect(fresh_database.dsn(service), timeout=5)
    assert await connection.fetchval("SELECT current_schema()") == SERVICES[service]
    assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "30s"
    assert await connection.fetchval("SHOW lock_timeout") == "10s"
    await connection.execute("INSERT INTO secret VALUES (1)")
    for forbidden in (
        "UPDATE secret SET n = 2",
        "DELETE FROM secret",
        "TRUNCATE secret",
        "DROP TABLE secret",
        "CREATE TABLE mine (n int)",
        "CREATE TABLE public.mine (n int)",
        "CREATE TEMPORARY TABLE mine (n int)",
        f"SET ROLE defray_{service}_owner",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(forbidden)
    await connection.close()


async def test_provisioning_twice_and_at_once_changes_nothing(fresh_database: ProvisionedDatabase) -> None:
    async def facts() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(fresh_database.admin_dsn, timeout=5)
        try:
            return await connection.fetch(_FACTS)
        finally:
            await connection.close()

    before = await facts()
    again = (
        provision(fresh_database.admin_dsn, fresh_database.passwords, database=fresh_database.name) for _ in range(3)
    )
    await asyncio.gather(*again)
    assert await facts() == before
    assert {row[0] for row in before} >= {*role_names(), *SERVICES.values()}


async def test_a_role_that_may_create_roles_is_enough(
    postgres_server: str, fresh_database: ProvisionedDatabase
) -> None:
    admin = await asyncpg.connect(postgres_server, timeout=5)
    await admin.execute("DROP ROLE IF EXISTS plain_admin")
    await admin.execute("CREATE ROLE plain_admin LOGIN CREATEROLE CREATEDB PASSWORD 'p'")
    # As on a server of the user's own, where this role made the services' roles itself.
    for role in role_names():
        await admin.execute(f"GRANT {role} TO plain_admin WITH ADMIN OPTION")
    address = postgres_server.rpartition("@")[2]
    try:
        made = await provision(
            f"postgresql://plain_admin:p@{address}", fresh_database.passwords, database="plain_database"
        )
        connection = await asyncpg.connect(made.dsn("order"), timeout=5)
        assert await connection.fetchval("SELECT current_schema()") == "orders"
        await connection.close()
    finally:
        await admin.execute("DROP DATABASE IF EXISTS plain_database WITH (FORCE)")
        await admin.execute("DROP OWNED BY plain_admin CASCADE")
        await admin.execute("DROP ROLE plain_admin")
        await admin.close()


async def test_a_wrong_dsn_is_one_clear_error() -> None:
    with pytest.raises(StackError, match="could not be prepared"):
        await provision("postgresql://nobody@127.0.0.1:1/none", Passwords(by_role={}))


def test_passwords_are_not_shown() -> None:
    assert "hidden" not in repr(Passwords(by_role={"defray_order": "hidden"}))
    assert "PASSWORD '" not in (CHECKOUT / "deploy/postgres/roles.sql").read_text()
