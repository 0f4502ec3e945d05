"""P4: how fast outbox rows get to Kafka, and how soon after their commit a consumer sees them."""

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from defray_kernel import outbox
from defray_sandbox.stack.processes import OwnedProcess
from tests.bench.accounting import Meter
from tests.bench.driver import driver
from tests.bench.records import EVENT_TYPE, TopicReader, announced
from tests.bench.relay_load import record
from tests.bench.report import Goal, Row, Sample, make_row, percentile
from tests.bench.rounds import Plan, Tell, interleave, quietest
from tests.bench.sampler import top
from tests.bench.textbook import order as textbook_order
from tests.bench.textbook import schema as textbook
from tests.bench.world import World, free_ports, stop

_SERVICE = "order"
_EVENTS_PER_S_MAX = {"ours": 30_000, "textbook": 2_000}
"""More than two cores take, so that no outbox runs dry; if one does, the clock stops with it."""
_STARTS_WITHIN_S = 30.0
_LOOK_S = 0.05

GOAL = Goal(ratio_textbook=15.0, ratio_limit=0.4, p99_ms=20.0)


async def run(world: World, plan: Plan, tell: Tell) -> Row:
    """Measure all three sides, then the latency at half of our rate."""
    tell("P4 outbox relay: 1 KB events, row-at-a-time twin, producer alone as the limit")
    async with _prepared(world, plan) as scenario:
        return await _measured(scenario, plan, tell)


async def profile(world: World, plan: Plan, out: Path) -> list[str]:
    """One more run of ours under the sampler; returns where its CPU time went."""
    async with _prepared(world, plan) as scenario:
        await scenario.ours(0, profile=out)
    return top(out)


@asynccontextmanager
async def _prepared(world: World, plan: Plan) -> AsyncIterator["_Relay"]:
    """Making 100,000 events takes longer than sending them, so they are made once and copied with their database."""
    count = int(_EVENTS_PER_S_MAX["ours"] * (plan.seconds + plan.warm_s))
    async with world.database(_SERVICE) as database:
        await _stage(database.admin_dsn, count)
        yield _Relay(world, plan, template=database.name, count=count)


