"""A migrated database for each test, the payment service's public port on a real server, and the channel's simulator."""

import asyncio
import datetime as dt
import hashlib
import io
import json
import logging as stdlib_logging
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from defray_kernel import logging, migrate
from defray_kernel.clock import Clock, SystemClock
from defray_kernel.contracts.merchant_v1 import ApiKeyV1, MerchantState
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, OrderId, show, uuid7
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.problems import registry
from defray_kernel.server import Listener
from defray_kernel.testing.eventually import eventually
from defray_kernel.timers import run_once
from defray_payment import wiring
from defray_payment.channels.registry import Channels
from defray_payment.channels.wechat.channel import WechatChannel
from defray_payment.channels.wechat.keys import WechatKeys, load
from defray_payment.commands.query_attempts import QueryAttempts
from defray_payment.commands.query_refunds import QueryRefunds
from defray_payment.domain.payable import OrderTerms
from defray_payment.entrypoints.answers import PROBLEMS, Answers
from defray_payment.entrypoints.timers import timers
from defray_payment.entrypoints.tokens import PaymentTokens
from defray_sandbox.simulators.process import WechatSimulator
from defray_sandbox.simulators.wechat.keys import generate
from defray_sandbox.stack.provision import ProvisionedDatabase, drop_database, provision, stored_passwords

from .given import ACCOUNT, FILLED, PRICE, MovedClock

TIMEOUT_S = 1.0
SCOPES = ["payments:read", "payments:write", "refunds:read", "refunds:write"]


@pytest.fixture(scope="session")
def migrated(postgres_server: str, server_folder: Path) -> Iterator[ProvisionedDatabase]:
    """A database with the payment service's schema; one for all tests, because a copy costs most of a second."""
    name = f"payment_{uuid7().hex[-12:]}"

    async def make() -> ProvisionedDatabase:
        made = await provision(postgres_server, stored_passwords(server_folder / "passwords.json"), database=name)
        await migrate.apply(made.owner_dsn("payment"), directories=wiring.MIGRATIONS, runtime_role="defray_payment")
        return made

    yield asyncio.run(make())
    asyncio.run(drop_database(postgres_server, name))


