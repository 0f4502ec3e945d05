"""What Kafka refuses blocks its own key; what was sent can be sent again, in its old place."""

from __future__ import annotations

import datetime as dt
import os
import secrets

import pytest
from aiokafka.admin import NewTopic

from defray_kernel import event_log, outbox
from defray_kernel import kafka as kafka_clients
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.outbox import EventTooLarge
from defray_kernel.relay import Relay
from defray_kernel.testing.eventually import eventually
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running
from shared.tests.messaging.harness import Moved, announcement

CLOCK = SystemClock()


async def small_topic(kafka: Kafka) -> str:
    """A topic of one partition that takes batches of 20 kB at most."""
    name = f"proof.{secrets.token_hex(4)}.v1"
    admin = await kafka.admin()
    try:
        small = {"max.message.bytes": "20000"}
        await admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1, topic_configs=small)])
    finally:
        await kafka_clients.stop(admin)
    return name


async def test_a_refused_record_blocks_only_its_key(database: Database, kafka: Kafka, running: Running) -> None:
    topic = await small_topic(kafka)
    big = Moved(note=os.urandom(50_000).hex())
    async with database.transaction() as tx:
        await outbox.append(
            tx, [announcement(topic, "a", 1), announcement(topic, "big", 1), announcement(topic, "b", 1)]
        )
        await outbox.append(tx, [announcement(topic, "big", 2, big), announcement(topic, "big", 3)])
        await outbox.append(tx, [announcement(topic, "a", 2), announcement("proof.no-such-topic", "a", 3)])
    relay = Relay(database, kafka)
    async with running(relay.run), database.read() as connection:
        left = "SELECT array_agg(aggregate_id || ' ' || aggregate_seq ORDER BY id) FROM outbox"

        async def only_those() -> bool:
            return bool(await connection.fetchval(left) == ["big 2", "big 3", "a 3"])

        await eventually(only_those, within_s=30, what="all but the refused")
        assert "b'big'" in (relay.trouble() or "")
        async with database.transaction() as tx:
            await outbox.append(tx, [announcement(topic, "a", 4), announcement(topic, "big", 4)])

        async def a_flows() -> bool:
            return bool(await connection.fetchval(left) == ["big 2", "big 3", "a 3", "big 4"])

        await eventually(a_flows, within_s=20, what="the other key's next event")
    assert harness.first_occurrences(await harness.read_topic(kafka, topic)) == {"a": [1, 2, 4], "b": [1], "big": [1]}


async def test_an_event_that_is_too_large_for_any_topic_is_refused_when_written(database: Database) -> None:
    with pytest.raises(EventTooLarge):
        async with database.transaction() as tx:
            await outbox.append(tx, [announcement("t", "k", 1, Moved(note="x" * 800_000))])
    async with database.read() as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0


async def test_republished_events_come_before_newer_ones_and_are_logged_once(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    began = CLOCK.real()
    keys = ["a", "b", "c"]
    async with database.read() as connection:

        async def sent() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 0 FROM outbox"))

        async with running(Relay(database, kafka).run):
            for _ in range(4):
                async with database.transaction() as tx:
                    await harness.announce(tx, topic, keys)
            await eventually(sent, within_s=20, what="an empty outbox")
        # Nobody relays now: newer events gather while the old ones are put back.
        async with database.transaction() as tx:
            await harness.announce(tx, topic, keys)
        some = await connection.fetchval(
            "SELECT event_id FROM event_log WHERE aggregate_id = 'c' AND aggregate_seq = 2"
        )
        late = CLOCK.real() + dt.timedelta(hours=1)
        assert await event_log.republish(database, began, late, "no.such.topic") == 0
        assert await event_log.republish(database, began, late, topic, [some]) == 1
        assert await event_log.republish(database, began, late) == 12
        reader = harness.consumer("reader", topic, database, kafka, CLOCK)
        async with running(Relay(database, kafka).run, reader.run):
            await eventually(sent, within_s=20, what="an empty outbox again")

            async def applied() -> bool:
                return bool(await connection.fetchval("SELECT count(*) = 3 AND min(last_seq) = 5 FROM seen"))

            await eventually(applied, within_s=20, what="five events a key")
        assert await connection.fetch("SELECT * FROM wrong") == []
        assert await connection.fetchval("SELECT count(*) FROM event_log") == 15
    in_log = [seq for subject, seq in await harness.read_topic(kafka, topic) if subject == "a"]
    assert in_log == [1, 2, 3, 4, 1, 2, 3, 4, 5]


async def test_partitions_are_kept_by_the_runtime_role(database: Database) -> None:
    await event_log.keep_partitions(database)
    async with database.read() as connection:
        names = [
            row[0] for row in await connection.fetch("SELECT inhrelid::regclass::text FROM pg_inherits ORDER BY 1")
        ]
    today = CLOCK.real().astimezone(dt.UTC).date()
    for days in range(8):
        day = f"{today + dt.timedelta(days=days):%Y%m%d}"
        assert {f"event_log_{day}", f"inbox_{day}"} <= set(names)
