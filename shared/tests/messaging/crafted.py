"""Batches as no client library makes them, in a real log: a header's name may be any bytes there."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from aiokafka import codec
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import NotLeaderForPartitionError, UnknownTopicOrPartitionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from defray_kernel.kafka import Kafka
from defray_kernel.testing.eventually import eventually

Sent = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]
"""Key, value and headers."""

BAD: bytes = b"\xff\xfe\x80\xc3"
MARK: str = "mark"
"""The name in whose place `BAD` is put: as many bytes."""

CODECS = {
    "none": (0, bytes),
    "gzip": (1, codec.gzip_encode),
    "snappy": (2, codec.snappy_encode),
    "lz4": (3, codec.lz4_encode),
    "zstd": (4, codec.zstd_encode),
}
_HEAD = 61
_NOT_YET = (UnknownTopicOrPartitionError.errno, NotLeaderForPartitionError.errno)


def batch(records: Sequence[Sent], compression: str = "none") -> bytes:
    """One batch of message format 2, its headers' names `MARK` replaced by `BAD`, with a checksum that fits."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**20)
    for number, (key, value, headers) in enumerate(records):
        assert builder.append(number, 1_700_000_000_000 + number, key, value, list(headers)) is not None
    made = bytes(builder.build())
    head, body = bytearray(made[:_HEAD]), made[_HEAD:].replace(MARK.encode(), BAD)
    attributes, encode = CODECS[compression]
    body = bytes(encode(body))
    struct.pack_into(">i", head, 8, _HEAD - 12 + len(body))
    struct.pack_into(">h", head, 21, attributes)
    struct.pack_into(">I", head, 17, calc_crc32c(bytes(head[21:]) + body))
    return bytes(head) + body


async def send(kafka: Kafka, topic: str, partition: int, made: bytes) -> int:
    """Append a batch; returns the offset of its first record. A topic that was just made is waited for."""
    client = AIOKafkaClient(**kafka.common())
    try:
        await client.bootstrap()

        async def sent() -> int | None:
            await client.set_topics([topic])
            await client.force_metadata_update()
            node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
            if node is None or node < 0:
                return None
            response = await client.send(node, ProduceRequest(None, -1, 10_000, [(topic, [(partition, made)])]))
            ((_, ((_, error_code, base, *_),)),) = response.topics
            assert error_code in {0, *_NOT_YET}, error_code
            return None if error_code else int(base) + 1

        placed = await eventually(sent, within_s=20, what=f"{topic}/{partition} to take a batch")
    finally:
        await client.close()
    assert placed is not None
    return placed - 1