@pytest_asyncio.fixture
async def database(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as the running service may use it, emptied by its owner."""
    await _empty(migrated)
    async with Database.open(migrated.dsn("payment")) as opened:
        yield opened


@pytest.fixture
def empty(migrated: ProvisionedDatabase) -> Callable[[], Awaitable[None]]:
    """Empties the schema once more, in the middle of a long test."""
    return partial(_empty, migrated)


async def _empty(migrated: ProvisionedDatabase) -> None:
    owner = await asyncpg.connect(migrated.owner_dsn("payment"))
    await owner.execute(";".join(f"DELETE FROM {table}" for table in FILLED))
    await owner.close()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the service logs, in the form of production."""
    root, stream = stdlib_logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logging.configure("payment", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def envelope() -> Envelope:
    return Envelope({"k1": bytes(32)}, "k1")


@pytest.fixture(scope="session")
def channel_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of both sides of the channel, made once."""
    folder = tmp_path_factory.mktemp("channel") / "keys"
    generate(folder)
    return folder


@pytest.fixture(scope="session")
def our_keys(channel_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> WechatKeys:
    """Our side's: both platform keys are live."""
    platform = tmp_path_factory.mktemp("platform")
    for suffix in ("", "_2"):
        serial = (channel_keys / f"platform_serial{suffix}.txt").read_text("ascii")
        shutil.copy(channel_keys / f"platform_public{suffix}.pem", platform / f"{serial}.pem")
    return load(
        merchant_private_file=channel_keys / "merchant_private.pem",
        merchant_serial=(channel_keys / "merchant_serial.txt").read_text("ascii"),
        platform_dir=platform,
        apiv3_key_file=channel_keys / "apiv3_key.txt",
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def channel_process(
    tmp_path_factory: pytest.TempPathFactory, channel_keys: Path
) -> AsyncIterator[WechatSimulator]:
    """The channel as a process of its own, one for all tests."""
    folder = tmp_path_factory.mktemp("simulator")
    shutil.copytree(channel_keys, folder / "keys")
    async with WechatSimulator(folder, ["--retry-scale", "0.001", "--refund-gap-s", "0"]) as running:
        yield running


@pytest_asyncio.fixture
async def simulator(channel_process: WechatSimulator) -> AsyncIterator[WechatSimulator]:
    """Its levers, in this test's own loop; everything that an earlier test did is forgotten."""
    ports = [urlsplit(url).port or 0 for url in (channel_process.base_url, channel_process.control_url)]
    levers = WechatSimulator(channel_process.folder, ports=(ports[0], ports[1]))
    await levers.control("/control/reset", {})
    yield levers
    await levers.__aexit__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A merchant and its API key."""

    merchant_id: MerchantId
    api_key: str

    def state(self, late_money: str = "return") -> MerchantState:
        digest = hashlib.sha256(self.api_key.encode()).hexdigest()
        return MerchantState(
            merchant_id=show("mer", self.merchant_id),
            name="Shop",
            status="ACTIVE",
            mode="test",
            currencies=["CNY"],
            api_keys=[ApiKeyV1(key_id="key_1", prefix="sk_test_", sha256=digest, scopes=SCOPES)],
            late_money=late_money,  # type: ignore[arg-type]
            changed_at=SystemClock().real(),
        )


def shop(name: str) -> Shop:
    return Shop(merchant_id=MerchantId(uuid7()), api_key=f"sk_test_{name}{uuid7().hex}")


class OrderService:
    """As much of the order service as signs payment tokens."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()

    def jwks(self) -> bytes:
        public = OKPAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": "o1"}]}).encode()

    def token(self, terms: OrderTerms, **claims: object) -> str:
        now_s = int(SystemClock().real().timestamp())
        body = {
            "iss": "defray-order",
            "aud": "defray-payment",
            "sub": show("ord", terms.order_id),
            "mid": show("mer", terms.merchant_id),
            "amt": terms.amount.minor,
            "cur": terms.amount.currency,
            "oxp": terms.expires_at.isoformat().replace("+00:00", "Z"),
            "iat": now_s,
            "exp": now_s + 3600,
            "cid": terms.correlation_id,
        }
        return jwt.encode(body | claims, self.key, algorithm="EdDSA", headers={"kid": "o1"})


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply; `body` is None when it is empty."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The running public port with its write edges; timers run when a test says so."""

    url: str
    http: aiohttp.ClientSession
    database: Database
    clock: MovedClock
    orders: OrderService
    edges: wiring.Edges
    channels: Channels
    querying: QueryAttempts
    refunding: QueryRefunds
    log: io.StringIO
    one: Shop
    other: Shop

    def order(self, shop_: Shop | None = None, **changes: object) -> OrderTerms:
        values: dict[str, Any] = {
            "order_id": OrderId(uuid7()),
            "merchant_id": (shop_ or self.one).merchant_id,
            "amount": PRICE,
            "expires_at": self.clock.now() + dt.timedelta(hours=2),
            "correlation_id": "cid-order",
        }
        return OrderTerms(**(values | changes))

    async def call(
        self,
        method: str,
        path: str,
        *,
        by: Shop | str,
        body: object = None,
        key: str | None = None,
    ) -> Answer:
        credential = by if isinstance(by, str) else by.api_key
        headers = {"Authorization": f"Bearer {credential}"} | ({"Idempotency-Key": key} if key else {})
        async with self.http.request(method, self.url + path, json=body, headers=headers) as reply:
            raw = await reply.read()
            return Answer(reply.status, json.loads(raw) if raw else None, reply.headers)

    async def pay(self, terms: OrderTerms, *, key: str | None = None, by: Shop | None = None, **body: object) -> Answer:
        """Start a payment with the order's token, or by a shop's key."""
        wish = {"channel": "wechat", "product": "native"} | body
        credential = by or self.orders.token(terms)
        return await self.call("POST", "/v1/payments", by=credential, body=wish, key=key or uuid7().hex)

    async def get(self, payment_id: str, by: Shop | str | None = None) -> Answer:
        return await self.call("GET", f"/v1/payments/{payment_id}", by=by or self.one)

    async def close(self, payment_id: str) -> Answer:
        return await self.call("POST", f"/v1/payments/{payment_id}/close", by=self.one)

    async def refund(
        self, payment_id: str, amount_minor: int, *, key: str | None = None, by: Shop | None = None, **body: object
    ) -> Answer:
        wish, path = {"amount_minor": amount_minor} | body, f"/v1/payments/{payment_id}/refunds"
        return await self.call("POST", path, by=by or self.one, body=wish, key=key or uuid7().hex)

    async def callback(self, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        async with self.http.post(f"{self.url}/v1/webhooks/wechat", data=body, headers=headers) as reply:
            return reply.status, await reply.read()

    async def query_due(self) -> int:
        """Let the timer of attempts look once; returns how many were due."""
        return await self._due(0)

    async def refund_due(self) -> int:
        """The same of refunds."""
        return await self._due(1)

    async def _due(self, which: int) -> int:
        timer = timers(self.querying, self.refunding, self.database, self.clock)[which]
        return await run_once(self.database, timer, self.clock)

    async def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        async with self.database.read() as conn:
            return [dict(row) for row in await conn.fetch(sql, *arguments)]

    async def events(self) -> list[tuple[str, int]]:
        """Type and sequence of everything put into the outbox, in its order."""
        found = await self.rows("SELECT event_type, aggregate_seq FROM outbox ORDER BY id")
        return [(row["event_type"], row["aggregate_seq"]) for row in found]

    async def cases(self) -> list[str]:
        return [row["reason"] for row in await self.rows("SELECT reason FROM exception_case ORDER BY case_id")]


def wechat(
    simulator: WechatSimulator, session: aiohttp.ClientSession, keys: WechatKeys, clock: Clock, notify_url: str
) -> WechatChannel:
    return WechatChannel(
        session=session,
        base_url=simulator.base_url,
        account=ACCOUNT,
        keys=keys,
        notify_url=notify_url,
        clock=clock,
        timeout_s=TIMEOUT_S,
    )


@pytest_asyncio.fixture
async def service(
    database: Database, simulator: WechatSimulator, our_keys: WechatKeys, envelope: Envelope, log: io.StringIO
) -> AsyncIterator[Service]:
    """The public port as in the http role, at the simulator."""
    one, other = shop("one"), shop("other")

    async def directory_of() -> list[MerchantState]:
        return [one.state(), other.state()]

    clock, orders, problems = MovedClock(), OrderService(), registry(*PROBLEMS)
    answers = Answers(envelope, problems, clock)
    edges = wiring.write_edges(database, clock, answers, after_commit=None)
    directory = MerchantDirectory(directory_of, clock)
    port = _free_port()
    async with wiring.channel_session() as session, aiohttp.ClientSession() as http:
        channel = wechat(simulator, session, our_keys, clock, f"http://127.0.0.1:{port}/v1/webhooks/wechat")
        channels = Channels([channel])
        doors = wiring.doors_of(
            database,
            channels,
            edges,
            envelope,
            answers,
            clock,
            TIMEOUT_S,
            return_base_url=f"http://127.0.0.1:{port}",
        )
        edge = wiring.public(doors, problems, directory, PaymentTokens(orders.jwks(), clock))
        async with _running(Listener(edge.app(), "127.0.0.1", port), edges, directory):
            yield Service(
                url=f"http://127.0.0.1:{port}",
                http=http,
                database=database,
                clock=clock,
                orders=orders,
                edges=edges,
                channels=channels,
                querying=doors.querying,
                refunding=doors.refunding,
                log=log,
                one=one,
                other=other,
            )


@asynccontextmanager
async def _running(listener: Listener, edges: wiring.Edges, directory: MerchantDirectory) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.run(stopping))
        group.create_task(directory.run(stopping))
        for commit in edges.all:
            group.create_task(commit.run())
        await eventually(lambda: directory.ready, what="the directory is read")
        yield
        stopping.set()
        for commit in edges.all:
            await commit.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def number(answer: Answer) -> str:
    return str(answer.body["attempt_no"])


async def pay_at_channel(simulator: WechatSimulator, answer: Answer, **wish: object) -> list[int]:
    told = await simulator.control("/control/pay", {"out_trade_no": number(answer), "wait": True} | wish)
    return [each["status"] for each in told["callbacks"]]


async def status_of(service: Service, payment_id: str) -> str:
    return str((await service.get(payment_id)).body["status"])
