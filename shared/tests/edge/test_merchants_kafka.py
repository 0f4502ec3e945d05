"""The merchant projection on a real Kafka: it follows the topic, survives what it cannot read, and knows when it is behind."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import msgspec
import pytest

from defray_kernel import ids, kafka, merchants, topics
from defray_kernel.clock import SystemClock
from defray_kernel.contracts import envelope
from defray_kernel.contracts.merchant_v1 import TOPIC, MerchantState
from defray_kernel.db import Database
from defray_kernel.errors import Unavailable
from defray_kernel.kafka import Kafka
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.testing.eventually import eventually
from shared.tests.edge import toy


class Registry:
    """Announces merchants as the settlement service does."""

    def __init__(self, client: kafka.AIOKafkaProducer) -> None:
        self._client = client

    async def tell(self, state: MerchantState, sequence: int, value: bytes | None = None) -> None:
        headers = envelope.headers(
            event_id=ids.uuid7(),
            source="settlement",
            type_=MerchantState.TYPE,
            subject=state.merchant_id,
            key=state.merchant_id,
            sequence=sequence,
            time=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            cause=envelope.Cause(correlation_id="corr-0001"),
        )
        await self._client.send_and_wait(
            TOPIC,
            msgspec.json.encode(state) if value is None else value,
            key=state.merchant_id.encode(),
            headers=[(name, text.encode()) for name, text in headers.items()],
        )


@pytest.fixture
async def clients(kafka_broker: str) -> Kafka:
    return Kafka(bootstrap=kafka_broker, session_timeout_ms=2_000, start_within_s=20.0)


@pytest.fixture
async def registry(clients: Kafka) -> AsyncIterator[Registry]:
    producer = await clients.producer()
    yield Registry(producer)
    await kafka.stop(producer)


async def test_the_projection_follows_the_topic(database: Database, clients: Kafka, registry: Registry) -> None:
    with pytest.raises(Unavailable):
        await clients.end_offsets("merchants.nowhere.v1")
    stated = topics.Topic(name=TOPIC, owner="settlement", partitions=3, retention_ms=None)
    await topics.create(clients, [stated])
    first, second = toy.states()
    await registry.tell(first, 1)
    await registry.tell(second, 1)
    directory = MerchantDirectory(
        merchants.projected(database), SystemClock(), caught_up=merchants.caught_up(database, clients)
    )
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(directory.run(stopping))
        await asyncio.sleep(1.5)
        assert not directory.ready, "nobody has read the topic yet"
        consumer = merchants.consumer("payment", database, clients, SystemClock())
        group.create_task(consumer.run(stopping))
        await eventually(lambda: directory.ready, within_s=20, what="the directory to have caught up")
        assert await directory.authenticate(toy.KEYS[0]) is not None
        await registry.tell(first, 2, value=b'{"merchant_id": 5')
        await registry.tell(second, 2)
        await eventually(
            lambda: _known(directory, toy.KEYS[0], known=False), what="the unreadable merchant to be disabled"
        )
        assert await directory.authenticate(toy.KEYS[1]) is not None
        await registry.tell(first, 1)
        await registry.tell(msgspec.structs.replace(first, name="Mended"), 3)
        await eventually(lambda: _known(directory, toy.KEYS[0], known=True), what="the mended merchant to be enabled")
        stopping.set()
    async with database.read() as connection:
        assert await connection.fetchval("SELECT count(*) FROM parked_key") == 0


async def _known(directory: MerchantDirectory, key: str, *, known: bool) -> bool:
    await directory._reread(0)
    return (await directory.authenticate(key) is not None) is known
