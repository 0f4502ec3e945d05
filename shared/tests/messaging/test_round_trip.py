"""An event goes from a business transaction through outbox, relay and Kafka into another transaction, unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from defray_kernel import event_log, outbox
from defray_kernel.clock import Clock, SystemClock
from defray_kernel.consumer import Subscription
from defray_kernel.contracts.envelope import Event
from defray_kernel.db import Database, WriteTx
from defray_kernel.kafka import Kafka
from defray_kernel.relay import Relay
from defray_kernel.testing.eventually import eventually
from defray_kernel.wakeup import Wakeup
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running
from shared.tests.messaging.harness import Moved, Unheard

CLOCK = SystemClock()


async def test_an_event_arrives_once_with_all_it_carried(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    got: list[Event[Moved]] = []

    async def keep(events: Sequence[Event[Moved]], _tx: WriteTx, _clock: Clock) -> None:
        got.extend(events)

    reader = harness.consumer("reader", topic, database, kafka, CLOCK, subscriptions=[Subscription(Moved, keep)])
    wakeup = Wakeup(database)
    async with running(Relay(database, kafka).run, reader.run, wakeup.run):
        sent = harness.announcement(topic, "ord_1", 1, Moved(note="ünï"))
        async with database.transaction() as tx:
            await outbox.append(tx, [sent, harness.announcement(topic, "ord_1", 2, Unheard())])
        wakeup.poke()
        await eventually(lambda: got, within_s=20, what="the event")
        async with database.read() as connection:
            await eventually(lambda: connection.fetchval("SELECT count(*) = 0 FROM outbox"), what="an empty outbox")
            assert await connection.fetchval("SELECT count(*) FROM event_log") == 2
            assert await connection.fetchval(event_log.Q.strays) == 0
    assert [event.id for event in got] == [sent.id]
    assert (got[0].subject, got[0].sequence, got[0].key, got[0].correlation_id) == ("ord_1", 1, "ord_1", "corr")
    assert got[0].source == f"/{topic.partition('.')[0]}"
    assert got[0].time == sent.occurred_at
    assert got[0].data == Moved(note="ünï")
