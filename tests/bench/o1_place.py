"""O1: how many orders a second are placed over HTTP, each under a key and a number of its own."""

import asyncio
import dataclasses
import hashlib
import json
import os
import secrets
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from defray_kernel import ids
from defray_kernel.clock import SystemClock
from defray_kernel.contracts.merchant_v1 import ApiKeyV1, MerchantState
from tests.bench import past
from tests.bench.accounting import Meter
from tests.bench.driver import driver
from tests.bench.report import Goal, Row, Sample, make_row
from tests.bench.rounds import Plan, Tell, interleave, quietest
from tests.bench.sampler import top
from tests.bench.textbook import order as textbook_order
from tests.bench.textbook import schema as textbook
from tests.bench.world import World, free_ports, sampled, stop

GOAL = Goal(ratio_textbook=8.0)
_PER_S_MAX = {"ours": 6_000, "textbook": 1_500}
_PATH = "/v1/orders"
_MERCHANT = ids.uuid7()
_API_KEY = f"sk_test_{secrets.token_hex(16)}"
_ITEMS = [
    {"sku": "lamp-1", "title": "A lamp at noon", "quantity": 1, "unit_amount_minor": 1_500},
    {"sku": "oil-2", "title": "Oil, half a litre", "quantity": 2, "unit_amount_minor": 250},
]
_FOUND_OURS = """
SELECT (SELECT count(*) FROM orders.orders) AS "orders",
       (SELECT count(*) / 2 FROM orders.order_item) AS "pairs of lines",
       (SELECT count(*) FROM orders.order_transition) AS "transitions",
       (SELECT count(*) FROM orders.idempotency_key) AS "keys",
       (SELECT count(DISTINCT aggregate_id) FROM orders.outbox WHERE event_type = 'order.placed.v1') AS "events"
"""
_FOUND_TEXTBOOK = """
SELECT (SELECT count(*) FROM orders."order") AS "orders",
       (SELECT count(*) / 2 FROM orders.order_item) AS "pairs of lines",
       (SELECT count(*) FROM orders.order_transition) AS "transitions",
       (SELECT count(*) FROM orders.idempotency_key) AS "keys",
       (SELECT count(DISTINCT key) FROM orders.outbox WHERE type = 'order.placed') AS "events"
"""
_SEED = """
INSERT INTO orders.merchant (merchant_id, sequence, status, state, key_hashes, changed_at)
VALUES ($1, 1, 'ACTIVE', $2, ARRAY[$3::bytea], now())
"""


