"""The relay's limit: a producer alone, sending records from memory in full batches chained per partition."""

import argparse
import asyncio
import datetime as dt
import time
import uuid

import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from defray_kernel.contracts import envelope
from defray_kernel.contracts.envelope import Cause
from defray_kernel.outbox import Headers
from tests.bench.driver import say, told
from tests.bench.records import EVENT_TYPE, announced

_RECORDS = 20_000
_BATCH_BYTES_MAX = 512 * 1024

Record = tuple[bytes, bytes, Headers]


def kafka_headers(event_id: uuid.UUID, key: str, sequence: int) -> Headers:
    """The same headers as the outbox rows have."""
    made = envelope.headers(
        event_id=event_id, source="/payment", type_=EVENT_TYPE, subject=key, key=key, sequence=sequence,
        time=dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), cause=Cause(correlation_id=key),
    )  # fmt: skip
    return [(name, value.encode()) for name, value in made.items()]


async def _chain(producer: AIOKafkaProducer, topic: str, partition: int, records: list[Record], until: float) -> None:
    position = 0
    while time.monotonic() < until:
        builder = producer.create_batch()
        while True:
            key, value, headers = records[position]
            if builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
                break
            position = (position + 1) % len(records)
        builder.close()
        await (await producer.send_batch(builder, topic, partition=partition))


async def produce(bootstrap: str, topic: str, seconds: float) -> None:
    """Say `ready`, wait for a line, then send the same records over and over until the time is over."""
    chains: dict[int, list[Record]] = {}
    # Durable as ours is, and nothing else: compression costs the client more than loopback costs the broker.
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True,
                                max_batch_size=_BATCH_BYTES_MAX)  # fmt: skip
    await producer.start()
    partitions = len(await producer.partitions_for(topic))
    for each in announced(_RECORDS):
        key = each.key.encode()
        record = (key, each.payload, kafka_headers(each.event_id, each.key, each.sequence))
        chains.setdefault((murmur2(key) & 0x7FFF_FFFF) % partitions, []).append(record)
    say("ready")
    await told()
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for partition, records in chains.items():
            group.create_task(_chain(producer, topic, partition, records, until))
    await producer.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    uvloop.run(produce(options.kafka, options.topic, options.seconds))
