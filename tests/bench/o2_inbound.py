"""O2: how many requests of other services become orders a second, from a full topic, against one event a transaction."""

import asyncio
import dataclasses
import json
import os
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import asyncpg
import msgspec
from aiokafka.partitioner import murmur2

from defray_kernel import ids
from defray_kernel.clock import SystemClock
from defray_kernel.contracts import inbound, order_inbound_v1
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.outbox import Headers
from tests.bench.accounting import Meter
from tests.bench.driver import driver
from tests.bench.limits import copying
from tests.bench.records import PARTITIONS, problems
from tests.bench.report import Goal, Row, Sample, make_row
from tests.bench.rounds import Plan, Tell, interleave
from tests.bench.sampler import top
from tests.bench.textbook import inbound as textbook_inbound
from tests.bench.textbook import schema as textbook
from tests.bench.world import BenchFailed, World, free_ports, stop

GOAL = Goal(ratio_textbook=15.0)
_EVENTS_PER_S_MAX = {"ours": 12_000, "textbook": 1_000}
"""More than two cores take, so that no topic runs dry; if one does, the clock stops with it."""
_STARTS_WITHIN_S = 60.0
_LOOK_S = 0.05
_MERCHANT = ids.uuid7()
_OURS_SO_FAR = "SELECT coalesce(sum(next_offset), 0)::bigint FROM orders.consumer_offset WHERE consumer = 'inbound'"
_OURS_FOUND = """
SELECT (SELECT count(*) FROM orders.orders) AS "orders", (SELECT count(*) FROM orders.inbound_seen) AS "ids seen",
       (SELECT count(DISTINCT aggregate_id) FROM orders.outbox WHERE event_type = 'order.placed.v1') AS "events"
"""
_TEXTBOOK_SO_FAR = "SELECT count(*) FROM orders.inbox"
_TEXTBOOK_FOUND = """
SELECT (SELECT count(*) FROM orders."order") AS "orders", (SELECT count(*) FROM orders.inbox) AS "ids seen",
       (SELECT count(DISTINCT key) FROM orders.outbox WHERE type = 'order.placed') AS "events"
"""


async def run(world: World, plan: Plan, tell: Tell) -> Row:
    """Measure all three sides."""
    tell("O2 inbound: order.requested events of other services, from a full topic; COPY of the same rows as the limit")
    scenario = _Inbound(world, plan)
    sides = {"ours": scenario.ours, "textbook": scenario.textbook, "limit": scenario.limit}
    result = await interleave(sides, plan, tell)
    return make_row(
        id="O2", scenario="inbound requests, topic to committed order, one consumer process", unit="events/s",
        limit_is=f"COPY of the same rows, {copying.ORDERS_PER_BATCH} orders a transaction, one connection", goal=GOAL,
        rounds=result.samples, latency=None, dropped_runs=result.dropped,
    )  # fmt: skip


async def profile(world: World, plan: Plan, out: Path) -> list[str]:
    """One more run of ours under the sampler; returns where its CPU time went."""
    await _Inbound(world, plan).ours(0, profile=out)
    return top(out)


