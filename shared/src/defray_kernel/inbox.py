"""The inbox: a consumer's offsets in Postgres, moved by compare-and-set with the effects, and ids of events already seen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from defray_kernel.db import Connection, WriteTx, begin
from defray_kernel.errors import StartRefused
from defray_kernel.sql import queries

Q = queries(__file__)

Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Position:
    """Where an owner reads on: the offset after the last applied record, and the epoch that fences older owners."""

    next_offset: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who reads, and from what: the log of one cluster, with this many partitions per topic."""

    consumer: str
    owner: str
    cluster_id: str


class Fenced(Exception):
    """Somebody else owns these partitions now, or moved on in them; nothing was written."""

    def __init__(self, partitions: set[Partition]) -> None:
        super().__init__(f"{len(partitions)} partitions")
        self.partitions = partitions


async def take_over(
    connection: Connection,
    reader: Reader,
    partition: Partition,
    parts: int,
    start: Callable[[], Awaitable[int]],
) -> Position:
    """Become the owner of one partition; waits, however long, for an older owner's open transaction to end.

    A partition never read before begins at `await start()`. Raises StartRefused when the stored offset belongs to
    another cluster or to another number of partitions: going on would skip or misorder records silently.
    """
    topic, part = partition
    who = (reader.consumer, topic, part)
    async with begin(connection) as tx:
        await tx.execute(Q.wait_without_limit)
        row = await tx.fetchrow(Q.take_over, *who, reader.owner, reader.cluster_id, parts, timeout=600)
        if row is None:
            stored = await tx.fetchrow(Q.stored, *who)
            if stored is not None:
                raise StartRefused(_foreign(reader, partition, parts, dict(stored)))
            await tx.execute(Q.begin_reading, *who, await start(), reader.owner, reader.cluster_id, parts)
            row = await tx.fetchrow(Q.take_over, *who, reader.owner, reader.cluster_id, parts)
    if row is None:
        raise StartRefused(f"{reader.consumer}: {topic}/{part} was begun by a reader of another cluster just now")
    return Position(row["next_offset"], row["epoch"])


async def advance(tx: WriteTx, consumer: str, moves: Sequence[tuple[Partition, Position, int]]) -> None:
    """Move each partition from its position to the offset after its last record. Raises Fenced naming those not ours."""
    moved = await tx.fetch(
        Q.advance,
        consumer,
        [topic for (topic, _), _, _ in moves],
        [part for (_, part), _, _ in moves],
        [position.next_offset for _, position, _ in moves],
        [position.epoch for _, position, _ in moves],
        [after for _, _, after in moves],
    )
    if len(moved) != len(moves):
        ours = {(row["topic"], row["part"]) for row in moved}
        raise Fenced({partition for partition, _, _ in moves} - ours)


async def first_deliveries(tx: WriteTx, consumer: str, ids: Sequence[UUID]) -> set[UUID]:
    """Remember these events; returns those never seen before."""
    # Sorted: two consumers' transactions that meet in the same ids wait for each other in one order.
    return {row["event_id"] for row in await tx.fetch(Q.first_deliveries, consumer, sorted(set(ids)))}


def _foreign(reader: Reader, partition: Partition, parts: int, stored: Mapping[str, object]) -> str:
    topic, part = partition
    if stored["parts"] != parts:
        return f"{topic} had {stored['parts']} partitions when {reader.consumer} began to read it and has {parts} now"
    return (
        f"{reader.consumer} read {topic}/{part} up to {stored['next_offset']} in cluster {stored['cluster_id']}, and this"
        f" is cluster {reader.cluster_id}: re-publish what is missing, then delete this consumer's rows of consumer_offset"
    )