async def run(world: World, plan: Plan, tell: Tell) -> Row:
    """Measure both sides, then latency at half of our rate."""
    tell("O1 place order: distinct numbers and keys, two lines, 64 connections; FastAPI + SQLAlchemy twin")
    scenario = _Placing(world, plan)
    result = await interleave({"ours": scenario.ours, "textbook": scenario.textbook}, plan, tell)
    rates = sorted(sample.rate for sample in result.samples["ours"])
    half = rates[len(rates) // 2] / 2
    latency, dropped = await quietest(lambda number: scenario.ours(number, rate=half), 0, plan)
    tell(f"  at half load ({half:.0f}/s): p50 {latency.p50_ms or 0:.1f} ms, p99 {latency.p99_ms or 0:.1f} ms")
    return make_row(
        id="O1", scenario="place order over HTTP with idempotency key, two lines, to the signed token, one worker",
        unit="orders/s", limit_is="none", goal=GOAL, rounds=result.samples, latency=latency,
        dropped_runs=result.dropped + dropped, not_counted=("load",),
    )  # fmt: skip


async def profile(world: World, plan: Plan, out: Path) -> list[str]:
    """One more run of ours under the sampler; returns where its CPU time went."""
    await _Placing(world, plan).ours(0, profile=out)
    return top(out)


class _Placing:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan

    async def ours(self, _: int, *, rate: float = 0.0, profile: Path | None = None) -> Sample:
        """`python -m defray_order http`."""
        async with self._world.database("order") as database:
            connection = await asyncpg.connect(database.admin_dsn)
            await connection.execute(_SEED, _MERCHANT, *_merchant())
            await connection.close()
            site = self._world.site(database)
            ports = site.addresses.services["order"]
            service = self._world.start(
                "order-http", [*sampled(profile), "-m", "defray_order", "http"], site.service_environment("order")
            )
            try:
                await self._world.ready(service, f"{ports.internal_url}/readyz")
                sample, result = await self._load(
                    "ours", ports.public_url, {"app": service.pid}, rate=rate, profiled=[service.pid] if profile else ()
                )
            finally:
                await stop(service)
            return _checked(sample, result, await past.row(database.admin_dsn, _FOUND_OURS))

    async def textbook(self, _: int) -> Sample:
        """The twin: a session and a commit per request."""
        async with self._world.empty_database() as dsn:
            await textbook.create(dsn)
            await textbook.seed_merchant(
                dsn, api_key=_API_KEY, endpoint_url="http://127.0.0.1:9/", secret=secrets.token_bytes(24)
            )
            (port,) = free_ports(1)
            url = f"http://127.0.0.1:{port}"
            argv = ["-m", textbook_order.__name__, "http", "--dsn", dsn, "--port", str(port), "--keys",
                    str(self._world.textbook_keys)]  # fmt: skip
            service = self._world.start("textbook-order", argv)
            try:
                await self._world.ready(service, f"{url}/health")
                sample, result = await self._load("textbook", url, {"app": service.pid})
            finally:
                await stop(service)
            return _checked(sample, result, await past.row(dsn, _FOUND_TEXTBOOK))

    async def _load(
        self, side: str, url: str, trees: Mapping[str, int], *, rate: float = 0.0, profiled: Sequence[int] = ()
    ) -> tuple[Sample, dict[str, Any]]:
        count = int(_PER_S_MAX[side] * (self._plan.warm_s + self._plan.seconds))
        file = self._world.folder / "placings.jsonl"
        await asyncio.to_thread(_write, file, count)
        argv = ["tests.bench.posting_load", "--url", url, "--path", _PATH, "--requests", str(file), "--count", str(count),
                "--warm", str(self._plan.warm_s), "--seconds", str(self._plan.seconds), "--rate", str(rate)]  # fmt: skip
        async with driver(self._world.folder, "placings", argv) as load:
            await load.said("ready")
            await load.tell()
            await load.said("warm")
            for pid in profiled:
                os.kill(pid, signal.SIGUSR1)
            postgres = {"postgres": self._world.server_trees["postgres"]}
            with Meter(dict(trees) | postgres | {"load": load.pid}) as meter:
                await load.said("over")
            result = await load.said("result")
        operations = int(result["measured"])
        sample = Sample(rate=float(result["rate"]), operations=operations, cpu_us=meter.us_per_operation(operations),
                        others=meter.others, p50_ms=result["p50_ms"], p99_ms=result["p99_ms"])  # fmt: skip
        return sample, result


def _merchant() -> tuple[bytes, bytes]:
    """Our merchant's state, and the hash of its one key."""
    digest = hashlib.sha256(_API_KEY.encode()).digest()
    state = MerchantState(
        merchant_id=ids.show("mer", _MERCHANT), name="Bench", status="ACTIVE", mode="test", currencies=["CNY"],
        api_keys=[ApiKeyV1(key_id="key_1", prefix="sk_test_", sha256=digest.hex(), scopes=["orders:write"])],
        changed_at=SystemClock().real(),
    )  # fmt: skip
    return msgspec.json.encode(state), digest


def _write(file: Path, count: int) -> None:
    """As many requests, each under a number and a key of its own."""
    with file.open("w") as lines:
        for _ in range(count):
            body = {
                "merchant_order_no": secrets.token_hex(12),
                "currency": "CNY",
                "amount_minor": 2_000,
                "items": _ITEMS,
            }
            headers = {"Authorization": f"Bearer {_API_KEY}", "Idempotency-Key": secrets.token_hex(16),
                       "Content-Type": "application/json"}  # fmt: skip
            lines.write(json.dumps({"headers": headers, "body": json.dumps(body)}) + "\n")


def _checked(sample: Sample, result: dict[str, Any], found: Mapping[str, int]) -> Sample:
    """Every order that was answered with a 201 must be there once, and nothing else was answered."""
    accepted = sum(count for status, count in result["statuses"].items() if int(status) == 201)
    wrong = [f"{count} answers with status {status}" for status, count in result["statuses"].items()
             if int(status) != 201]  # fmt: skip
    wrong += [f"{count} {name} for {accepted} orders accepted" for name, count in found.items() if count != accepted]
    if result["lost"]:
        wrong.append(f"{result['lost']} connections lost")
    if not sample.operations:
        wrong.append("nothing was measured")
    return dataclasses.replace(sample, wrong=wrong)
