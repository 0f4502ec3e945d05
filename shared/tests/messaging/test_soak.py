"""Everything that may die, dies: relays and consumers by kill -9, a consumer frozen and thawed, keys poisoned and cured."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.testing.eventually import eventually
from defray_kernel.wakeup import Wakeup
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running, Schema
from shared.tests.messaging.processes import Worker

pytestmark = pytest.mark.alone

KEYS = [f"key-{n:03}" for n in range(200)]
POISONED = {"key-007": "poison", "key-042": "bug", "key-099": "later", "key-150": "poison"}


async def test_soak_with_kills_freezes_and_poison(
    database: Database, schema: Schema, kafka: Kafka, topic: str, running: Running, tmp_path: Path, *, long_form: bool
) -> None:
    """0 lost, 0 applied twice, 0 out of order per key; after the cure nothing is left parked."""
    for_s = 240.0 if long_form else 30.0
    relays = [Worker("relay", schema.dsn, kafka.bootstrap, log=tmp_path / f"relay-{n}.log") for n in range(2)]
    readers = [Worker("reader", schema.dsn, kafka.bootstrap, topic, log=tmp_path / f"reader-{n}.log") for n in range(2)]
    workers = [*relays, *readers]
    for worker in workers:
        worker.start()
    wakeup = Wakeup(database)
    writers = harness.Writers(database, wakeup, topic, pause_s=0.02)
    until = time.monotonic() + for_s

    def go_on() -> bool:
        return time.monotonic() < until

    try:
        async with running(wakeup.run), asyncio.TaskGroup() as tasks:
            for seed in range(4):
                tasks.create_task(writers.write(seed, KEYS, go_on))
            tasks.create_task(_poison_and_cure(database, for_s))
            tasks.create_task(_harass(relays, readers, for_s))
            # Its events come at random else, and an idle key cannot fail.
            tasks.create_task(writers.write(4, list(POISONED), go_on))
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
    committed = writers.committed
    kills = {
        code: sum(worker.deaths.count(code) for worker in workers) for code in {c for w in workers for c in w.deaths}
    }
    print(f"soak: {committed} events in {for_s:.0f} s, deaths by exit code {kills}")
    assert kills.get(-signal.SIGKILL, 0) >= for_s / 6
    assert set(kills) <= {-signal.SIGKILL}, [worker.last_lines() for worker in workers]
    await harness.assert_exact(database, topic, committed)


async def _poison_and_cure(database: Database, for_s: float) -> None:
    await asyncio.sleep(for_s * 0.15)
    for subject, kind in POISONED.items():
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO poison VALUES ($1, $2)", subject, kind)
        # One after the other: many keys at once would be an outage, which parks nothing.
        await eventually(lambda: _parked(database, subject), within_s=for_s, every_s=0.2, what=f"{subject} parked")  # noqa: B023
        await asyncio.sleep(for_s * 0.05)
    async with database.transaction() as tx:
        await tx.execute("DELETE FROM poison")


async def _parked(database: Database, subject: str) -> bool:
    async with database.read() as connection:
        return bool(await connection.fetchval("SELECT true FROM parked_key WHERE part_key = $1", subject.encode()))


async def _harass(relays: list[Worker], readers: list[Worker], for_s: float) -> None:
    """Every second or so somebody dies; once or twice a reader is frozen for longer than its session."""
    rng = random.Random(5)
    began = time.monotonic()
    freeze_at = [for_s * 0.3, for_s * 0.65]
    while (now := time.monotonic() - began) < for_s:
        if freeze_at and now > freeze_at[0]:
            freeze_at.pop(0)
            victim = rng.choice(readers)
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(4.0)
            victim.signal(signal.SIGCONT)
        rng.choice(relays if rng.random() < 0.7 else readers).kill()
        await asyncio.sleep(rng.uniform(0.5, 1.5))
        for worker in (*relays, *readers):
            worker.revive()
