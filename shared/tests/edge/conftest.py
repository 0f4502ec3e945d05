"""A migrated database and the toy service listening on a real port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_kernel import migrate
from defray_kernel.db import Database
from defray_kernel.http import Limits
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import OperatorTokens
from defray_kernel.server import Listener
from defray_kernel.testing.eventually import eventually
from shared.tests.edge import toy

if TYPE_CHECKING:
    from defray_sandbox.stack.provision import ProvisionedDatabase

ISSUER = "https://operators.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The toy, answering."""

    port: int
    client: aiohttp.ClientSession
    database: Database
    directory: MerchantDirectory

    async def post(
        self, body: bytes, *, key: str | None = "k1", api_key: str = toy.KEYS[0], **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        given = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["Idempotency-Key"] = key
        async with self.client.post("/v1/notes", data=body, headers=given) as reply:
            return reply.status, await reply.read(), {name.lower(): value for name, value in reply.headers.items()}

    async def get(self, path: str, credential: str | None = None) -> tuple[int, bytes, dict[str, str]]:
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        async with self.client.get(path, headers=headers) as reply:
            return reply.status, await reply.read(), {name.lower(): value for name, value in reply.headers.items()}

    async def raw(self, data: bytes, *, within_s: float = 15) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(within_s):
                writer.write(data)
                return await reader.read()
        finally:
            writer.close()


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def migrated(fresh_database: ProvisionedDatabase) -> ProvisionedDatabase:
    await migrate.apply(fresh_database.owner_dsn("payment"), directories=toy.MIGRATIONS, runtime_role="defray_payment")
    return fresh_database


@pytest.fixture
async def database(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    async with Database.open(migrated.dsn("payment")) as opened:
        yield opened


@pytest.fixture(scope="session")
def operator_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def key_set(operator_key: Ed25519PrivateKey) -> bytes:
    document = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(operator_key.public_key())) | {"kid": "op1"}
    return json.dumps({"keys": [document]}).encode()


@asynccontextmanager
async def serving(
    database: Database,
    *,
    limits: Limits | None = None,
    directory: MerchantDirectory | None = None,
    operators: OperatorTokens | None = None,
    internal: bool = False,
) -> AsyncIterator[Running]:
    wiring = toy.build(database, limits=limits, directory=directory, operators=operators)
    edge = wiring.internal if internal else wiring.public
    listener = Listener(edge.app(), "127.0.0.1", 0)
    stop, stop_serving = asyncio.Event(), asyncio.Event()
    assert wiring.directory is not None
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        group.create_task(listener.run(stop_serving))
        group.create_task(wiring.group_commits[0].run())
        group.create_task(wiring.directory.run(stop))
        base = f"http://127.0.0.1:{listener.port}"
        client = await stack.enter_async_context(aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=0)))
        if directory is None:
            directory_read = wiring.directory
            await eventually(lambda: directory_read.ready, every_s=0.01, what="the directory to be read")
        yield Running(port=listener.port, client=client, database=database, directory=wiring.directory)
        await client.close()
        stop_serving.set()
        stop.set()
        await wiring.group_commits[0].stop()


@pytest.fixture
async def toy_service(database: Database) -> AsyncIterator[Running]:
    async with serving(database) as running:
        yield running
