"""Tells Kafka how far a consumer is, for dashboards only: nothing ever reads it back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors

from defray_kernel import metrics
from defray_kernel.inbox import Partition, Position
from defray_kernel.timers import wait_for_stop

_log = structlog.get_logger()

_EVERY_S: Final = 2.0
_WITHIN_S: Final = 5.0


async def tell_kafka(
    name: str, consumer: AIOKafkaConsumer, positions: Mapping[Partition, Position], stopping: asyncio.Event
) -> None:
    """Commit positions, and set the gauge of what lies before them, until told to stop; a failure means nothing."""
    told: dict[TopicPartition, int] = {}
    while not stopping.is_set():
        await wait_for_stop(stopping, _EVERY_S)
        ours = consumer.assignment()
        offsets = {
            tp: position.next_offset for where, position in positions.items() if (tp := TopicPartition(*where)) in ours
        }
        lag = sum(max(0, (consumer.highwater(tp) or 0) - offset) for tp, offset in offsets.items())
        metrics.gauge("consumer_lag", lag, consumer=name)
        if not offsets or offsets == told:
            continue
        try:
            async with asyncio.timeout(_WITHIN_S):
                await consumer.commit(offsets)
            told = offsets
        except (TimeoutError, kafka_errors.KafkaError, kafka_errors.IllegalOperation) as error:
            _log.info("lag_not_told", consumer=name, error=type(error).__name__)
