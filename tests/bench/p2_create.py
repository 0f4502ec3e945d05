"""P2: how many payments a second are created under an idempotency key, to the durable attempt before the channel's call."""

import asyncio
import dataclasses
import datetime as dt
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from defray_kernel import ids
from defray_sandbox.simulators.process import APPID, MCHID
from defray_sandbox.stack.environment import Ports
from tests.bench import durable_start, past
from tests.bench.accounting import Meter
from tests.bench.driver import driver
from tests.bench.limits import echoing
from tests.bench.report import Goal, Row, Sample, make_row
from tests.bench.rounds import Plan, Tell, interleave, quietest
from tests.bench.sampler import top
from tests.bench.textbook import payment as textbook_payment
from tests.bench.textbook import schema as textbook
from tests.bench.world import World, free_ports, sampled, stop

GOAL = Goal(ratio_textbook=8.0, ratio_limit=0.7)
_PER_S_MAX = {"ours": 8_000, "textbook": 2_000, "limit": 2_000, "full": 2_000, "textbook full": 1_000}
_PATH = "/v1/payments"
_BODY = {"channel": "wechat", "product": "native", "description": "A lamp at noon"}
_MERCHANT = ids.show("mer", ids.uuid7())
_SETTINGS = {"channel_calls_per_s": "5000"}
"""The bound is there to spare a channel; the simulator's own machine is what is measured."""
_FOUND_OURS = """
SELECT (SELECT count(*) FROM payments.payment) - {history} AS "payments",
       (SELECT count(*) FROM payments.attempt) - {history} AS "attempts",
       (SELECT count(*) FROM payments.payable) - {history} AS "payables",
       (SELECT count(*) FROM payments.idempotency_key) AS "keys",
       (SELECT count(*) FROM payments.outbox WHERE event_type = 'payment.created.v1') AS "events"
"""
_FOUND_TEXTBOOK = """
SELECT (SELECT count(*) FROM payments.payment) - {history} AS "payments",
       (SELECT count(*) FROM payments.idempotency_key) AS "keys",
       (SELECT count(*) FROM payments.outbox WHERE type = 'payment.created') AS "events"
"""


