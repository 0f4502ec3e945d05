"""A failing event stops its own key and nothing else; what was parked is applied later, in order, exactly once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from defray_kernel import outbox, parking
from defray_kernel.applying import Skipped
from defray_kernel.clock import SystemClock
from defray_kernel.contracts import envelope
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import Database, WriteTx
from defray_kernel.ids import uuid7
from defray_kernel.kafka import Kafka
from defray_kernel.relay import Relay
from defray_kernel.testing.eventually import eventually
from shared.tests.messaging import harness
from shared.tests.messaging.conftest import Running
from shared.tests.messaging.harness import Moved, Unheard

CLOCK = SystemClock()


@asynccontextmanager
async def sender(kafka: Kafka) -> AsyncIterator[AIOKafkaProducer]:
    """A producer of whatever bytes: consumers face what others send."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


def headers(key: str, sequence: int, type_: str = Moved.TYPE) -> list[tuple[str, bytes]]:
    made = envelope.headers(
        event_id=uuid7(),
        source="/proof",
        type_=type_,
        subject=key,
        key=key,
        sequence=sequence,
        time=CLOCK.real(),
        cause=Cause(correlation_id="c"),
    )
    return [(name, value.encode()) for name, value in made.items()]


async def set_poison(database: Database, **subjects: str) -> None:
    async with database.transaction() as tx:
        await tx.execute("DELETE FROM poison")
        await tx.executemany("INSERT INTO poison VALUES ($1, $2)", list(subjects.items()))


async def last_sequences(database: Database) -> dict[str, int]:
    async with database.read() as connection:
        assert await connection.fetch("SELECT * FROM wrong") == []
        rows = await connection.fetch("SELECT subject, last_seq, applied FROM seen")
    assert all(row["last_seq"] == row["applied"] for row in rows)
    return {row["subject"]: row["last_seq"] for row in rows}


async def parked(database: Database) -> dict[str, int]:
    async with database.read() as connection:
        return {row["part_key"]: row["events"] for row in await parking.list_keys(connection, "reader")}


