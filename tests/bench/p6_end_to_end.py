"""P6: payments a second from the order to the acknowledged webhook, through all four services on this machine."""

import asyncio
import base64
import dataclasses
import os
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from defray_sandbox import checks, seed
from defray_sandbox.doors import Doors
from defray_sandbox.simulators.process import APPID, MCHID
from defray_sandbox.stack.environment import Ports, Site
from defray_sandbox.stack.local import LocalStack
from defray_sandbox.stack.processes import OwnedProcess
from defray_sandbox.stack.provision import SERVICES
from tests.bench.accounting import Meter
from tests.bench.driver import Driver, driver
from tests.bench.report import Goal, Row, Sample, make_row
from tests.bench.rounds import Plan, Tell, interleave
from tests.bench.sampler import top
from tests.bench.textbook import notifier as textbook_notifier
from tests.bench.textbook import order as textbook_order
from tests.bench.textbook import payment as textbook_payment
from tests.bench.textbook import schema as textbook
from tests.bench.textbook import settlement as textbook_settlement
from tests.bench.world import BenchFailed, World, free_ports, stop

GOAL = Goal(ratio_textbook=10.0)
_UNDER_WAY = {"ours": 256, "textbook": 64}
_SECONDS_MIN = 5.0
_FLOOR_US = 361.0
_REST_WITHIN_S = 60.0
_RESULT_WITHIN_S = 90.0
_WARM_WITHIN_S = 60.0
_SETTINGS = {"kafka_session_timeout_ms": "15000"}
"""As in production: the sandbox's 1.5 s, which make demos of crashes quick, would count a busy second as a death."""
_PAYMENT_SETTINGS = {"channel_calls_per_s": "5000"}
"""The bound is there to spare a channel; the simulator's own machine is what is measured."""
_TEXTBOOK_TOPICS = (
    textbook_order.TOPIC, textbook_payment.TOPIC, textbook_settlement.TOPIC, textbook_notifier.TOPIC,
)  # fmt: skip
_FOUND_TEXTBOOK = """
SELECT (SELECT count(*) FROM orders."order" WHERE status = 'PAID') AS "orders paid",
       (SELECT count(*) FROM payments.payment WHERE status = 'SUCCEEDED') AS "payments succeeded",
       (SELECT count(*) FROM settlement.entry) AS "entries",
       (SELECT count(*) FROM notify.delivery WHERE status = 'DELIVERED') AS "webhooks delivered"
"""
_FOUND_OURS = """
SELECT (SELECT count(*) FROM orders.orders WHERE state = 'PAID') AS "orders paid",
       (SELECT count(*) FROM payments.payment WHERE status = 'SUCCEEDED') AS "payments succeeded",
       (SELECT count(DISTINCT source_id) FROM settlement.entry) AS "payments booked",
       (SELECT count(*) FROM settlement.entry) AS "entries",
       (SELECT count(*) FROM notify.delivery WHERE state = 'DELIVERED') AS "webhooks delivered"
"""
_UNSENT_TEXTBOOK = """
SELECT (SELECT count(*) FROM orders.outbox WHERE published_at IS NULL)
       + (SELECT count(*) FROM payments.outbox WHERE published_at IS NULL)
       + (SELECT count(*) FROM settlement.outbox WHERE published_at IS NULL)
       + (SELECT count(*) FROM notify.outbox WHERE published_at IS NULL)
       + (SELECT count(*) FROM notify.delivery WHERE status = 'PENDING') AS undone
"""
_BOOKS_TEXTBOOK = """
SELECT coalesce(sum(balance_minor), 0)::bigint AS total,
       coalesce(sum(balance_minor) FILTER (WHERE id LIKE 'clearing:%'), 0)::bigint AS clearing FROM settlement.account
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merchant:
    api_key: str
    secret: str


async def run(world: World, plan: Plan, tell: Tell) -> Row:
    """Measure both sides; the limit is computed from what the world around the services costs."""
    tell("P6 end to end: order, payment, callback, books, webhook; four services, Kafka and Postgres on this machine")
    scenario = _EndToEnd(world, plan)
    result = await interleave({"ours": scenario.ours, "textbook": scenario.textbook}, plan, tell)
    rounds: dict[str, Sequence[Sample]] = dict(result.samples)
    rounds["limit"] = [_limit(sample) for sample in result.samples["ours"]]
    return make_row(
        id="P6", scenario="end to end, order to acknowledged webhook, four services, one machine", unit="payments/s",
        limit_is=f"computed: cores / ({_FLOOR_US:.0f} µs Python floor of all steps + generator and channel as measured)",
        goal=GOAL, rounds=rounds, latency=None, dropped_runs=result.dropped, not_counted=("load", "channel"),
    )  # fmt: skip


async def profile(world: World, plan: Plan, out: Path) -> list[str]:
    """One more run of ours with all four services under the sampler."""
    outs = {name: out.with_suffix(f".{name}.json") for name in SERVICES}
    await _EndToEnd(world, plan).ours(0, profiles=outs)
    return [line for name, file in outs.items() for line in (f"{name}:", *top(file))]


def _limit(ours: Sample) -> Sample:
    around = ours.cpu_us.get("load", 0.0) + ours.cpu_us.get("channel", 0.0)
    rate = len(os.sched_getaffinity(0)) / ((_FLOOR_US + around) * 1e-6)
    return Sample(rate=rate, operations=0, cpu_us={"floor": _FLOOR_US, "load and channel": around}, others=0.0)


class _EndToEnd:
    def __init__(self, world: World, plan: Plan) -> None:
        self._world, self._plan = world, plan

    async def ours(self, _: int, *, profiles: Mapping[str, Path] | None = None) -> Sample:
        """All four services in the role `all`, settings as in production as far as loopback allows."""
        await self._world.fresh_topics()
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(self._world.database(*SERVICES))
            site = self._world.site(database)
            channel = await stack.enter_async_context(self._channel(site.addresses.channel))
            services = await stack.enter_async_context(self._services(site, profiles or {}))
            doors = await stack.enter_async_context(Doors())
            shop = site.addresses.shop.public
            merchant = await _register(site, doors, f"http://127.0.0.1:{shop}/hooks/bench")
            orders, payments = (site.addresses.services[name].public_url for name in ("order", "payment"))
            load = await stack.enter_async_context(self._load(orders, payments, shop, merchant, _UNDER_WAY["ours"]))
            trees = {name: process.pid for name, process in services.items()} | {"channel": channel.pid}
            profiled = [process.pid for process in services.values()] if profiles else []
            sample, result = await self._measure(load, trees, profiled)
            sandbox = LocalStack(site=site, supervisor=None, postgres=None, kafka=None)  # type: ignore[arg-type]
            undone = await _at_rest(lambda: checks.undone(sandbox))
            wrong = [f"{count} {what}" for what, count in undone.items()]
            wrong += [f"{each.what}: {each.figures}" for each in await checks.books(sandbox, doors) if not each.holds]
            wrong += _differences(result, await _row(database.admin_dsn, _FOUND_OURS))
            await load.tell()
        return _judged(sample, [*_troubles(result), *wrong])

    async def textbook(self, _: int) -> Sample:
        """The twin's four services, started the same way."""
        await self._world.fresh_topics(_TEXTBOOK_TOPICS)
        async with AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(self._world.empty_database())
            await textbook.create(dsn)
            ports = free_ports(len(textbook.SERVICES) + 3)
            shop, channel_ports = ports.pop(), Ports(public=ports.pop(), internal=ports.pop())
            merchant = _Merchant(
                api_key=secrets.token_hex(24), secret=base64.b64encode(secrets.token_bytes(24)).decode()
            )
            await textbook.seed_merchant(dsn, api_key=merchant.api_key, secret=base64.b64decode(merchant.secret),
                                         endpoint_url=f"http://127.0.0.1:{shop}/hooks/bench")  # fmt: skip
            channel = await stack.enter_async_context(self._channel(channel_ports))
            urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(textbook.SERVICES, ports, strict=True)}
            services = await stack.enter_async_context(self._textbook_services(dsn, urls, channel_ports))
            load = await stack.enter_async_context(
                self._load(urls["order"], urls["payment"], shop, merchant, _UNDER_WAY["textbook"])
            )
            trees = {name: process.pid for name, process in services.items()} | {"channel": channel.pid}
            sample, result = await self._measure(load, trees)

            async def undone() -> dict[str, int]:
                return {what: count for what, count in (await _row(dsn, _UNSENT_TEXTBOOK)).items() if count}

            wrong = [f"{count} {what}" for what, count in (await _at_rest(undone)).items()]
            books = await _row(dsn, _BOOKS_TEXTBOOK)
            captured = await _captured(channel_ports)
            if books["total"] != 0 or books["clearing"] != captured:
                wrong.append(f"books {books}, channel {captured}")
            wrong += _differences(result, await _row(dsn, _FOUND_TEXTBOOK))
            await load.tell()
        return _judged(sample, [*_troubles(result), *wrong])

    async def _measure(
        self, load: Driver, trees: Mapping[str, int], profiled: Sequence[int] = ()
    ) -> tuple[Sample, dict[str, Any]]:
        await load.tell()
        await load.said("warm", within_s=_WARM_WITHIN_S)
        for pid in profiled:
            os.kill(pid, signal.SIGUSR1)
        with Meter(dict(trees) | self._world.server_trees | {"load": load.pid}) as meter:
            await load.said("over", within_s=_WARM_WITHIN_S)
        result: dict[str, Any] = await load.said("result", within_s=_RESULT_WITHIN_S)
        operations = int(result["measured"])
        sample = Sample(rate=float(result["rate"]), operations=operations, cpu_us=meter.us_per_operation(operations),
                        others=meter.others, p50_ms=result["p50_ms"], p99_ms=result["p99_ms"],
                        stages_ms=result["stages_ms"])  # fmt: skip
        return sample, result

    @asynccontextmanager
    async def _load(
        self, orders: str, payments: str, port: int, merchant: _Merchant, under_way: int
    ) -> AsyncIterator[Driver]:
        argv = ["tests.bench.shop_load", "--orders", orders, "--payments", payments, "--port", str(port),
                "--api-key", merchant.api_key, "--secret", merchant.secret, "--under-way", str(under_way),
                "--warm", str(self._plan.warm_s), "--seconds", str(max(_SECONDS_MIN, self._plan.seconds))]  # fmt: skip
        async with driver(self._world.folder, "shop", argv) as load:
            await load.said("ready")
            yield load

    @asynccontextmanager
    async def _channel(self, ports: Ports) -> AsyncIterator[OwnedProcess]:
        ledger = self._world.folder / f"channel-{ports.public}.jsonl"
        argv = ["-m", "defray_sandbox.simulators.wechat", "--port", str(ports.public), "--control-port",
                str(ports.internal), "--state-file", str(ledger), "--keys-dir",
                str(self._world.credentials.channel_side), "--mchid", MCHID, "--appid", APPID, "--auto-pay"]  # fmt: skip
        process = self._world.start("channel", argv)
        try:
            await self._world.ready(process, f"{ports.internal_url}/health")
            yield process
        finally:
            await stop(process)
            ledger.unlink(missing_ok=True)

    @asynccontextmanager
    async def _services(self, site: Site, profiles: Mapping[str, Path]) -> AsyncIterator[dict[str, OwnedProcess]]:
        started = await asyncio.gather(
            *(
                self._world.service(site, name, "all", profile=profiles.get(name), extra=_settings(name))
                for name in SERVICES
            ),
            return_exceptions=True,
        )
        running = {name: each for name, each in zip(SERVICES, started, strict=True) if isinstance(each, OwnedProcess)}
        try:
            for each in started:
                if isinstance(each, BaseException):
                    raise each
            yield running
        finally:
            await stop(*running.values())

    @asynccontextmanager
    async def _textbook_services(
        self, dsn: str, urls: Mapping[str, str], channel: Ports
    ) -> AsyncIterator[dict[str, OwnedProcess]]:
        running: dict[str, OwnedProcess] = {}
        try:
            for name, module in textbook.SERVICES.items():
                argv = ["-m", module.__name__, "all", "--dsn", dsn, "--kafka", self._world.kafka.bootstrap,
                        "--port", urls[name].rpartition(":")[2], "--keys", str(self._world.textbook_keys),
                        "--channel", channel.public_url, "--public-url", urls["payment"]]  # fmt: skip
                running[name] = self._world.start(f"textbook-{name}", argv)
            await asyncio.gather(*(self._world.ready(running[name], f"{urls[name]}/health") for name in running))
            yield running
        finally:
            await stop(*running.values())


