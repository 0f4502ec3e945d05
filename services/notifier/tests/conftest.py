"""A migrated database for each test, a receiver of webhooks, and the notifier's public port on a real server."""

import asyncio
import base64
import datetime as dt
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from defray_kernel import migrate
from defray_kernel.clock import Clock, ManualClock, SystemClock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.merchant_v1 import ApiKeyV1, MerchantState
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.ids import EndpointId, MerchantId, show, uuid7
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.server import Listener
from defray_kernel.testing.eventually import eventually
from defray_kernel.timers import run_timers
from defray_notifier import wiring
from defray_notifier.commands import add_endpoint
from defray_notifier.commands.add_endpoint import AddEndpoint
from defray_notifier.delivery.address_guard import Guard
from defray_notifier.delivery.client import WebhookClient
from defray_notifier.delivery.dispatcher import Dispatcher
from defray_notifier.delivery.signing import Secrets, new_secret
from defray_notifier.domain.endpoint import Added, Endpoint, Wish
from defray_notifier.entrypoints.http import WebhooksApi
from defray_notifier.entrypoints.timers import deliver
from defray_sandbox.pytest_plugin import MakeDatabase
from defray_sandbox.stack.provision import ProvisionedDatabase, drop_database, provision, stored_passwords

START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


@pytest.fixture(scope="session")
def template(postgres_server: str, server_folder: Path) -> Iterator[ProvisionedDatabase]:
    """A database with the notifier's schema, to be copied instead of migrated for each test."""
    name = f"template_notifier_{uuid7().hex}"

    async def make() -> ProvisionedDatabase:
        made = await provision(postgres_server, stored_passwords(server_folder / "passwords.json"), database=name)
        owner = made.owner_dsn("notifier")
        await migrate.apply(owner, directories=wiring.MIGRATIONS, runtime_role="defray_notifier")
        assert await migrate.apply(owner, directories=wiring.MIGRATIONS, runtime_role="defray_notifier") == []
        return made

    yield asyncio.run(make())
    asyncio.run(drop_database(postgres_server, name))


