"""Gives tests a real PostgreSQL and a real Kafka, one of each per pytest process, and an empty database per test.

Under `pytest -n2` every worker has servers of its own (a PostgreSQL costs 0.5 s, a Kafka 2–4 s and 450 MB); nothing is
shared, so nothing needs counting. DEFRAY_TEST_POSTGRES (a superuser DSN) and DEFRAY_TEST_KAFKA (host:port) name
servers that already run; tests that kill a server start private ones in any case.
"""

import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from defray_sandbox.settings import read_settings
from defray_sandbox.stack import aot
from defray_sandbox.stack.kafka import KafkaBroker
from defray_sandbox.stack.paths import private_folder, stack_paths, sweep_scratch
from defray_sandbox.stack.postgres import PostgresServer
from defray_sandbox.stack.provision import (
    ProvisionedDatabase,
    copy_database,
    drop_database,
    provision,
    stored_passwords,
)

MakeDatabase = Callable[..., Awaitable[ProvisionedDatabase]]


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder for private servers (entered by `nobody` too, unlike pytest's own); removed at the end of the session."""
    paths = stack_paths()
    sweep_scratch(paths)
    folder = private_folder(paths, f"test-{read_settings().xdist_worker}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[str]:
    """The superuser's DSN of a running PostgreSQL."""
    given = read_settings().test_postgres
    if given is not None:
        yield given
        return
    server = PostgresServer(server_folder / "postgres")
    server.start()
    yield server.dsn()
    server.stop()


@pytest.fixture(scope="session")
def kafka_broker(server_folder: Path) -> Iterator[str]:
    """The bootstrap address (`host:port`) of a running Kafka; topics are the tests' own, with names of their own."""
    given = read_settings().test_kafka
    if given is not None:
        yield given
        return
    broker = KafkaBroker(server_folder / "kafka")
    broker.start()
    yield broker.bootstrap
    broker.stop()
    aot.ensure_in_background()


@pytest_asyncio.fixture
async def make_database(postgres_server: str, server_folder: Path) -> AsyncIterator[MakeDatabase]:
    """A function that makes databases with roles and empty schemas, or copies of `template`; all dropped after the test."""
    passwords = stored_passwords(server_folder / "passwords.json")
    names: list[str] = []

    async def make(template: ProvisionedDatabase | None = None) -> ProvisionedDatabase:
        name = f"test_{secrets.token_hex(6)}"
        names.append(name)
        if template is not None:
            await copy_database(postgres_server, template=template.name, database=name)
        return await provision(postgres_server, passwords, database=name)

    yield make
    for name in names:
        await drop_database(postgres_server, name)


@pytest_asyncio.fixture
async def fresh_database(make_database: MakeDatabase) -> ProvisionedDatabase:
    """A new database with the services' roles and empty schemas, dropped after the test."""
    return await make_database()


@pytest.fixture
def private_postgres(server_folder: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL for one test alone (to be killed, frozen, filled); started by the test, ended after it."""
    server = PostgresServer(server_folder / f"postgres-{secrets.token_hex(4)}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, server.folder, ignore_errors=True)
        stack.callback(server.kill)
        yield server


@pytest.fixture
def private_kafka(server_folder: Path) -> Iterator[KafkaBroker]:
    """A Kafka for one test alone (to be killed, frozen, filled); started by the test, ended after it."""
    broker = KafkaBroker(server_folder / f"kafka-{secrets.token_hex(4)}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, broker.folder, ignore_errors=True)
        stack.callback(broker.kill)
        yield broker
