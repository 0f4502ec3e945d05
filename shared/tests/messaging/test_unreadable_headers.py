"""A header whose name is not UTF-8: the client library drops the whole fetch for it, and the consumer reads on all the same."""

from __future__ import annotations

import pytest

from defray_kernel import parking, raw_log
from defray_kernel.applying import Applied
from defray_kernel.clock import SystemClock
from defray_kernel.contracts.envelope import NOT_TEXT
from defray_kernel.db import Database, WriteTx
from defray_kernel.kafka import Kafka
from defray_kernel.parking import Record
from defray_kernel.testing.eventually import eventually
from shared.tests.messaging import crafted, harness
from shared.tests.messaging.conftest import Running
from shared.tests.messaging.crafted import BAD, CODECS, MARK, Sent
from shared.tests.messaging.test_parking import headers, last_sequences, parked

CLOCK = SystemClock()


def sent(key: str, sequence: int, *, bad: bool = False) -> Sent:
    return key.encode(), b"{}", [*headers(key, sequence), *([(MARK, b"x")] if bad else [])]


@pytest.mark.parametrize("compression", CODECS)
async def test_all_that_a_batch_holds_is_read_as_it_was_written(kafka: Kafka, topic: str, compression: str) -> None:
    written: list[Sent] = [
        (b"k", b"v", [("a", b"1")]),
        (None, None, [(MARK, b"\x00"), ("é", b"")]),
        (b"", b"x" * 3_000, []),
    ]
    await crafted.send(kafka, topic, 0, crafted.batch(written, compression))
    first = await crafted.send(kafka, topic, 0, crafted.batch(written, compression))
    places = {(topic, 0): first + 1, (topic, 1): 1 + await crafted.send(kafka, topic, 1, crafted.batch([written[0]]))}
    found = await raw_log.read(kafka, places, at_most=100)
    bad = BAD.decode("utf-8", "replace")
    assert NOT_TEXT in bad
    assert {place: [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in found[place]] for place in found} == {
        (topic, 0): [
            (first + 1, 1_700_000_000_001, None, None, [(bad, b"\x00"), ("é", b"")]),
            (first + 2, 1_700_000_000_002, b"", b"x" * 3_000, []),
        ]
    }
    few = await raw_log.read(kafka, {(topic, 0): 0}, at_most=4)
    assert [record.offset for record in few[topic, 0]] == [0, 1, 2, 3]


async def test_a_parking_consumer_parks_its_key_and_others_flow(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    records = [sent("good", 1), sent("bad", 1), sent("bad", 2, bad=True), sent("bad", 3), sent("good", 2)]
    await crafted.send(kafka, topic, 0, crafted.batch(records))
    # What else the client had in its hands when it stumbled must not be lost.
    for partition in range(1, 6):
        others = [sent(f"other{partition}", number) for number in range(1, 21)]
        await crafted.send(kafka, topic, partition, crafted.batch(others, "zstd"))
    reader = harness.consumer("reader", topic, database, kafka, CLOCK)
    async with running(reader.run):

        async def settled() -> bool:
            expected = {f"other{partition}": 20 for partition in range(1, 6)} | {"good": 2, "bad": 1}
            return await last_sequences(database) == expected

        await eventually(settled, within_s=20, what="all other records")
        assert await parked(database) == {"bad": 2}
        async with database.read() as connection:
            (row,) = await parking.list_keys(connection)
        assert (row["error_class"], row["error"]) == ("Unreadable", "headers: a name is not UTF-8 text")
        # Tried again it is the same; given up, what waits behind it goes on.
        async with database.transaction() as tx:
            assert await parking.skip(tx, "reader", b"bad", actor="op", reason="not ours", clock=CLOCK)

        async def redriven() -> bool:
            async with database.read() as connection:
                return (await connection.fetchval("SELECT last_seq FROM seen WHERE subject = 'bad'")) == 3

        await eventually(redriven, within_s=20, what="what waited behind it")
        await crafted.send(kafka, topic, 0, crafted.batch([sent("good", 3), sent("good", 4)]))

        async def goes_on() -> bool:
            async with database.read() as connection:
                return (await connection.fetchval("SELECT last_seq FROM seen WHERE subject = 'good'")) == 4

        await eventually(goes_on, within_s=20, what="what came afterwards")
        assert reader.trouble() is None


async def test_one_that_takes_its_batches_whole_is_handed_each_record_once(
    database: Database, kafka: Kafka, topic: str, running: Running
) -> None:
    """Many of them, over all partitions, and more than one poll takes."""
    handed: list[tuple[int, int, bool]] = []

    async def take(tx: WriteTx, records: list[Record], *, slowly: bool) -> Applied:  # noqa: ARG001 - the consumer's call
        bad = [(record, any(NOT_TEXT in name for name, _ in record.headers)) for record in records]
        handed.extend((record.partition, record.offset, is_bad) for record, is_bad in bad)
        return Applied(applied=len(records))

    expected = []
    for partition in range(6):
        for number in range(4):
            marks = [number % 2 == 0 and place % 7 == partition for place in range(30)]
            records = [sent(f"k{place}", place + 1, bad=bad) for place, bad in enumerate(marks)]
            first = await crafted.send(kafka, topic, partition, crafted.batch(records, ("snappy", "lz4")[number % 2]))
            expected += [(partition, first + place, bad) for place, bad in enumerate(marks)]
    reader = harness.consumer("reader", topic, database, kafka, CLOCK, take=take, batch_max=50)
    async with running(reader.run):
        await eventually(lambda: len(handed) >= len(expected), within_s=30, what="every record")
    assert sorted(handed) == sorted(expected)
