"""The relay loses nothing and keeps each key's order, whatever writers and a second relay do meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.relay import Relay
from defray_kernel.testing.eventually import eventually
from defray_kernel.wakeup import Wakeup
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running

pytestmark = pytest.mark.alone

WRITERS = 16
KEYS = [f"key-{n}" for n in range(50)]


async def test_sixteen_writers_and_two_relays_lose_and_misorder_nothing(
    database: Database, kafka: Kafka, topic: str, running: Running, *, long_form: bool
) -> None:
    """Rollbacks leave holes, early transaction ids commit late, two relays take turns."""
    for_s = 60.0 if long_form else 8.0
    wakeup = Wakeup(database)
    writers = harness.Writers(database, wakeup, topic)
    until = time.monotonic() + for_s
    async with running(Relay(database, kafka).run, Relay(database, kafka).run, wakeup.run):
        async with asyncio.TaskGroup() as tasks:
            for seed in range(WRITERS):
                tasks.create_task(writers.write(seed, KEYS, lambda: time.monotonic() < until))
        async with database.read() as connection:
            await eventually(
                lambda: connection.fetchval("SELECT count(*) = 0 FROM outbox"), within_s=30, what="an empty outbox"
            )
    async with database.read() as connection:
        things = {row["key"]: row["event_seq"] for row in await connection.fetch("SELECT key, event_seq FROM thing")}
        logged = await connection.fetchval("SELECT count(DISTINCT id) FROM event_log")
    committed = writers.committed
    records = await harness.read_topic(kafka, topic)
    delivered = harness.first_occurrences(records)
    print(f"committed {committed}, in the log {len(records)}, repeats {len(records) - committed}")
    assert sum(things.values()) == committed == logged
    assert committed > 25 * for_s
    assert delivered == {key: list(range(1, last + 1)) for key, last in things.items()}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_merge_of_two_relays_outputs_keeps_first_occurrences_in_order(data: st.DataObject) -> None:
    """Why a zombie relay is harmless: it can only send again, in order, a run of rows it had read before it froze.

    Relay A sends rows up to some point and freezes with a read page unsent or unacknowledged; B starts at the first
    row not acknowledged. However the broker interleaves A's late sends with B's, who drops repeats sees the order.
    """
    total = data.draw(st.integers(1, 30))
    acknowledged = data.draw(st.integers(0, total))
    frozen_from = data.draw(st.integers(0, acknowledged))
    frozen_to = data.draw(st.integers(frozen_from, total))
    # What A had read before it froze was unacknowledged then, so that everything before it is in the log already.
    log = list(range(1, frozen_from + 1))
    zombie, heir = list(range(frozen_from + 1, frozen_to + 1)), list(range(frozen_from + 1, total + 1))
    while zombie or heir:
        source = zombie if zombie and (not heir or data.draw(st.booleans())) else heir
        log.append(source.pop(0))
    assert harness.first_occurrences([("k", n) for n in log]) == {"k": list(range(1, total + 1))}