@pytest_asyncio.fixture
async def database(make_database: MakeDatabase, template: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as the running service may use it."""
    made = await make_database(template)
    async with Database.open(made.dsn("notifier")) as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    """Stands still until moved."""
    return ManualClock(START)


@pytest.fixture(scope="session")
def secrets() -> Secrets:
    """Seals with a key of this session."""
    return Secrets(Envelope({"k1": os.urandom(32)}, "k1"))


@dataclass(slots=True, kw_only=True)
class Received:
    """One request as a receiver got it."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Receiver:
    """A merchant's server: `answers` by path are used up first; paths in `hang` never answer."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    hang: set[str] = field(default_factory=set)

    def of(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path == path]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.received.append(Received(path=request.path, headers=dict(request.headers), body=body))
        if request.path in self.hang:
            await asyncio.sleep(3600)
        waiting = self.answers.get(request.path)
        status, headers = waiting.pop(0) if waiting else (204, {})
        return web.Response(status=status, headers=headers, body=b"" if status == 204 else b"nope\x00")


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """An endpoint with its secret as its merchant knows it."""

    endpoint: Endpoint
    secret: str


async def subscribed(
    database: Database,
    secrets: Secrets,
    url: str,
    *,
    merchant_id: MerchantId | None = None,
    types: tuple[str, ...] = ("*",),
) -> Subscriber:
    """An enabled endpoint."""
    endpoint_id, secret = EndpointId(uuid7()), new_secret()
    merchant = merchant_id or MerchantId(uuid7())
    wish = Wish(endpoint_id=endpoint_id, merchant_id=merchant, url=url, event_types=types)
    command = AddEndpoint(
        wish=wish, sealed_secret=secrets.seal(endpoint_id, secret), cause=Cause(correlation_id="test")
    )
    async with database.transaction() as tx:
        [decision] = await add_endpoint.handle([command], tx, ManualClock(START))
    assert isinstance(decision, Added)
    return Subscriber(endpoint=decision.endpoint, secret=secret)


@asynccontextmanager
async def delivering(
    database: Database,
    secrets: Secrets,
    clock: Clock,
    *,
    total_s: float = 5.0,
    in_flight_max: int = 64,
    endpoint_in_flight_max: int = 8,
) -> AsyncIterator[asyncio.Event]:
    """The timers role: what is due is sent and recorded. Yields the event that wakes it."""
    wake, stopping = asyncio.Event(), asyncio.Event()
    recording = wiring.recording_of(database, clock, lambda: None)
    async with WebhookClient.open(Guard(allow_private=True), total_s=total_s) as client:
        dispatcher = Dispatcher(
            client,
            secrets,
            recording.submit,
            clock,
            in_flight_max=in_flight_max,
            endpoint_in_flight_max=endpoint_in_flight_max,
            wake=wake,
        )
        async with asyncio.TaskGroup() as tasks:
            commits = tasks.create_task(recording.run())
            work = [
                tasks.create_task(dispatcher.run(stopping)),
                tasks.create_task(run_timers(database, [deliver(dispatcher, clock, wake)], clock, stopping)),
            ]
            yield wake
            stopping.set()
            wake.set()
            await asyncio.wait(work)
            await recording.stop()
            await commits


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A merchant and its API key."""

    merchant_id: MerchantId
    api_key: str

    def state(self, scopes: list[str]) -> MerchantState:
        digest = hashlib.sha256(self.api_key.encode()).hexdigest()
        return MerchantState(
            merchant_id=show("mer", self.merchant_id),
            name="Shop",
            status="ACTIVE",
            mode="test",
            currencies=["CNY"],
            api_keys=[ApiKeyV1(key_id="key_1", prefix="sk_test_", sha256=digest, scopes=scopes)],
            changed_at=START,
        )


def shop(name: str) -> Shop:
    return Shop(merchant_id=MerchantId(uuid7()), api_key=f"sk_test_{name}{uuid7().hex}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The running public port and three shops; `reader` may not write."""

    url: str
    http: aiohttp.ClientSession
    database: Database
    secrets: Secrets
    one: Shop
    other: Shop
    reader: Shop

    async def call(self, method: str, path: str, *, by: Shop | None, body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {by.api_key}"} if by else {}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as reply:
            return reply.status, await reply.json(content_type=None)


@asynccontextmanager
async def serving(database: Database, secrets: Secrets, guard: Guard) -> AsyncIterator[Service]:
    """The public port with its group commits, as in the http role."""
    one, other, reader = shop("one"), shop("other"), shop("reader")
    both = ["webhooks:read", "webhooks:write"]

    async def load() -> list[MerchantState]:
        return [one.state(both), other.state(both), reader.state(["webhooks:read"])]

    clock = SystemClock()
    adding, disabling = wiring.adding_of(database, clock), wiring.disabling_of(database, clock)
    directory = MerchantDirectory(load, clock)
    api = WebhooksApi(database, adding, disabling, guard, secrets)
    listener = Listener(wiring.public(api, directory).app(), "127.0.0.1", 0)
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as http:
        tasks.create_task(listener.run(stopping))
        tasks.create_task(directory.run(stopping))
        tasks.create_task(adding.run())
        tasks.create_task(disabling.run())
        await eventually(lambda: directory.ready, every_s=0.01, what="the directory")
        yield Service(
            url=f"http://127.0.0.1:{listener.port}",
            http=http,
            database=database,
            secrets=secrets,
            one=one,
            other=other,
            reader=reader,
        )
        stopping.set()
        await adding.stop()
        await disabling.stop()


@pytest_asyncio.fixture
async def service(database: Database, secrets: Secrets) -> AsyncIterator[Service]:
    """The public port of a sandbox, which admits addresses on loopback."""
    async with serving(database, secrets, Guard(allow_private=True)) as running:
        yield running


def raw_key(secret: str) -> bytes:
    """The HMAC key in a `whsec_` secret."""
    return base64.b64decode(secret.removeprefix("whsec_"))
