"""A migrated database for each test, and the order service's public port on a real server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from defray_kernel import migrate
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.ids import uuid7
from defray_order import wiring
from defray_sandbox.pytest_plugin import MakeDatabase
from defray_sandbox.stack.provision import (
    ProvisionedDatabase,
    copy_database,
    drop_database,
    provision,
    stored_passwords,
)

from .running import Service, running


@pytest.fixture(scope="session")
def template(postgres_server: str, server_folder: Path) -> Iterator[ProvisionedDatabase]:
    """A database with the order service's schema, to be copied."""
    name = f"template_order_{uuid7().hex[-12:]}"

    async def make() -> ProvisionedDatabase:
        made = await provision(postgres_server, stored_passwords(server_folder / "passwords.json"), database=name)
        await migrate.apply(made.owner_dsn("order"), directories=wiring.MIGRATIONS, runtime_role="defray_order")
        return made

    yield asyncio.run(make())
    asyncio.run(drop_database(postgres_server, name))


@pytest.fixture
def copied(postgres_server: str, server_folder: Path, template: ProvisionedDatabase) -> Iterator[ProvisionedDatabase]:
    """The same as `migrated`, for tests that are not asynchronous."""
    name = f"test_{uuid7().hex[-12:]}"

    async def make() -> ProvisionedDatabase:
        await copy_database(postgres_server, template=template.name, database=name)
        return await provision(postgres_server, stored_passwords(server_folder / "passwords.json"), database=name)

    yield asyncio.run(make())
    asyncio.run(drop_database(postgres_server, name))


@pytest_asyncio.fixture
async def migrated(make_database: MakeDatabase, template: ProvisionedDatabase) -> ProvisionedDatabase:
    """A database with the order service's schema, empty."""
    return await make_database(template)


@pytest_asyncio.fixture
async def database(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as the running service may use it."""
    async with Database.open(migrated.dsn("order")) as opened:
        yield opened


@pytest_asyncio.fixture
async def service(database: Database) -> AsyncIterator[Service]:
    """The running public port."""
    async with running(database, wiring.placing(database, SystemClock(), after_commit=None)) as served:
        yield served