async def _register(site: Site, doors: Doors, endpoint_url: str) -> _Merchant:
    """A merchant with a key, known to every service, and an endpoint that wants to hear of paid orders."""
    operator = site.credentials.operator_token("bench", ["operator", "viewer"])
    registry = f"{site.addresses.services['settlement'].internal_url}/internal/v1/merchants"
    wish: dict[str, object] = {"name": "Bench", "currencies": ["CNY"], "fee_basis_points": 60, "mode": "test"}
    registered = await doors.post(registry, wish, bearer=operator)
    issued = await doors.post(f"{registry}/{registered['merchant_id']}/api-keys", {"scopes": list(seed._SCOPES)},
                              bearer=operator)  # fmt: skip
    api_key = str(issued["api_key"])
    await seed._wait_until_known(site, doors, api_key)
    notifier = f"{site.addresses.services['notifier'].public_url}/v1/webhook-endpoints"
    wanted: dict[str, object] = {"url": endpoint_url, "event_types": ["order.paid.v1"]}
    endpoint = await doors.post(notifier, wanted, bearer=api_key)
    return _Merchant(api_key=api_key, secret=endpoint["secret"])


def _settings(service: str) -> Mapping[str, str]:
    return _SETTINGS | (_PAYMENT_SETTINGS if service == "payment" else {})


