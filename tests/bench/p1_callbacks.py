"""P1: how many signed callbacks a second are durably applied by one worker of the payment service."""

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from defray_sandbox.simulators.process import APPID, MCHID
from tests.bench import past
from tests.bench.accounting import Meter
from tests.bench.driver import driver
from tests.bench.limits import verifying
from tests.bench.report import Goal, Row, Sample, make_row
from tests.bench.rounds import Plan, Tell, interleave, quietest
from tests.bench.sampler import top
from tests.bench.textbook import payment as textbook_payment
from tests.bench.textbook import schema as textbook
from tests.bench.world import BenchFailed, World, free_ports, stop

_CALLBACKS_PER_S_MAX = {"ours": 8_000, "textbook": 2_000}
_LIMIT_CALLBACKS = 2_000
_PATH = "/v1/webhooks/wechat"
_PREFIX = "BENCH".ljust(17, "0")
_AHEAD_S = 280
_GOOD_FOR_S = 500.0
"""A signature holds for 300 s around its time stamp, and these are stamped 280 s ahead."""
_MAKE_WITHIN_S = 180.0

GOAL = Goal(ratio_textbook=10.0, ratio_limit=0.2, p99_ms=20.0)

_AT_THE_ACCOUNT = """
UPDATE payments.attempt SET account_id = (SELECT account_id FROM payments.channel_account WHERE channel = 'wechat');
VACUUM FULL ANALYZE payments.attempt"""
_FOUND_OURS = """
SELECT (SELECT count(*) FROM payments.payment WHERE status = 'SUCCEEDED') - {history} AS "payments succeeded",
       (SELECT count(*) FROM payments.outbox WHERE event_type = 'payment.succeeded.v1')
       + (SELECT count(*) FROM payments.event_log WHERE event_type = 'payment.succeeded.v1') AS "events",
       (SELECT count(*) FROM payments.evidence) AS "evidence rows",
       (SELECT count(*) FROM payments.callback) AS "callbacks kept",
       (SELECT count(*) FROM payments.payable WHERE claimed_by IS NOT NULL) - {history} AS "payables claimed"
"""
_FOUND_TEXTBOOK = """
SELECT (SELECT count(*) FROM payments.payment WHERE status = 'SUCCEEDED') - {history} AS "payments succeeded",
       (SELECT count(*) FROM payments.outbox WHERE type = 'payment.succeeded') AS "events",
       (SELECT count(*) FROM payments.callback) AS "callbacks kept"
"""


