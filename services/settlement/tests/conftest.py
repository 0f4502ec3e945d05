"""A migrated database for each test, and both ports of the settlement service on real servers."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from defray_kernel import migrate
from defray_kernel.clock import ManualClock, SystemClock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, uuid7
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import AUDIENCE, OperatorTokens
from defray_kernel.server import Listener
from defray_kernel.testing.eventually import eventually
from defray_sandbox.pytest_plugin import MakeDatabase
from defray_sandbox.stack.provision import ProvisionedDatabase, drop_database, provision, stored_passwords
from defray_settlement import wiring
from defray_settlement.commands import register_merchant
from defray_settlement.commands.register_merchant import Registered, RegisterMerchant
from defray_settlement.domain.merchant import Merchant
from defray_settlement.entrypoints.http import LedgerApi
from defray_settlement.entrypoints.operators import RegistryApi
from defray_settlement.store.merchants import Registration

START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
ISSUER = "https://operators.test"


@pytest.fixture(scope="session")
def template(postgres_server: str, server_folder: Path) -> Iterator[ProvisionedDatabase]:
    """A database with the settlement service's schema, to be copied (0.15 s) instead of migrated for each test."""
    name = f"template_settlement_{uuid7().hex}"

    async def make() -> ProvisionedDatabase:
        made = await provision(postgres_server, stored_passwords(server_folder / "passwords.json"), database=name)
        owner = made.owner_dsn("settlement")
        await migrate.apply(owner, directories=wiring.MIGRATIONS, runtime_role="defray_settlement")
        assert await migrate.apply(owner, directories=wiring.MIGRATIONS, runtime_role="defray_settlement") == []
        return made

    yield asyncio.run(make())
    asyncio.run(drop_database(postgres_server, name))


@pytest_asyncio.fixture
async def migrated(make_database: MakeDatabase, template: ProvisionedDatabase) -> ProvisionedDatabase:
    """A database of this test's own."""
    return await make_database(template)


@pytest_asyncio.fixture
async def database(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as the running service may use it."""
    async with Database.open(migrated.dsn("settlement")) as opened:
        yield opened


@pytest_asyncio.fixture
def clock() -> ManualClock:
    """Stands still until moved."""
    return ManualClock(START)


async def registered(database: Database, clock: ManualClock, name: str, basis_points: int = 60) -> Merchant:
    """A merchant of the registry."""
    wish = Registration(
        merchant_id=MerchantId(uuid7()),
        name=name,
        mode="test",
        currencies=("CNY", "JPY"),
        late_money="return",
        basis_points=basis_points,
    )
    command = RegisterMerchant(registration=wish, actor="test", cause=Cause(correlation_id="test"))
    async with database.transaction() as tx:
        [outcome] = await register_merchant.handle([command], tx, clock)
    assert isinstance(outcome, Registered)
    return outcome.merchant


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Both ports; operators' tokens by role."""

    public: str
    internal: str
    http: aiohttp.ClientSession
    database: Database
    tokens: dict[str, str]

    async def operate(self, method: str, path: str, *, role: str = "operator", body: object = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.tokens[role]}"}
        async with self.http.request(method, self.internal + path, json=body, headers=headers) as reply:
            return reply.status, await reply.json(content_type=None)

    async def ask(self, path: str, *, key: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.http.get(self.public + path, headers=headers) as reply:
            return reply.status, await reply.json(content_type=None)

    async def merchant_with_key(self, name: str, scopes: list[str]) -> tuple[dict[str, Any], str]:
        body = {"name": name, "currencies": ["CNY"], "fee_basis_points": 60, "mode": "test"}
        status, merchant = await self.operate("POST", "/internal/v1/merchants", body=body)
        assert status == 201
        path = f"/internal/v1/merchants/{merchant['merchant_id']}/api-keys"
        status, key = await self.operate("POST", path, body={"scopes": scopes})
        assert status == 201

        async def known() -> bool:
            return (await self.ask("/v1/balance", key=key["api_key"]))[0] != 401

        # The directory looks again at most once a second.
        await eventually(known, within_s=3, what="the key")
        return merchant, key["api_key"]


@pytest_asyncio.fixture
async def service(database: Database) -> AsyncIterator[Service]:
    """Both ports with their group commits, as in the http role."""
    clock = SystemClock()
    private = Ed25519PrivateKey.generate()
    public_key = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    key_set = json.dumps({"keys": [{**public_key, "kid": "op"}]}).encode()
    registering = wiring.registering_of(database, clock, lambda: None)
    changing = wiring.changing_of(database, clock, lambda: None)
    directory = MerchantDirectory(wiring.registered(database), clock)
    api = RegistryApi(database, registering, changing, clock)
    stopping = asyncio.Event()
    public = Listener(wiring.public(LedgerApi(database), directory).app(), "127.0.0.1", 0)
    internal = Listener(wiring.internal(api, OperatorTokens(key_set, issuer=ISSUER)).app(), "127.0.0.1", 0)
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as http:
        for part in (public.run(stopping), internal.run(stopping), directory.run(stopping)):
            tasks.create_task(part)
        tasks.create_task(registering.run())
        tasks.create_task(changing.run())
        await eventually(lambda: directory.ready, every_s=0.01, what="the directory")
        yield Service(
            public=f"http://127.0.0.1:{public.port}",
            internal=f"http://127.0.0.1:{internal.port}",
            http=http,
            database=database,
            tokens={role: _token(private, clock, role) for role in ("viewer", "operator", "finance")},
        )
        stopping.set()
        await registering.stop()
        await changing.stop()


def _token(key: Ed25519PrivateKey, clock: SystemClock, role: str) -> str:
    now = int(clock.real().timestamp())
    claims = {"sub": f"{role}@test", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600, "roles": [role]}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "op"})