async def _at_rest(undone: Any) -> dict[str, int]:  # noqa: ANN401 - an async function without arguments
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _REST_WITHIN_S
    while True:
        left: dict[str, int] = await undone()
        if not left or loop.time() > deadline:
            return left
        await asyncio.sleep(0.2)


async def _captured(channel: Ports) -> int:
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.get(f"{channel.internal_url}/books") as answer,
    ):
        captures = (await answer.json())["captures"]
    return int(captures.get("CNY", {"amount_minor": 0})["amount_minor"])


def _troubles(result: Mapping[str, Any]) -> list[str]:
    wrong = [f"{count} times {what}" for what, count in result["trouble"].items()]
    if result["doubled"]:
        wrong.append(f"{result['doubled']} orders told of under two webhook ids")
    if result["refused"]:
        wrong.append(f"{result['refused']} webhooks with a bad signature")
    if not result["measured"]:
        wrong.append("nothing was measured")
    return wrong


def _differences(result: Mapping[str, Any], found: Mapping[str, int]) -> list[str]:
    expected = result["payments"]
    wrong = [f"{count} {what} for {expected} payments" for what, count in found.items() if count != expected]
    if result["told"] != expected:
        wrong.append(f"{result['told']} orders told of for {expected} payments")
    return wrong


def _judged(sample: Sample, wrong: Sequence[str]) -> Sample:
    return dataclasses.replace(sample, wrong=wrong)


async def _row(dsn: str, query: str) -> dict[str, int]:
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(query)
    finally:
        await connection.close()
    if row is None:
        raise BenchFailed("a check returned nothing")
    return dict(row)
