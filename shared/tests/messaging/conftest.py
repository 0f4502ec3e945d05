"""A migrated schema, a Kafka with a topic of the test's own, and parts that run beside the test."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from defray_kernel import migrate, topics
from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.topics import Topic
from defray_sandbox.stack.provision import ProvisionedDatabase
from shared.tests.messaging import harness

ROLE = "defray_order"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One service's migrated schema: what the runtime role and the owner connect with."""

    dsn: str
    owner_dsn: str


Runs = Callable[[asyncio.Event], Awaitable[None]]
Running = Callable[..., AbstractAsyncContextManager[asyncio.Event]]


@pytest_asyncio.fixture
async def schema(fresh_database: ProvisionedDatabase) -> Schema:
    """The order service's schema with the kernel's tables and the proofs' own."""
    owner_dsn = fresh_database.owner_dsn("order")
    await migrate.apply(owner_dsn, directories=[migrate.KERNEL_MIGRATIONS], runtime_role=ROLE)
    await harness.prepare(owner_dsn, ROLE)
    return Schema(dsn=fresh_database.dsn("order"), owner_dsn=owner_dsn)


@pytest_asyncio.fixture
async def database(schema: Schema) -> AsyncIterator[Database]:
    async with Database.open(schema.dsn, pool_size_max=10) as opened:
        yield opened


@pytest.fixture
def kafka(kafka_broker: str) -> Kafka:
    """How the tests reach Kafka; sessions are short, so that a killed member's partitions move on soon."""
    return Kafka(bootstrap=kafka_broker, session_timeout_ms=1_500, start_within_s=20.0)


async def make_topic(kafka: Kafka, partitions: int = 6) -> str:
    """A new topic with its dead-letter topics."""
    name = f"proof.{secrets.token_hex(4)}.v1"
    wanted = [(name, partitions), (f"dlq.{name}.reader", 3), (f"dlq.{name}.other", 3)]
    await topics.create(kafka, [Topic(name=n, owner="order", partitions=p, retention_ms=86_400_000) for n, p in wanted])
    return name


@pytest_asyncio.fixture
async def topic(kafka: Kafka) -> str:
    return await make_topic(kafka)


@pytest.fixture
def running() -> Running:
    """Run parts in the background of a `with` block; a part that raises fails the test, all are stopped at its end."""

    @asynccontextmanager
    async def run(*parts: Runs) -> AsyncIterator[asyncio.Event]:
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(part(stopping))
            try:
                yield stopping
            finally:
                stopping.set()

    return run


@pytest.fixture
def long_form() -> bool:
    """Whether the full counts are asked for (`make prove`)."""
    return os.environ.get("DEFRAY_PROVE") == "1"