class _Inbound:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan
        self._rows = world.folder / f"rows-{secrets.token_hex(4)}"

    async def ours(self, _: int, *, profile: Path | None = None) -> Sample:
        """`python -m defray_order consume`."""
        await self._world.fresh_topics()
        count = self._count("ours")
        await self._publish(order_inbound_v1.TOPIC, count, ours=True)
        async with self._world.database("order") as database:
            connection = await asyncpg.connect(database.admin_dsn)
            await connection.execute(_merchant_sql(), *_merchant_row())
            site = self._world.site(database)
            process = await self._world.service(site, "order", "consume", profile=profile)
            try:
                sample = await self._measure(connection, _OURS_SO_FAR, count, {"order": process.pid},
                                             profiled=[process.pid] if profile else ())  # fmt: skip
            finally:
                await stop(process)
            wrong = await _differences(connection, _OURS_FOUND, await connection.fetchval(_OURS_SO_FAR))
            if not self._rows.exists() and not await copying.keep(connection, self._rows):
                raise BenchFailed("too few orders were placed to know what COPY would make of them")
            await connection.close()
        return dataclasses.replace(sample, wrong=[*sample.wrong, *wrong])

    async def textbook(self, _: int) -> Sample:
        """The twin: an inbox row, the order and its event in a transaction of the ORM, then the offset; one by one."""
        await self._world.fresh_topics([textbook_inbound.TOPIC])
        count = self._count("textbook")
        await self._publish(textbook_inbound.TOPIC, count, ours=False)
        async with self._world.empty_database() as dsn:
            await textbook.create(dsn)
            await textbook.seed_merchant(
                dsn, api_key="sk_test_bench", endpoint_url="http://127.0.0.1:9/", secret=bytes(24)
            )
            connection = await asyncpg.connect(dsn)
            (port,) = free_ports(1)
            argv = ["-m", textbook_inbound.__name__, "consume", "--dsn", dsn, "--kafka", self._world.kafka.bootstrap,
                    "--port", str(port)]  # fmt: skip
            process = self._world.start("textbook-inbound", argv)
            try:
                sample = await self._measure(connection, _TEXTBOOK_SO_FAR, count, {"order": process.pid})
            finally:
                await stop(process)
            wrong = await _differences(connection, _TEXTBOOK_FOUND, await connection.fetchval(_TEXTBOOK_SO_FAR))
            await connection.close()
        return dataclasses.replace(sample, wrong=[*sample.wrong, *wrong])

    async def limit(self, _: int) -> Sample:
        """No topic, no reading, no rules: the rows of our first run go into empty tables with the same constraints."""
        async with self._world.database("order") as database:
            argv = ["tests.bench.limits.copying", "--dsn", database.admin_dsn, "--folder", str(self._rows),
                    "--seconds", str(self._plan.seconds)]  # fmt: skip
            async with driver(self._world.folder, "copying", argv) as client:
                await client.said("ready")
                trees = {"postgres": self._world.server_trees["postgres"], "order": client.pid}
                with Meter(trees) as meter:
                    await client.tell()
                    copied = await client.said("copied")
                await client.tell()
        wrong = problems({"orders too few or too many": _lacking(copied)})
        return Sample(rate=copied["orders"] / copied["took_s"], operations=copied["orders"],
                      cpu_us=meter.us_per_operation(copied["orders"]), others=meter.others, wrong=wrong)  # fmt: skip

    def _count(self, side: str) -> int:
        return int(_EVENTS_PER_S_MAX[side] * (self._plan.seconds + self._plan.warm_s))

    async def _publish(self, topic: str, count: int, *, ours: bool) -> None:
        """Fill the topic, each key in its own partition, as any client would have."""
        producer = await self._world.kafka_clients().producer()
        builders = {part: producer.create_batch() for part in range(PARTITIONS)}
        try:
            for number in range(count):
                key, value, headers = _request(number, ours=ours)
                part = (murmur2(key) & 0x7FFF_FFFF) % PARTITIONS
                if builders[part].append(timestamp=None, key=key, value=value, headers=headers) is None:
                    await self._send(producer, topic, part, builders[part])
                    builders[part] = producer.create_batch()
                    builders[part].append(timestamp=None, key=key, value=value, headers=headers)
            for part, builder in builders.items():
                await self._send(producer, topic, part, builder)
        finally:
            await producer.stop()

    async def _send(self, producer, topic: str, part: int, builder) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        builder.close()
        await (await producer.send_batch(builder, topic, partition=part))

    async def _measure(
        self, connection: asyncpg.Connection, so_far: str, count: int, trees: Mapping[str, int], *,
        profiled: Sequence[int] = (),
    ) -> Sample:  # fmt: skip
        until = time.monotonic() + _STARTS_WITHIN_S
        while not await connection.fetchval(so_far):
            if time.monotonic() > until:
                raise BenchFailed("no request was taken")
            await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(self._plan.warm_s)
        for pid in profiled:
            os.kill(pid, signal.SIGUSR1)
        with Meter(self._world.server_trees | dict(trees)) as meter:
            first, started = await connection.fetchval(so_far), time.monotonic()
            last, ended = first, started
            while ended - started < self._plan.seconds and last < count:
                await asyncio.sleep(_LOOK_S)
                last, ended = await connection.fetchval(so_far), time.monotonic()
        operations = last - first
        return Sample(rate=operations / max(1e-9, ended - started), operations=operations,
                      cpu_us=meter.us_per_operation(operations), others=meter.others,
                      wrong=() if operations else ("nothing was measured",))  # fmt: skip


def _request(number: int, *, ours: bool) -> tuple[bytes, bytes, Headers]:
    merchant = ids.show("mer", _MERCHANT) if ours else textbook.MERCHANT_ID
    lines = [
        {"sku": f"TEA-{number % 97}", "title": "Longjing tea, 250 g", "quantity": 2, "unit_amount_minor": 6900},
        {"sku": f"CUP-{number % 31}", "title": "A cup of white porcelain", "quantity": 1, "unit_amount_minor": 4200},
    ]
    body = {"merchant_id": merchant, "merchant_order_no": f"A-{number:09}", "currency": "CNY", "amount_minor": 18000}
    value = json.dumps(body | {"items": lines}).encode()
    key = inbound.key_of(merchant, f"A-{number:09}").encode()
    if ours:
        attributes = {"ce_specversion": "1.0", "ce_id": f"cart-{number}", "ce_source": "/bench",
                      "ce_type": order_inbound_v1.OrderRequested.TYPE, "ce_correlationid": f"bench-{number}"}  # fmt: skip
    else:
        attributes = {
            "event_id": f"cart-{number}",
            "event_type": "order.requested",
            "correlation_id": f"bench-{number}",
        }
    return key, value, [(name, text.encode()) for name, text in attributes.items()]


def _merchant_sql() -> str:
    return "INSERT INTO orders.merchant (merchant_id, sequence, status, state, changed_at) VALUES ($1, 1, 'ACTIVE', $2, now())"


def _merchant_row() -> tuple[object, ...]:
    state = MerchantState(
        merchant_id=ids.show("mer", _MERCHANT), name="Bench", status="ACTIVE", mode="test", currencies=["CNY"],
        api_keys=[], changed_at=SystemClock().real(),
    )  # fmt: skip
    return _MERCHANT, msgspec.json.encode(state)


def _lacking(copied: Mapping[str, int]) -> int:
    """How many orders the last round over the kept rows left more or less than it copied."""
    in_all = copied["kept"] * copying.ORDERS_PER_BATCH
    return abs(copied["left"] - ((copied["orders"] - 1) % in_all + 1))


async def _differences(connection: asyncpg.Connection, found: str, taken: int) -> Sequence[str]:
    """Each request taken is one order, one id seen and one event."""
    row = await connection.fetchrow(found)
    assert row is not None
    return problems({f"{what} too few or too many": abs(count - taken) for what, count in row.items()})
