"""Topics as `deploy/topics.yaml` states them: created by their owner, checked by everyone before the first record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from defray_kernel import kafka as kafka_clients
from defray_kernel.errors import ConfigInvalid, StartRefused, Unavailable
from defray_kernel.kafka import Kafka

_ALREADY_EXISTS: Final = 36
_MESSAGE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic; `retention_ms` is None where the log is compacted."""

    name: str
    owner: str
    partitions: int
    retention_ms: int | None


def load(path: Path) -> dict[str, Topic]:
    """All topics by name. Raises ConfigInvalid when the file has another shape, OSError when it is missing."""
    try:
        rows = yaml.safe_load(path.read_text("utf-8"))
        topics = [
            Topic(
                name=row["name"],
                owner=row["owner"],
                partitions=int(row["partitions"]),
                retention_ms=None if row.get("cleanup") == "compact" else int(row["retention_ms"]),
            )
            for row in rows
        ]
    except (yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise ConfigInvalid(f"{path.name}: {type(error).__name__} {error}") from error
    return {topic.name: topic for topic in topics}


async def create(kafka: Kafka, topics: Iterable[Topic], *, replication: int = 1) -> list[str]:
    """Create what is not there yet, in one request; returns the names created. Raises StartRefused with the broker's reason."""
    admin = await kafka.admin()
    try:
        wanted = [
            NewTopic(
                name=topic.name,
                num_partitions=topic.partitions,
                replication_factor=replication,
                topic_configs=_configuration(topic),
            )
            for topic in topics
        ]
        # An existing topic is told in the answer, not raised.
        answers: list[tuple[str, int, str]] = getattr(await admin.create_topics(wanted), "topic_errors")  # noqa: B009
        refused = [(name, code, text) for name, code, text in answers if code not in {0, _ALREADY_EXISTS}]
        if refused:
            raise StartRefused("; ".join(f"{name}: {text or code}" for name, code, text in refused))
        return [name for name, code, _ in answers if code == 0]
    finally:
        await kafka_clients.stop(admin)


async def check(kafka: Kafka, topics: Iterable[Topic]) -> None:
    """Wait for topics that their owners have not created yet, refuse those with another number of partitions.

    Raises Unavailable (services start in any order) or StartRefused, naming them all: a key's partition follows from
    the count, so a changed count breaks the order of every key that moved.
    """
    admin = await kafka.admin()
    try:
        missing, wrong = await _differences(admin, {topic.name: topic for topic in topics})
    finally:
        await kafka_clients.stop(admin)
    if wrong:
        raise StartRefused("topics: " + "; ".join(wrong))
    if missing:
        raise Unavailable("topics not there yet: " + ", ".join(missing))


async def _differences(admin: AIOKafkaAdminClient, wanted: dict[str, Topic]) -> tuple[list[str], list[str]]:
    missing, wrong = [], []
    described = {row["topic"]: row for row in await admin.describe_topics(list(wanted))}
    for name, topic in wanted.items():
        row = described.get(name)
        if row is None or row["error_code"] != 0:
            missing.append(name)
        elif len(row["partitions"]) != topic.partitions:
            wrong.append(f"{name} has {len(row['partitions'])} partitions instead of {topic.partitions}")
    return missing, wrong


async def cluster_id(kafka: Kafka) -> str:
    """The cluster's id, which tells a recreated log from the one that offsets were taken in. Raises Unavailable."""
    admin = await kafka.admin()
    try:
        found = (await admin.describe_cluster()).get("cluster_id")
    finally:
        await kafka_clients.stop(admin)
    if not found:
        raise Unavailable("Kafka names no cluster id")
    return str(found)


def _configuration(topic: Topic) -> dict[str, str]:
    common = {"max.message.bytes": str(_MESSAGE_BYTES_MAX), "message.timestamp.type": "CreateTime"}
    if topic.retention_ms is None:
        return common | {"cleanup.policy": "compact"}
    return common | {"cleanup.policy": "delete", "retention.ms": str(topic.retention_ms)}
