"""Reads a log's own bytes where the client library cannot: to it, a header's name that is not UTF-8 breaks a whole fetch."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from aiokafka import TopicPartition, codec
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import decode_varint

from defray_kernel.inbox import Partition
from defray_kernel.kafka import Kafka
from defray_kernel.parking import ParkedRecord

_WITHIN_S: Final = 10.0
_BYTES_MAX: Final = 1_048_576
# The batch's head: base offset, length, leader epoch, magic, and 44 bytes from the checksum on (KIP-98, message format 2).
_LENGTH_AT, _MAGIC_AT, _RECORDS_AT = 8, 16, 61
_DECODERS: Final[Mapping[int, Callable[[bytes], bytes]]] = {
    0: bytes,
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}


async def read(kafka: Kafka, places: Mapping[Partition, int], *, at_most: int) -> dict[Partition, list[ParkedRecord]]:
    """At most so many records, from these offsets on, of partitions that have any; which of them come first is chance.

    A header's name that is not UTF-8 has `envelope.NOT_TEXT` in the place of what is none. Raises KafkaError.
    """
    found: dict[Partition, list[ParkedRecord]] = {}
    client = AIOKafkaClient(**kafka.common())
    try:
        async with asyncio.timeout(_WITHIN_S):
            await client.bootstrap()
            await client.set_topics({topic for topic, _ in places})
            for place in random.sample(list(places), len(places)):
                records = await _fetch(client, place, places[place])
                found[place] = list(itertools.islice(records, at_most - sum(map(len, found.values()))))
    except TimeoutError:
        raise kafka_errors.KafkaTimeoutError from None
    finally:
        await client.close()
    return {place: records for place, records in found.items() if records}


async def _fetch(client: Any, place: Partition, offset: int) -> Iterator[ParkedRecord]:  # noqa: ANN401 - untyped library
    topic, partition = place
    node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    if node is None or node < 0:
        raise kafka_errors.LeaderNotAvailableError(place)
    response = await client.send(node, FetchRequest(0, 0, _BYTES_MAX, 0, [(topic, [(partition, offset, _BYTES_MAX)])]))
    ((_, ((_, error_code, _, *_, log),)),) = response.topics
    if error_code:
        raise kafka_errors.for_code(error_code)(place)
    return (record for record in _records(topic, partition, log or b"") if record.offset >= offset)


def _records(topic: str, partition: int, log: bytes) -> Iterator[ParkedRecord]:
    """The records of whole batches; the last one may be cut off. Raises CorruptRecordException."""
    start = 0
    while len(log) >= start + _RECORDS_AT:
        end = start + _LENGTH_AT + 4 + int.from_bytes(log[start + _LENGTH_AT : start + _LENGTH_AT + 4], "big")
        if end > len(log):
            return
        raw = log[start:end]
        batch = DefaultRecordBatch(raw)
        if raw[_MAGIC_AT] != 2 or not batch.validate_crc():
            raise kafka_errors.CorruptRecordException(f"a batch of {topic}/{partition}")
        if not batch.is_control_batch:
            yield from _records_of(
                topic, partition, batch, bytearray(_DECODERS[batch.compression_type](raw[_RECORDS_AT:]))
            )
        start = end


def _records_of(topic: str, partition: int, batch: Any, data: bytearray) -> Iterator[ParkedRecord]:  # noqa: ANN401 - one of two classes
    at = 0
    while at < len(data):
        length, at = decode_varint(data, at)
        end = at + length
        moment, at = decode_varint(data, at + 1)
        offset, at = decode_varint(data, at)
        key, at = _bytes(data, at)
        value, at = _bytes(data, at)
        count, at = decode_varint(data, at)
        headers: list[tuple[str, bytes]] = []
        for _ in range(count):
            name, at = _bytes(data, at)
            text, at = _bytes(data, at)
            headers.append(((name or b"").decode("utf-8", "replace"), text or b""))
        if at != end:
            raise kafka_errors.CorruptRecordException(f"a record of {topic}/{partition}")
        yield ParkedRecord(
            topic=topic,
            partition=partition,
            offset=batch.base_offset + offset,
            timestamp=batch.max_timestamp if batch.timestamp_type else batch.first_timestamp + moment,
            key=key,
            value=value,
            headers=headers,
        )


def _bytes(data: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(data, at)
    return (None, at) if length < 0 else (bytes(data[at : at + length]), at + length)
