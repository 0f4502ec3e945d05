"""Offsets are moved by one owner at a time, and only in the log they were taken in."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from defray_kernel import inbox, outbox, topics
from defray_kernel.clock import Clock, SystemClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.db import Database, WriteTx, begin
from defray_kernel.errors import StartRefused, Unavailable
from defray_kernel.inbox import Fenced, Reader
from defray_kernel.kafka import Kafka
from defray_kernel.relay import Relay
from defray_kernel.testing.eventually import eventually
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running, make_topic

CLOCK = SystemClock()
READER = Reader(consumer="reader", owner="a", cluster_id="cluster-1")


async def at_seven() -> int:
    return 7


async def test_a_new_owner_waits_for_the_old_ones_open_work_and_then_fences_it(database: Database) -> None:
    old, new = await database.connect(), await database.connect()
    try:
        mine = await inbox.take_over(old, READER, ("t", 0), 3, at_seven)
        assert (mine.next_offset, mine.epoch) == (7, 2)
        heir = dataclasses.replace(READER, owner="b")
        async with begin(old) as tx:
            await inbox.advance(tx, "reader", [(("t", 0), mine, 10)])
            taking = asyncio.ensure_future(inbox.take_over(new, heir, ("t", 0), 3, at_seven))
            done, _ = await asyncio.wait([taking], timeout=0.3)
            assert not done, "the heir did not wait for the open transaction"
        theirs = await taking
        assert (theirs.next_offset, theirs.epoch) == (10, 3)
        # The zombie knows the right offset, and yet its epoch is over.
        with pytest.raises(Fenced) as fenced:
            async with begin(old) as tx:
                await inbox.advance(tx, "reader", [(("t", 0), dataclasses.replace(mine, next_offset=10), 12)])
        assert fenced.value.partitions == {("t", 0)}
        async with begin(new) as tx:
            await inbox.advance(tx, "reader", [(("t", 0), theirs, 12)])
    finally:
        old.terminate()
        new.terminate()


async def test_a_zombies_batch_changes_nothing_and_the_heir_applies_it_once(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    """The reader stands still in the middle of a batch until another owner has taken its partitions."""
    entered, go_on = asyncio.Event(), asyncio.Event()
    check = harness.Checked("reader")

    async def stand_still(events: Sequence[Event[harness.Moved]], tx: WriteTx, clock: Clock) -> None:
        entered.set()
        await go_on.wait()
        await check(events, tx, clock)

    async with database.transaction() as tx:
        await harness.announce(tx, topic, ["k"])
    zombie = harness.consumer(
        "reader", topic, database, kafka, CLOCK, subscriptions=[harness.Subscription(harness.Moved, stand_still)]
    )
    async with running(Relay(database, kafka).run, zombie.run):
        await asyncio.wait_for(entered.wait(), 20)
        async with database.transaction() as tx:
            # The server ends a frozen owner's transaction; here that is done at once.
            await tx.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND usename = current_user AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
            )
            await tx.execute("UPDATE consumer_offset SET epoch = epoch + 1, owner = 'somebody else'")
        go_on.set()

        async def applied() -> bool:
            async with database.read() as connection:
                return bool(await connection.fetchval("SELECT last_seq = 1 AND applied = 1 FROM seen"))

        await eventually(applied, within_s=20, what="the event, once, by the rightful owner")
    async with database.read() as connection:
        moved = await connection.fetch("SELECT owner FROM consumer_offset WHERE next_offset > 0")
    assert [row["owner"] != "somebody else" for row in moved] == [True]


async def test_two_consumers_share_and_hand_over_without_a_gap(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    keys = [f"k{n}" for n in range(20)]
    one, two = (harness.consumer("reader", topic, database, kafka, CLOCK) for _ in range(2))

    async def all_applied(count: int) -> bool:
        async with database.read() as connection:
            return bool(await connection.fetchval("SELECT count(*) = 20 AND min(last_seq) = $1 FROM seen", count))

    async with running(Relay(database, kafka).run):
        for step, readers in enumerate(([one.run], [one.run, two.run], [two.run]), start=1):
            async with running(*readers):
                for _ in range(3):
                    async with database.transaction() as tx:
                        await harness.announce(tx, topic, keys)
                    await asyncio.sleep(0.1)
                await eventually(lambda: all_applied(step * 3), within_s=20, what=f"step {step}")  # noqa: B023
    async with database.read() as connection:
        assert await connection.fetch("SELECT * FROM wrong") == []
        assert await connection.fetchval("SELECT bool_and(last_seq = applied) FROM seen")


async def test_another_cluster_or_partition_count_is_refused(database: Database, kafka: Kafka, topic: str) -> None:
    async with database.transaction() as tx:
        await tx.execute(inbox.Q.begin_reading, "reader", topic, 0, 5, "a", "another-cluster", 6)
    with pytest.raises(StartRefused, match=r"up to 5 in cluster another-cluster, and this is cluster"):
        await harness.consumer("reader", topic, database, kafka, CLOCK).run(asyncio.Event())
    cluster = await topics.cluster_id(kafka)
    async with database.transaction() as tx:
        await tx.execute("UPDATE consumer_offset SET cluster_id = $1, parts = 8", cluster)
    with pytest.raises(StartRefused, match=r"had 8 partitions when reader began to read it and has 6 now"):
        await harness.consumer("reader", topic, database, kafka, CLOCK).run(asyncio.Event())


async def test_a_log_made_anew_is_noticed_and_not_skipped(database: Database, kafka: Kafka, topic: str) -> None:
    cluster = await topics.cluster_id(kafka)
    async with database.transaction() as tx:
        for part in range(6):
            await tx.execute(inbox.Q.begin_reading, "reader", topic, part, 1_000, "a", cluster, 6)
    with pytest.raises(StartRefused, match="no longer holds the stored offset"):
        await asyncio.wait_for(harness.consumer("reader", topic, database, kafka, CLOCK).run(asyncio.Event()), 30)


async def test_another_number_of_lanes_is_refused(database: Database, kafka: Kafka) -> None:
    async with database.read() as connection:
        await outbox.check_lanes(connection, outbox.LANES)
    with pytest.raises(StartRefused, match="4 lanes, the settings say 8"):
        await Relay(database, kafka, lanes=8).run(asyncio.Event())


async def test_topics_are_created_once_and_differences_are_refused(kafka: Kafka) -> None:
    name = await make_topic(kafka, partitions=2)
    wanted = topics.Topic(name=name, owner="order", partitions=2, retention_ms=86_400_000)
    assert await topics.create(kafka, [wanted]) == []
    await topics.check(kafka, [wanted])
    absent = dataclasses.replace(wanted, name="proof.missing.v1")
    with pytest.raises(Unavailable, match=r"not there yet: proof\.missing\.v1"):
        await topics.check(kafka, [wanted, absent])
    with pytest.raises(StartRefused, match=rf"{name} has 2 partitions instead of 3"):
        await topics.check(kafka, [dataclasses.replace(wanted, partitions=3), absent])


async def test_a_kafka_that_is_not_there_is_told_after_a_while() -> None:
    nowhere = Kafka(bootstrap="127.0.0.1:9", start_within_s=0.5)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        await nowhere.producer()
