"""Events of about 1 KB for the relay scenarios, the same for every side, and the check of what a topic holds."""

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from defray_kernel.kafka import Kafka

PARTITIONS = 12
EVENT_TYPE = "payment.succeeded.v1"
_EVENTS_PER_KEY = 4
_KEYS_AT_ONCE = 200
_SEED = 20260101


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """One event: `sequence` is gap-free from 1 per `key`."""

    event_id: uuid.UUID
    key: str
    sequence: int
    payload: bytes


def announced(count: int) -> Iterator[Announced]:
    """Make `count` events; those of a key are told apart by 200 others, as in a busy shop."""
    noise = _Noise()
    made = 0
    while made < count:
        keys = [f"ord_{noise.hex(32)}" for _ in range(_KEYS_AT_ONCE)]
        for sequence in range(1, _EVENTS_PER_KEY + 1):
            for key in keys[: count - made]:
                event_id = uuid.UUID(hex=noise.hex(32))
                yield Announced(event_id=event_id, key=key, sequence=sequence, payload=_payload(noise, key))
                made += 1


class _Noise:
    """Cheap pieces of random text: making the events must not take longer than sending them."""

    def __init__(self) -> None:
        self._rng = random.Random(_SEED)
        self._text, self._at = "", 0

    def hex(self, length: int) -> str:
        if self._at + length > len(self._text):
            self._text, self._at = self._rng.randbytes(1 << 16).hex(), 0
        self._at += length
        return self._text[self._at - length : self._at]


def _payload(noise: _Noise, key: str) -> bytes:
    item = '{"sku":"%s","title":"Article %s","quantity":1,"unit_amount_minor":1999,"discount_minor":0}'
    return (
        f'{{"order_id":"{key}","payment_id":"pay_{noise.hex(32)}","merchant_id":"mer_{noise.hex(32)}",'
        '"status":"SUCCEEDED","amount_minor":3998,"currency":"CNY","channel":"wechat","product":"native",'
        f'"attempt_no":"{noise.hex(28)}","channel_txn_id":"4200{noise.hex(24)}",'
        '"created_at":"2026-01-02T03:04:05.678901Z","expires_at":"2026-01-02T05:04:05.678901Z",'
        f'"paid_at":"2026-01-02T03:04:09.876543Z","merchant_order_no":"{noise.hex(32)}","items":['
        f'{item % (noise.hex(12), noise.hex(24))},{item % (noise.hex(12), noise.hex(24))}],"note":"{noise.hex(300)}"}}'
    ).encode()


class TopicReader:
    """Looks at one topic without a group."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, enable_auto_commit=False,
                                          auto_offset_reset="earliest")  # fmt: skip
        self._partitions = partitions_of(topic)

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def count(self) -> int:
        """Records in the topic now (it is new, so that all offsets start at 0)."""
        ends = await self._consumer.end_offsets(self._partitions)
        return sum(ends.values())

    async def wrong(self, sequence_header: str, id_header: str, published: int, *, ahead_max: int = 0) -> list[str]:
        """Read everything; name what is lost, doubled or out of order. Per key, sequences must be 1, 2, 3, ….

        `published` is what the sender's tables say; the topic may be `ahead_max` records ahead of them.
        """
        self._consumer.assign(self._partitions)
        ends = await self._consumer.end_offsets(self._partitions)
        seen: set[bytes] = set()
        last: dict[bytes, int] = {}
        doubled = disordered = 0
        while any([await self._consumer.position(tp) < ends[tp] for tp in self._partitions]):
            for records in (await self._consumer.getmany(timeout_ms=200, max_records=5_000)).values():
                for record in records:
                    headers = dict(record.headers)
                    doubled += headers[id_header] in seen
                    seen.add(headers[id_header])
                    sequence = int(headers[sequence_header])
                    disordered += sequence != last.get(record.key, 0) + 1
                    last[record.key] = sequence
        return problems({"doubled": doubled, "out of order": disordered, "lost": max(0, published - len(seen)),
                         "not marked as sent": max(0, len(seen) - published - ahead_max)})  # fmt: skip


def partitions_of(topic: str) -> list[TopicPartition]:
    """The partitions of a topic of the bench's own."""
    return [TopicPartition(topic, partition) for partition in range(PARTITIONS)]


def problems(counts: dict[str, int]) -> Sequence[str]:
    """Each count that is not zero, as text."""
    return [f"{count} {what}" for what, count in counts.items() if count]