async def run(world: World, plan: Plan, tell: Tell) -> Row:
    """Measure all three sides, then latency at half of our rate."""
    tell(
        "P1 callback ingest: signed, distinct, 64 connections; FastAPI + SQLAlchemy twin; bare ASGI + RSA as the limit"
    )
    scenario = _Callbacks(world, plan)
    result = await interleave(
        {"ours": scenario.ours, "textbook": scenario.textbook, "limit": scenario.limit}, plan, tell
    )
    rates = sorted(sample.rate for sample in result.samples["ours"])
    half = rates[len(rates) // 2] / 2
    latency, dropped = await quietest(lambda number: scenario.ours(number, rate=half), 0, plan)
    tell(f"  at half load ({half:.0f}/s): p50 {latency.p50_ms or 0:.1f} ms, p99 {latency.p99_ms or 0:.1f} ms")
    return make_row(
        id="P1", scenario="callback ingest, 64 connections, RSA-signed, distinct, durable 2xx, one worker",
        unit="callbacks/s", limit_is="bare ASGI + RSA verify on uvicorn, one worker", goal=GOAL, rounds=result.samples,
        latency=latency, dropped_runs=result.dropped + dropped, not_counted=("load",),
    )  # fmt: skip


async def profile(world: World, plan: Plan, out: Path) -> list[str]:
    """One more run of ours under the sampler; returns where its CPU time went."""
    await _Callbacks(world, plan).ours(0, profile=out)
    return top(out)


class _Callbacks:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan
        self._file = world.folder / "callbacks.jsonl"
        self._made_at: float | None = None

    async def ours(self, _: int, *, rate: float = 0.0, profile: Path | None = None) -> Sample:
        """`python -m defray_payment http`, payments seeded as PENDING."""
        count = self._count("ours")
        await self._signed()
        async with self._world.database("payment") as database:
            await past.execute(database.admin_dsn, _filled(past.SEED_OURS, count))
            site = self._world.site(database)
            service = await self._world.service(site, "payment", "http", profile=profile)
            try:
                # The account is made when the service first starts; a report is also held to where its attempt was made.
                await past.execute(database.admin_dsn, _AT_THE_ACCOUNT)
                url = site.addresses.services["payment"].public_url
                sample, result = await self._load(url, count, {"app": service.pid}, rate=rate,
                                                  profiled=[service.pid] if profile else ())  # fmt: skip
            finally:
                await stop(service)
            return _checked(sample, result, await past.row(database.admin_dsn, _filled(_FOUND_OURS, count)))

    async def textbook(self, _: int) -> Sample:
        """The twin's payment service without its relay."""
        count = self._count("textbook")
        await self._signed()
        async with self._world.empty_database() as dsn:
            await textbook.create(dsn)
            await past.execute(dsn, _filled(past.SEED_TEXTBOOK, count))
            (port,) = free_ports(1)
            url = f"http://127.0.0.1:{port}"
            argv = ["-m", textbook_payment.__name__, "http", "--dsn", dsn, "--port", str(port),
                    "--keys", str(self._world.textbook_keys)]  # fmt: skip
            service = self._world.start("textbook-payment", argv)
            try:
                await self._world.ready(service, f"{url}/health")
                sample, result = await self._load(url, count, {"app": service.pid})
            finally:
                await stop(service)
            return _checked(sample, result, await past.row(dsn, _filled(_FOUND_TEXTBOOK, count)))

    async def limit(self, _: int) -> Sample:
        """Only HTTP and the signature."""
        await self._signed()
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        keys = self._world.credentials.merchant_side / "platform"
        app = self._world.start("verifying", ["-m", verifying.__name__, "--keys", str(keys), "--port", str(port)])
        try:
            await self._world.ready(app, url, status=204)
            sample, result = await self._load(url, _LIMIT_CALLBACKS, {"app": app.pid}, repeat=True)
        finally:
            await stop(app)
        return _checked(sample, result, {})

    async def _load(
        self,
        url: str,
        count: int,
        trees: Mapping[str, int],
        *,
        rate: float = 0.0,
        repeat: bool = False,
        profiled: Sequence[int] = (),
    ) -> tuple[Sample, dict[str, Any]]:
        argv = ["tests.bench.posting_load", "--url", url, "--path", _PATH, "--requests", str(self._file), "--count", str(count),
                "--warm", str(self._plan.warm_s), "--seconds", str(self._plan.seconds), "--rate", str(rate),
                *(["--repeat"] if repeat else [])]  # fmt: skip
        async with driver(self._world.folder, "callbacks", argv) as load:
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

    async def _signed(self) -> None:
        """Make the signed callbacks, once for all sides, and anew before their time stamps run out."""
        if self._made_at is not None and time.monotonic() - self._made_at < _GOOD_FOR_S:
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "defray_sandbox.simulators.wechat.batch",
            "--keys-dir", str(self._world.credentials.channel_side), "--out", str(self._file), "--prefix", _PREFIX,
            "--count", str(self._count("ours")), "--total", str(past.AMOUNT_MINOR), "--mchid", MCHID, "--appid", APPID,
            "--ahead-s", str(_AHEAD_S),
        )  # fmt: skip
        try:
            async with asyncio.timeout(_MAKE_WITHIN_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        if code != 0:
            raise BenchFailed(f"the signed callbacks could not be made (exit code {code})")
        self._made_at = time.monotonic()

    def _count(self, side: str) -> int:
        return int(_CALLBACKS_PER_S_MAX[side] * (self._plan.warm_s + self._plan.seconds))


def _checked(sample: Sample, result: dict[str, Any], found: Mapping[str, int]) -> Sample:
    """Every callback that was answered with a 2xx must be there once, and nothing else was answered."""
    accepted = sum(count for status, count in result["statuses"].items() if 200 <= int(status) < 300)
    wrong = [f"{count} answers with status {status}" for status, count in result["statuses"].items()
             if not 200 <= int(status) < 300]  # fmt: skip
    wrong += [f"{count} {name} for {accepted} callbacks accepted" for name, count in found.items() if count != accepted]
    if result["lost"]:
        wrong.append(f"{result['lost']} connections lost")
    if not sample.operations:
        wrong.append("nothing was measured")
    return dataclasses.replace(sample, wrong=wrong)


def _filled(text: str, count: int) -> str:
    return past.filled(text, prefix=_PREFIX, count=count)
