"""The broker dies under load and comes back, or stands still beyond the time limits: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.testing.eventually import eventually
from defray_kernel.wakeup import Wakeup
from defray_sandbox.stack.kafka import KafkaBroker
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running, Schema, make_topic
from shared.tests.messaging.processes import Worker

pytestmark = pytest.mark.alone

KEYS = [f"key-{n}" for n in range(60)]
LONGER_THAN_THE_RELAYS_LIMIT_S = 8.0


async def test_broker_killed_and_frozen_under_load(
    database: Database, schema: Schema, private_kafka: KafkaBroker, running: Running, tmp_path: Path, *, long_form: bool
) -> None:
    """A relay that is left in doubt leaves with exit code 75 and is started again, as a supervisor would."""
    await asyncio.to_thread(private_kafka.start)
    kafka = Kafka(bootstrap=private_kafka.bootstrap, session_timeout_ms=1_500)
    topic = await make_topic(kafka)
    relay = Worker("relay", schema.dsn, kafka.bootstrap, log=tmp_path / "relay.log")
    reader = Worker("reader", schema.dsn, kafka.bootstrap, topic, log=tmp_path / "reader.log")
    workers = (relay, reader)
    for worker in workers:
        worker.start()
    wakeup = Wakeup(database)
    writers, over = harness.Writers(database, wakeup, topic, pause_s=0.01), asyncio.Event()

    try:
        async with running(wakeup.run), asyncio.TaskGroup() as tasks:
            tasks.create_task(_supervise(workers, over))
            for seed in range(3):
                tasks.create_task(writers.write(seed, KEYS, lambda: not over.is_set()))
            for _ in range(5 if long_form else 1):
                await _kill_and_freeze(private_kafka, database)
            over.set()
        for worker in workers:
            worker.revive()
        await harness.drained(database)
    except BaseException:
        for worker in workers:
            print(worker.last_lines())
        raise
    finally:
        for worker in workers:
            worker.end()
    committed, deaths = writers.committed, Counter(relay.deaths)
    repeats = len(await harness.read_topic(kafka, topic)) - committed
    print(f"broker faults: {committed} events, relay left {deaths}, {repeats} repeats in the log")
    assert reader.deaths == []
    assert set(deaths) <= {75}
    assert deaths[75] >= 1, "the relay sat through a broker that answered nothing"
    await harness.assert_exact(database, topic, committed)


async def _supervise(workers: Sequence[Worker], over: asyncio.Event) -> None:
    while not over.is_set():
        await asyncio.sleep(0.5)
        for worker in workers:
            worker.revive()


async def _kill_and_freeze(broker: KafkaBroker, database: Database) -> None:
    await _flows(database)
    broker.kill()
    await asyncio.sleep(0.5)
    await asyncio.to_thread(broker.start)
    await _flows(database)
    broker.freeze()
    await asyncio.sleep(LONGER_THAN_THE_RELAYS_LIMIT_S)
    broker.thaw()
    await _flows(database)


async def _flows(database: Database) -> None:
    """Wait until events committed after this moment have been applied."""
    async with database.read() as connection:
        committed = await connection.fetchval("SELECT coalesce(sum(event_seq), 0) FROM thing")

        async def applied() -> bool:
            return bool(await connection.fetchval("SELECT sum(last_seq) > $1 FROM seen", committed))

        await eventually(applied, within_s=60, every_s=0.2, what="events to flow")


async def test_every_crash_point_leaves_nothing_lost_or_doubled(
    database: Database, schema: Schema, kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    committed = 0
    parts = {
        "relay.after_read": "relay",
        "relay.after_send": "relay",
        "relay.before_commit": "relay",
        "consumer.before_commit": "reader",
        "consumer.after_commit": "reader",
    }
    arguments = {"relay": (), "reader": (topic,)}
    helper = Worker("relay", schema.dsn, kafka.bootstrap, log=tmp_path / "helper.log")
    for point, script in parts.items():
        async with database.transaction() as tx:
            await harness.announce(tx, topic, KEYS)
        committed += len(KEYS)
        victim = Worker(script, schema.dsn, kafka.bootstrap, *arguments[script], point, log=tmp_path / f"{point}.log")
        victim.start()
        if point == "consumer.before_commit":
            helper.start()  # A relay that lives brings the consumers their records.
        assert await asyncio.to_thread(victim.wait, 30) == -signal.SIGKILL, victim.last_lines()
    reader = Worker("reader", schema.dsn, kafka.bootstrap, topic, log=tmp_path / "reader.log")
    reader.start()
    try:
        await harness.drained(database)
    finally:
        reader.end()
        helper.end()
    await harness.assert_exact(database, topic, committed)