async def _measured(scenario: "_Relay", plan: Plan, tell: Tell) -> Row:
    result = await interleave(
        {"ours": scenario.ours, "textbook": scenario.textbook, "limit": scenario.limit}, plan, tell
    )
    # Writer and consumer share the machine with the relay: half load is half of what all three together carry.
    drained = sorted(sample.rate for sample in result.samples["ours"])
    live = await scenario.live(drained[len(drained) // 2])
    tell(f"  live, with writer and consumer beside it: {live.rate:.0f}/s")
    latency, dropped = await quietest(lambda _: scenario.live(live.rate / 2), 0, plan)
    tell(f"  at half load ({latency.rate:.0f}/s): p50 {latency.p50_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms")
    return make_row(
        id="P4", scenario="outbox relay, commit to broker acknowledgement, 1 KB events, one process", unit="events/s",
        limit_is="aiokafka producer alone: full batches chained per partition, records in memory", goal=GOAL,
        rounds=result.samples, latency=latency, dropped_runs=result.dropped + dropped,
    )  # fmt: skip


class _Relay:
    def __init__(self, world: World, plan: Plan, *, template: str, count: int) -> None:
        self._world, self._plan, self._template, self._count = world, plan, template, count

    async def ours(self, _: int, *, profile: Path | None = None) -> Sample:
        """`python -m defray_order relay` on a full outbox."""
        topic = await self._world.topic("relay")
        async with self._world.copy(self._template) as database:
            await _fill(database.admin_dsn, topic)
            site = self._world.site(database)
            async with TopicReader(self._world.kafka_clients(), topic) as reader:
                relay = await self._world.service(site, _SERVICE, "relay", profile=profile)
                try:
                    sample = await self._measure(reader, self._count, {"relay": relay.pid},
                                                 profiled=[relay.pid] if profile else ())  # fmt: skip
                finally:
                    await stop(relay)
                published = await _published(database.dsn(_SERVICE))
                wrong = await reader.wrong("ce_sequence", "ce_id", published)
        return _judged(sample, wrong, relay)

    async def textbook(self, _: int) -> Sample:
        """The twin's relay: select one for update, send and wait, update, commit."""
        topic = await self._world.topic("relay")
        count = int(_EVENTS_PER_S_MAX["textbook"] * (self._plan.seconds + self._plan.warm_s))
        async with self._world.empty_database() as dsn:
            await textbook.create(dsn)
            await _fill_textbook(dsn, topic, count)
            (port,) = free_ports(1)
            argv = ["-m", textbook_order.__name__, "relay", "--dsn", dsn, "--kafka", self._world.kafka.bootstrap,
                    "--port", str(port), "--keys", str(self._world.textbook_keys)]  # fmt: skip
            async with TopicReader(self._world.kafka_clients(), topic) as reader:
                relay = self._world.start("textbook-relay", argv)
                try:
                    sample = await self._measure(reader, count, {"relay": relay.pid})
                finally:
                    await stop(relay)
                connection = await asyncpg.connect(dsn)
                published = await connection.fetchval(
                    "SELECT count(*) FROM orders.outbox WHERE published_at IS NOT NULL"
                )
                await connection.close()
                wrong = await reader.wrong("sequence", "event_id", published, ahead_max=1)
        return _judged(sample, wrong, relay)

    async def limit(self, _: int) -> Sample:
        """A producer that has nothing to read, nothing to mark and nothing to lose."""
        topic = await self._world.topic("relay")
        argv = ["tests.bench.limits.producer", "--kafka", self._world.kafka.bootstrap, "--topic", topic,
                "--seconds", str(self._plan.warm_s + self._plan.seconds + 1)]  # fmt: skip
        async with (
            driver(self._world.folder, "producer", argv) as producer,
            TopicReader(self._world.kafka_clients(), topic) as reader,
        ):
            await producer.said("ready")
            await producer.tell()
            return await self._measure(reader, sys.maxsize, {"relay": producer.pid})

    async def live(self, rate: float) -> Sample:
        """Commit at `rate`, or as fast as it goes, and see each event at a consumer.

        Latency is from after the commit to after the poll; the sample's rate is what arrived per second.
        """
        topic = await self._world.topic("relay")
        seconds = self._plan.warm_s + self._plan.seconds
        async with self._world.database(_SERVICE) as database:
            site = self._world.site(database)
            relay = await self._world.service(site, _SERVICE, "relay")
            count = int(rate * seconds)
            write = ["tests.bench.relay_load", "write", "--dsn", database.dsn(_SERVICE), "--topic", topic,
                     "--rate", str(rate), "--seconds", str(seconds)]  # fmt: skip
            read = ["tests.bench.relay_load", "read", "--kafka", self._world.kafka.bootstrap, "--topic", topic,
                    "--count", str(count), "--seconds", str(seconds + 30)]  # fmt: skip
            try:
                async with (
                    driver(self._world.folder, "writer", write) as writer,
                    driver(self._world.folder, "reader", read) as reader,
                ):
                    await asyncio.gather(writer.said("ready"), reader.said("ready"))
                    with Meter(self._world.server_trees | {"relay": relay.pid}) as meter:
                        await writer.tell()
                        committed = await writer.said("committed")
                    arrived = await reader.said("arrived")
            finally:
                await stop(relay)
        return _latencies(committed, arrived, self._plan.warm_s, meter)

    async def _measure(
        self, reader: TopicReader, count: int, trees: Mapping[str, int], *, profiled: Sequence[int] = ()
    ) -> Sample:
        until = time.monotonic() + _STARTS_WITHIN_S
        while await reader.count() == 0 and time.monotonic() < until:
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(self._plan.warm_s)
        for pid in profiled:
            os.kill(pid, signal.SIGUSR1)
        with Meter(self._world.server_trees | dict(trees)) as meter:
            first, started = await reader.count(), time.monotonic()
            last, ended = first, started
            # Once everything is sent the clock stops: idle time would count against a fast side.
            while ended - started < self._plan.seconds and last < count:
                await asyncio.sleep(_LOOK_S)
                last, ended = await reader.count(), time.monotonic()
        operations = last - first
        return Sample(rate=operations / max(1e-9, ended - started), operations=operations,
                      cpu_us=meter.us_per_operation(operations), others=meter.others,
                      wrong=() if operations else ("nothing was measured",))  # fmt: skip


def _latencies(committed: dict[str, object], arrived: list[list[object]], warm_s: float, meter: Meter) -> Sample:
    events: list[tuple[str, int]] = [tuple(each) for each in committed["events"]]  # type: ignore[misc,attr-defined]
    seen: dict[str, int] = {}
    for event_id, at in arrived:
        seen.setdefault(str(event_id), int(at))  # type: ignore[call-overload]
    counted_from = events[0][1] + int(warm_s * 1e9)
    waits = sorted((seen[event_id] - at) / 1e6 for event_id, at in events if event_id in seen and at >= counted_from)
    lost = sum(event_id not in seen for event_id, _ in events)
    taken_s = (max(seen.values()) - events[0][1]) / 1e9
    return Sample(
        rate=len(seen) / taken_s, operations=len(events), cpu_us=meter.us_per_operation(len(events)),
        others=meter.others, p50_ms=percentile(waits, 0.5), p99_ms=percentile(waits, 0.99),
        wrong=[f"{lost} lost"] if lost else [],
    )  # fmt: skip


def _judged(sample: Sample, wrong: list[str], process: OwnedProcess) -> Sample:
    problems = [*sample.wrong, *wrong]
    if not sample.operations:
        problems.append(process.last_lines(5))
    return dataclasses.replace(sample, wrong=problems)


_STAGED = """
CREATE TABLE public.staged (
  n bigserial, lane smallint, event_id uuid, part_key bytea, event_type text, aggregate_id text, aggregate_seq bigint,
  payload bytea, headers bytea, occurred_at timestamptz)"""
_FROM_STAGED = """
INSERT INTO orders.outbox (lane, event_id, topic, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at)
SELECT lane, event_id, $1, part_key, event_type, aggregate_id, aggregate_seq, payload, headers, occurred_at
FROM public.staged ORDER BY n"""


async def _stage(dsn: str, count: int) -> None:
    rows = (
        (outbox.lane_of(r.key, outbox.LANES), r.event_id, r.key, r.type, r.aggregate_id, r.sequence, r.payload,
         outbox.pack_headers(r.headers), r.occurred_at)
        for r in (record(each, "") for each in announced(count))
    )  # fmt: skip
    connection = await asyncpg.connect(dsn)
    await connection.execute(_STAGED)
    columns = ["lane", "event_id", "part_key", "event_type", "aggregate_id", "aggregate_seq", "payload", "headers",
               "occurred_at"]  # fmt: skip
    await connection.copy_records_to_table("staged", schema_name="public", records=rows, columns=columns)
    await connection.close()


async def _fill(dsn: str, topic: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(_FROM_STAGED, topic)
    await connection.execute("ANALYZE orders.outbox")
    # What filling wrote must not be flushed at the cost of what is measured.
    await connection.execute("CHECKPOINT")
    await connection.close()


async def _fill_textbook(dsn: str, topic: str, count: int) -> None:
    rows = (
        (each.event_id.hex, topic, each.key, EVENT_TYPE, each.sequence, each.key, each.payload.decode(), record(each, topic).occurred_at)
        for each in announced(count)
    )  # fmt: skip
    connection = await asyncpg.connect(dsn)
    columns = ["event_id", "topic", "key", "type", "sequence", "correlation_id", "payload", "created_at"]
    await connection.copy_records_to_table("outbox", records=rows, columns=columns, schema_name="orders")
    await connection.execute("ANALYZE orders.outbox")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def _published(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    count: int = await connection.fetchval("SELECT count(*) FROM event_log")
    await connection.close()
    return count