async def test_a_poisoned_key_waits_with_all_behind_it_while_others_flow(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    await set_poison(database, bad="poison", buggy="bug")
    reader = harness.consumer("reader", topic, database, kafka, CLOCK, version="1.2.3")
    async with running(Relay(database, kafka).run, reader.run):
        for _ in range(5):
            async with database.transaction() as tx:
                await harness.announce(tx, topic, ["bad", "buggy", "good", "fine"])

        async def settled() -> bool:
            applied, waiting = await last_sequences(database), await parked(database)
            return (applied, waiting) == ({"good": 5, "fine": 5}, {"bad": 5, "buggy": 5})

        await eventually(settled, within_s=20, what="the good keys' events applied, the others' parked")
        async with database.read() as connection:
            (first, second) = sorted(await parking.list_keys(connection), key=lambda row: row["part_key"])
        assert (first["error_class"], second["error_class"]) == ("Poison", "ValueError")
        dead = await _dead_letters(kafka, f"dlq.{topic}.reader", 2)
        assert {key: (h["x-error-class"], h["x-origin-topic"], h["ce_sequence"][-1:]) for key, h in dead.items()} == {
            b"bad": (b"Poison", topic.encode(), b"1"),
            b"buggy": (b"ValueError", topic.encode(), b"1"),
        }
        assert dead[b"buggy"]["x-attempts"] == b"3"
        assert dead[b"bad"]["x-service-version"] == b"1.2.3"

        await set_poison(database)
        async with database.transaction() as tx:
            assert await parking.retry(tx, "reader", b"bad", actor="op@example", clock=CLOCK)
            assert not await parking.retry(tx, "reader", b"nobody", actor="op@example", clock=CLOCK)
            assert await parking.skip(tx, "reader", b"buggy", actor="op@example", reason="shipped by hand", clock=CLOCK)
        async with database.transaction() as tx:
            await harness.announce(tx, topic, ["bad", "good"])

        async def redriven() -> bool:
            async with database.read() as connection:
                left = await connection.fetchval("SELECT count(*) FROM parked_event")
                done = dict(await connection.fetch("SELECT subject, last_seq FROM seen"))
            return left == 0 and done == {"bad": 6, "buggy": 5, "good": 6, "fine": 5}

        await eventually(redriven, within_s=20, what="the parked events")
    async with database.read() as connection:
        # The skipped event is the one gap there is, and the audit log says who left it out.
        assert [tuple(row) for row in await connection.fetch("SELECT * FROM wrong")] == [("reader", "buggy", 1, 2)]
        actions = await connection.fetch("SELECT actor, action, subject FROM audit_log ORDER BY seq")
    assert [tuple(row) for row in actions] == [
        ("op@example", "parked.retry", "reader bad"),
        ("op@example", "parked.skip", "reader buggy"),
    ]


async def test_a_world_not_ready_is_retried_soon_and_sends_no_dead_letter(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    await set_poison(database, early="later")
    async with running(harness.consumer("reader", topic, database, kafka, CLOCK).run), sender(kafka) as producer:
        for sequence in (1, 2, 3):
            await producer.send_and_wait(topic, b"{}", key=b"early", headers=headers("early", sequence))

        async def waits() -> bool:
            return await parked(database) == {"early": 3}

        await eventually(waits, within_s=20, what="the parked key")
        await set_poison(database)

        async def applied() -> bool:
            return await last_sequences(database) == {"early": 3} and not await parked(database)

        await eventually(applied, within_s=20, what="the events, by themselves")
        async with database.read() as connection:
            assert await connection.fetchval("SELECT count(*) FROM outbox") == 0

        await set_poison(database, early="later")
        await producer.send_and_wait(topic, b"{}", key=b"early", headers=headers("early", 4))

        async def waits_again() -> bool:
            return await parked(database) == {"early": 1}

        await eventually(waits_again, within_s=20, what="the key parked again")
        await set_poison(database, early="poison")

        async def told() -> bool:
            async with database.read() as connection:
                return bool(await connection.fetchval("SELECT count(*) = 1 FROM outbox"))

        await eventually(told, within_s=20, what="a dead letter of what turned out to be broken")


async def test_what_fails_only_at_commit_is_blamed_on_its_event(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    await set_poison(database, late="late")
    async with database.transaction() as tx:
        await harness.announce(tx, topic, ["late", "good", "fine"])
    async with running(Relay(database, kafka).run, harness.consumer("reader", topic, database, kafka, CLOCK).run):

        async def settled() -> bool:
            return await last_sequences(database) == {"good": 1, "fine": 1} and await parked(database) == {"late": 1}

        await eventually(settled, within_s=20, what="the good keys' events")
    async with database.read() as connection:
        assert (await parking.list_keys(connection))[0]["error_class"] == "ForeignKeyViolationError"


async def test_many_failing_keys_are_an_outage_that_holds_the_consumer_and_parks_nothing(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    await set_poison(database, **{f"k{n}": "bug" for n in range(8)})
    reader = harness.consumer("reader", topic, database, kafka, CLOCK)
    async with database.transaction() as tx:
        await harness.announce(tx, topic, [f"k{n}" for n in range(12)])
    async with running(Relay(database, kafka).run, reader.run):
        await eventually(lambda: reader.trouble() and "Outage" in reader.trouble(), within_s=20, what="the hold")
        assert len(await parked(database)) <= 5
        await set_poison(database)

        async def applied() -> bool:
            return len(await last_sequences(database)) == 12 and not await parked(database)

        await eventually(applied, within_s=20, what="all events after the cure")
        await eventually(lambda: reader.trouble() is None, what="a consumer at ease")


async def test_bytes_of_any_kind_are_parked_as_they_are(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    """No JSON, NUL, bad UTF-8, a key that is no text or none at all, no headers, a tombstone, a long key."""
    key, value = b"\x00\xff'key", b'{"note": "\x00\xff'
    async with running(harness.consumer("reader", topic, database, kafka, CLOCK).run), sender(kafka) as producer:
        await producer.send_and_wait(topic, value, key=key, headers=[*headers("k", 1), ("odd", b"\x00\xfe")])
        await producer.send_and_wait(topic, b"{}", key=key, headers=headers("k", 2))
        await producer.send_and_wait(topic, None, key=b"tombstone", headers=headers("tombstone", 1))
        await producer.send_and_wait(topic, b"{}", key=b"x" * 3_000, headers=[("ce_type", b"\xff")])
        await producer.send_and_wait(topic, b"{}", headers=[*headers("none", 1)[2:], ("ce_id", b"\xff")])

        async def all_parked() -> bool:
            return len(await parked(database)) == 4

        await eventually(all_parked, within_s=20, what="four parked keys")
    shown = await parked(database)
    assert shown[parking.show_key(key)] == 2
    assert parking.read_key(parking.show_key(key)) == key
    async with database.read() as connection:
        rows = await connection.fetch(
            "SELECT key, payload, headers FROM parked_event WHERE part_key = $1 ORDER BY id", key
        )
        letters = await connection.fetch("SELECT part_key, payload FROM outbox ORDER BY id")
    assert [(row["key"], row["payload"]) for row in rows] == [(key, value), (key, b"{}")]
    assert ("odd", b"\x00\xfe") in outbox.unpack_headers(rows[0]["headers"])
    assert (key, value) in {(row["part_key"], row["payload"]) for row in letters}


async def test_unheard_types_are_skipped_but_move_the_guard_in_order(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    order: list[tuple[str, int]] = []

    async def guard(skipped: Sequence[Skipped], _tx: WriteTx) -> None:
        order.extend((each.type, each.sequence) for each in skipped)

    reader = harness.consumer("reader", topic, database, kafka, CLOCK, on_skipped=guard)
    async with running(reader.run), sender(kafka) as producer:
        for sequence, type_ in enumerate((Unheard.TYPE, Unheard.TYPE, "who.knows.v9"), start=1):
            await producer.send_and_wait(topic, b"?", key=b"k", headers=headers("k", sequence, type_))
        await eventually(lambda: len(order) == 3, within_s=20, what="three skipped events")
    assert order == [(Unheard.TYPE, 1), (Unheard.TYPE, 2), ("who.knows.v9", 3)]
    assert await parked(database) == {}


async def test_a_consumer_with_its_own_hook_never_parks(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    told: list[tuple[bytes | None, str]] = []

    async def hook(record: parking.Record, error: Exception, _tx: WriteTx) -> None:
        told.append((record.key, type(error).__name__))

    await set_poison(database, bad="bug")
    reader = harness.consumer("reader", topic, database, kafka, CLOCK, on_unreadable=hook)
    async with running(reader.run), sender(kafka) as producer:
        await producer.send_and_wait(topic, b"no json", key=b"k", headers=headers("k", 1))
        await producer.send_and_wait(topic, b"{}", key=b"bad", headers=headers("bad", 1))
        await producer.send_and_wait(topic, b"{}", key=b"k2", headers=headers("k2", 1))

        async def applied() -> bool:
            return len(told) >= 2 and await last_sequences(database) == {"k2": 1}

        await eventually(applied, within_s=20, what="the readable event")
    assert {(b"k", "Unreadable"), (b"bad", "ValueError")} <= set(told)
    assert await parked(database) == {}


async def test_ids_remembered_make_a_resent_event_count_once(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    counted: list[int] = []

    async def count(events: Sequence[envelope.Event[Moved]], _tx: WriteTx, _clock: object) -> None:
        counted.extend(event.sequence for event in events)

    reader = harness.consumer(
        "reader", topic, database, kafka, CLOCK, dedupe_by_id=True, subscriptions=[harness.Subscription(Moved, count)]
    )
    async with running(reader.run), sender(kafka) as producer:
        first, second = headers("k", 1), headers("k", 2)
        for each in (first, first, second, first, second):
            await producer.send_and_wait(topic, b"{}", key=b"k", headers=each)
        await producer.send_and_wait(topic, b"{}", key=b"k", headers=headers("k", 3))
        await eventually(lambda: 3 in counted, within_s=20, what="the last event")
    assert counted == [1, 2, 3]


@pytest.mark.parametrize("text", ["ord_1", "hex:00", "ä", "a b", ""])
def test_a_key_is_shown_so_that_it_can_be_typed(text: str) -> None:
    key = text.encode()
    assert parking.read_key(parking.show_key(key)) == key
    assert parking.show_key(key).isprintable()


async def _dead_letters(kafka: Kafka, topic: str, count: int) -> dict[bytes, dict[str, bytes]]:
    reader = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    await reader.start()
    try:
        letters: dict[bytes, dict[str, bytes]] = {}

        async def all_there() -> bool:
            for records in (await reader.getmany(timeout_ms=500)).values():
                letters.update({record.key: dict(record.headers) for record in records})
            return len(letters) >= count

        await eventually(all_there, within_s=15, what="the dead letters")
        return letters
    finally:
        await reader.stop()


async def test_a_key_that_gathers_too_much_holds_the_consumer(database: Database) -> None:
    """Parking is for exceptions: at 10,000 events of a key the consumer stops instead of hoarding."""
    record = parking.ParkedRecord(topic="t", partition=0, offset=1, timestamp=0, key=b"k", value=b"", headers=())
    failure = parking.Failure(index=0, key=b"k", record=record, error=ValueError("x"), waiting=False, attempts=1)
    shelf = parking.Parking("reader", dead_letter_topic=None)
    async with database.transaction() as tx:
        await shelf.park(tx, [failure], [(b"k", record)] * 10_000)
    with pytest.raises(parking.Outage, match="of one key"):
        async with database.transaction() as tx:
            await shelf.park(tx, [], [(b"k", record)])
    async with database.read() as connection:
        assert await connection.fetchval("SELECT count(*) FROM parked_event") == 10_000
