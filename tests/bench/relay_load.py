"""Drivers of the relay's latency: one commits events at an even rate and notes when, one notes when they arrive.

`python -m tests.bench.relay_load write|read --help`. Both use the machine's monotonic clock, which all processes share.
"""

import argparse
import asyncio
import time

import uvloop
from aiokafka import AIOKafkaConsumer

from defray_kernel import outbox
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database, begin
from defray_kernel.kafka import Kafka
from defray_kernel.outbox import OutboxRecord
from defray_kernel.wakeup import Wakeup
from tests.bench.driver import say, told
from tests.bench.limits.producer import kafka_headers
from tests.bench.records import EVENT_TYPE, Announced, announced, partitions_of

_EVERY_S = 0.005
_BATCH_MAX = 500


def record(each: Announced, topic: str) -> OutboxRecord:
    """The event as an outbox row in final form."""
    return OutboxRecord(
        event_id=each.event_id, topic=topic, key=each.key.encode(), type=EVENT_TYPE, aggregate_id=each.key,
        sequence=each.sequence, payload=each.payload, headers=kafka_headers(each.event_id, each.key, each.sequence),
        occurred_at=SystemClock().real(),
    )  # fmt: skip


async def write(options: argparse.Namespace) -> None:
    """Commit every 5 ms what the rate asks for, at most 500; say event ids with the moment after their commit."""
    count = int(options.rate * options.seconds)
    records = [record(each, options.topic) for each in announced(count)]
    stopping, committed = asyncio.Event(), []
    async with Database.open(options.dsn, pool_size_max=2) as database, asyncio.TaskGroup() as tasks:
        wakeup = Wakeup(database)
        tasks.create_task(wakeup.run(stopping))
        connection = await database.connect()
        say("ready")
        await told()
        started, position = time.monotonic(), 0
        while position < count:
            due = min(count, position + _BATCH_MAX, int((time.monotonic() - started) * options.rate) + 1)
            batch = records[position:due]
            if batch:
                async with begin(connection) as tx:
                    await outbox.append_records(tx, batch)
                at = time.monotonic_ns()
                wakeup.poke()
                committed += [(each.event_id.hex, at) for each in batch]
                position = due
            await asyncio.sleep(0 if len(batch) == _BATCH_MAX else _EVERY_S)
        say("committed", {"events": committed})
        await connection.close()
        stopping.set()


async def read(options: argparse.Namespace) -> None:
    """Take what arrives with getmany; say the moment of each event id once `count` are there or the time is over."""
    consumer = AIOKafkaConsumer(bootstrap_servers=Kafka(bootstrap=options.kafka).bootstrap, enable_auto_commit=False,
                                auto_offset_reset="earliest", fetch_max_wait_ms=100)  # fmt: skip
    await consumer.start()
    consumer.assign(partitions_of(options.topic))
    say("ready")
    arrived: list[tuple[str, int]] = []
    until = time.monotonic() + options.seconds
    while len(arrived) < options.count and time.monotonic() < until:
        batches = await consumer.getmany(timeout_ms=100, max_records=500)
        at = time.monotonic_ns()
        arrived += [(dict(r.headers)["ce_id"].decode().replace("-", ""), at) for rs in batches.values() for r in rs]
    say("arrived", arrived)
    await consumer.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("write", "read"))
    parser.add_argument("--dsn", default="")
    parser.add_argument("--kafka", default="")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True)
    chosen = parser.parse_args()
    uvloop.run(write(chosen) if chosen.what == "write" else read(chosen))