async def run(world: World, plan: Plan, tell: Tell) -> Row:
    """Measure three sides to the durable attempt and two with the channel's call, then latency at half of our rate."""
    tell(
        "P2 create payment: distinct orders and keys, 64 connections; FastAPI + SQLAlchemy twin; FastAPI echo as the limit"
    )
    scenario = _Creations(world, plan)
    sides = {
        "ours": scenario.ours,
        "textbook": scenario.textbook,
        "limit": scenario.limit,
        "full": scenario.full,
        "textbook full": scenario.textbook_full,
    }
    result = await interleave(sides, plan, tell)
    rates = sorted(sample.rate for sample in result.samples["ours"])
    half = rates[len(rates) // 2] / 2
    latency, dropped = await quietest(lambda number: scenario.ours(number, rate=half), 0, plan)
    tell(f"  at half load ({half:.0f}/s): p50 {latency.p50_ms or 0:.1f} ms, p99 {latency.p99_ms or 0:.1f} ms")
    return make_row(
        id="P2", scenario="create payment with idempotency key, to the durable attempt before the channel's call, one worker",
        unit="payments/s", limit_is="FastAPI echo of the same body, one worker", goal=GOAL, rounds=result.samples,
        latency=latency, dropped_runs=result.dropped + dropped, not_counted=("load", "channel"),
    )  # fmt: skip


async def profile(world: World, plan: Plan, out: Path) -> list[str]:
    """One more run of ours under the sampler; returns where its CPU time went."""
    await _Creations(world, plan).ours(0, profile=out)
    return top(out)


class _Creations:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan
        self._key = load_pem_private_key(world.credentials.order_token_key.read_bytes(), None)

    async def ours(self, _: int, *, rate: float = 0.0, profile: Path | None = None) -> Sample:
        """The service's http role up to the commit of the attempt."""
        async with self._world.database("payment") as database:
            await past.execute(database.admin_dsn, self._filled(past.SEED_OURS))
            site = self._world.site(database)
            ports = site.addresses.services["payment"]
            argv = [*sampled(profile), "-m", durable_start.__name__, "http"]
            service = self._world.start("payment-durable", argv, site.service_environment("payment"))
            try:
                await self._world.ready(service, f"{ports.internal_url}/readyz")
                sample, result = await self._load(
                    "ours", ports.public_url, {"app": service.pid}, rate=rate, profiled=[service.pid] if profile else ()
                )
            finally:
                await stop(service)
            return _checked(sample, result, await past.row(database.admin_dsn, self._filled(_FOUND_OURS)))

    async def textbook(self, _: int) -> Sample:
        """The twin up to its commit."""
        return await self._textbook("textbook", None)

    async def limit(self, _: int) -> Sample:
        """Only HTTP and the body."""
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        app = self._world.start("echoing", ["-m", echoing.__name__, "--port", str(port)])
        try:
            await self._world.ready(app, f"{url}/health")
            sample, result = await self._load("limit", url, {"app": app.pid}, repeat=True)
        finally:
            await stop(app)
        return _checked(sample, result, {})

    async def full(self, _: int) -> Sample:
        """`python -m defray_payment http` with the simulated channel."""
        async with self._channel() as channel, self._world.database("payment") as database:
            await past.execute(database.admin_dsn, self._filled(past.SEED_OURS))
            site = self._world.site(database, channel=channel.ports)
            service = await self._world.service(site, "payment", "http", extra=_SETTINGS)
            try:
                url = site.addresses.services["payment"].public_url
                sample, result = await self._load("full", url, {"app": service.pid, "channel": channel.pid})
            finally:
                await stop(service)
            found = await past.row(database.admin_dsn, self._filled(_FOUND_OURS))
            return _checked(sample, result, found | {"orders at the channel": await channel.orders()})

    async def textbook_full(self, _: int) -> Sample:
        """The twin with the simulated channel."""
        async with self._channel() as channel:
            return await self._textbook("textbook full", channel)

    async def _textbook(self, side: str, channel: "_Channel | None") -> Sample:
        async with self._world.empty_database() as dsn:
            await textbook.create(dsn)
            await past.execute(dsn, self._filled(past.SEED_TEXTBOOK))
            (port,) = free_ports(1)
            url = f"http://127.0.0.1:{port}"
            argv = ["-m", textbook_payment.__name__, "http", "--dsn", dsn, "--port", str(port), "--public-url", url,
                    "--keys", str(self._world.textbook_keys), *(["--channel", channel.ports.public_url] if channel else [])]  # fmt: skip
            service = self._world.start("textbook-payment", argv)
            try:
                await self._world.ready(service, f"{url}/health")
                trees = {"app": service.pid} | ({"channel": channel.pid} if channel else {})
                sample, result = await self._load(side, url, trees)
            finally:
                await stop(service)
            found = await past.row(dsn, self._filled(_FOUND_TEXTBOOK))
            return _checked(
                sample, result, found | ({"orders at the channel": await channel.orders()} if channel else {})
            )

    async def _load(
        self, side: str, url: str, trees: Mapping[str, int], *, rate: float = 0.0, repeat: bool = False,
        profiled: Sequence[int] = (),
    ) -> tuple[Sample, dict[str, Any]]:  # fmt: skip
        count = int(_PER_S_MAX[side] * (self._plan.warm_s + self._plan.seconds))
        file = self._world.folder / "creations.jsonl"
        await asyncio.to_thread(self._write, file, count, is_textbook=side.startswith("textbook"))
        argv = ["tests.bench.posting_load", "--url", url, "--path", _PATH, "--requests", str(file), "--count", str(count),
                "--warm", str(self._plan.warm_s), "--seconds", str(self._plan.seconds), "--rate", str(rate),
                *(["--repeat"] if repeat else [])]  # fmt: skip
        async with driver(self._world.folder, "creations", argv) as load:
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

    def _write(self, file: Path, count: int, *, is_textbook: bool) -> None:
        """As many requests, each for an order and under a key of its own."""
        body = json.dumps(_BODY)
        with file.open("w") as lines:
            for _ in range(count):
                token = self._token(is_textbook=is_textbook)
                headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": secrets.token_hex(16),
                           "Content-Type": "application/json"}  # fmt: skip
                lines.write(json.dumps({"headers": headers, "body": body}) + "\n")

    def _token(self, *, is_textbook: bool) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "sub": ids.show("ord", ids.uuid7()), "mid": _MERCHANT, "amt": past.AMOUNT_MINOR, "cur": "CNY",
            "cid": secrets.token_hex(16),
        }  # fmt: skip
        if not is_textbook:
            ends = (
                dt.datetime.fromtimestamp(now + 7200, dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
            )
            claims |= {"iss": "defray-order", "aud": "defray-payment", "oxp": ends, "iat": now, "exp": now + 90_000}
        kid = self._world.credentials.order_token_key_id()
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": kid})  # type: ignore[arg-type]

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator["_Channel"]:
        public, internal = free_ports(2)
        ports = Ports(public=public, internal=internal)
        ledger = self._world.folder / f"channel-{public}.jsonl"
        argv = ["-m", "defray_sandbox.simulators.wechat", "--port", str(public), "--control-port", str(internal),
                "--state-file", str(ledger), "--keys-dir", str(self._world.credentials.channel_side), "--mchid", MCHID,
                "--appid", APPID]  # fmt: skip
        process = self._world.start("channel", argv)
        try:
            await self._world.ready(process, f"{ports.internal_url}/health")
            yield _Channel(ports=ports, pid=process.pid)
        finally:
            await stop(process)
            ledger.unlink(missing_ok=True)

    @staticmethod
    def _filled(text: str) -> str:
        return past.filled(text, prefix="BENCH".ljust(17, "0"), count=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    """The simulated channel of one run."""

    ports: Ports
    pid: int

    async def orders(self) -> int:
        """How many orders it made."""
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(f"{self.ports.internal_url}/control/statistics") as answer,
        ):
            return int((await answer.json())["orders_created"])


def _checked(sample: Sample, result: dict[str, Any], found: Mapping[str, int]) -> Sample:
    """Every payment that was answered with a 2xx must be there once, and nothing else was answered."""
    accepted = sum(count for status, count in result["statuses"].items() if 200 <= int(status) < 300)
    wrong = [f"{count} answers with status {status}" for status, count in result["statuses"].items()
             if not 200 <= int(status) < 300]  # fmt: skip
    wrong += [f"{count} {name} for {accepted} payments accepted" for name, count in found.items() if count != accepted]
    if result["lost"]:
        wrong.append(f"{result['lost']} connections lost")
    if not sample.operations:
        wrong.append("nothing was measured")
    return dataclasses.replace(sample, wrong=wrong)
