"""A whole process: it starts in any order, says what is missing, refuses what is not fit, and stops without losing an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_kernel import audit, supervise
from defray_kernel.db import ReadConn
from defray_kernel.supervise import Part, Stage
from shared.tests.edge import toy
from shared.tests.edge.conftest import ISSUER
from shared.tests.edge.test_bad_input import note
from shared.tests.edge.test_callers import token

if TYPE_CHECKING:
    from defray_sandbox.stack.postgres import PostgresServer
    from defray_sandbox.stack.provision import ProvisionedDatabase

ROOT = Path(__file__).parents[3]
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {toy.KEYS[0]}"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@dataclass(kw_only=True)
class Toy:
    """One process of the toy service."""

    environment: dict[str, str]
    public: int = field(default_factory=free_port)
    internal: int = field(default_factory=free_port)

    @asynccontextmanager
    async def run(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = self.environment | {
            "DEFRAY_PAYMENT_PUBLIC_PORT": str(self.public),
            "DEFRAY_PAYMENT_INTERNAL_PORT": str(self.internal),
        }
        python_path = os.pathsep.join((str(ROOT), str(ROOT / "shared/src")))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "shared.tests.edge.toy",
            *arguments,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": python_path} | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**24,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def output(self, *arguments: str) -> tuple[int, str]:
        async with self.run(*arguments) as process:
            async with asyncio.timeout(20):
                out, _ = await process.communicate()
            return process.returncode or 0, out.decode()

    async def ready(self, client: aiohttp.ClientSession) -> dict[str, str]:
        try:
            async with client.get(f"http://127.0.0.1:{self.internal}/readyz") as reply:
                missing: dict[str, str] = (await reply.json())["missing"]
                assert (reply.status == 200) == (not missing)
                return missing
        except aiohttp.ClientError as error:
            return {"process": type(error).__name__}

    async def until_ready(self, client: aiohttp.ClientSession) -> None:
        give_up_at = time.monotonic() + 20
        while missing := await self.ready(client):
            assert time.monotonic() < give_up_at, missing
            await asyncio.sleep(0.05)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


MakeToy = Callable[[str], Toy]


@pytest.fixture
def make_toy(tmp_path: Path, key_set: bytes) -> MakeToy:
    (tmp_path / "jwks.json").write_bytes(key_set)

    def make(dsn: str) -> Toy:
        values = {
            "PROFILE": "sandbox",
            "DATABASE_DSN": dsn,
            "KAFKA_BOOTSTRAP": "127.0.0.1:1",
            "KAFKA_SECURITY": "PLAINTEXT",
            "TOPICS_FILE": str(ROOT / "deploy/topics.yaml"),
            "BIND_HOST": "127.0.0.1",
            "ENCRYPTION_KEYS_FILE": str(tmp_path / "none"),
            "OPERATOR_JWKS_FILE": str(tmp_path / "jwks.json"),
            "OPERATOR_ISSUER": ISSUER,
        }
        return Toy(environment={f"DEFRAY_PAYMENT_{name}": value for name, value in values.items()})

    return make


async def test_sigterm_under_load_loses_no_answered_request(
    migrated: ProvisionedDatabase, make_toy: MakeToy, client: aiohttp.ClientSession
) -> None:
    service = make_toy(migrated.dsn("payment"))
    answered: set[str] = set()
    statuses: dict[int, int] = {}
    stop = asyncio.Event()

    async def load(worker: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            headers = HEADERS | {"Idempotency-Key": f"{worker}-{number}"}
            try:
                async with client.post(
                    f"http://127.0.0.1:{service.public}/v1/notes", data=note(), headers=headers
                ) as reply:
                    body = await reply.read()
                    statuses[reply.status] = statuses.get(reply.status, 0) + 1
                    if reply.status == 201:
                        answered.add(json.loads(body)["note_id"])
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)

    async with service.run("all") as process:
        await service.until_ready(client)
        slow = asyncio.create_task(_status(client, f"http://127.0.0.1:{service.public}/v1/sleep?s=2"))
        async with asyncio.TaskGroup() as group:
            for worker in range(32):
                group.create_task(load(worker))
            await asyncio.sleep(2)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(15):
                out, _ = await process.communicate()
            took_s = time.monotonic() - began
            stop.set()
        assert await slow == 200, "a request that was being answered was cut"
    assert process.returncode == 0, out[-2000:]
    assert took_s < 12
    assert set(statuses) <= {201, 503}, statuses
    assert len(answered) > 100
    admin = await asyncpg.connect(migrated.admin_dsn)
    stored = {f"ord_{row['note_id'].hex}" for row in await admin.fetch("SELECT note_id FROM payments.note")}
    await admin.close()
    assert answered <= stored
    for line in out.decode().splitlines():
        assert json.loads(line)["service"] == "payment"
    assert b"part_died" not in out


async def _status(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as reply:
        await reply.read()
        return reply.status


async def test_it_starts_before_postgres_and_says_so(
    private_postgres: PostgresServer, make_toy: MakeToy, client: aiohttp.ClientSession
) -> None:
    private_postgres.start()
    owner = await asyncpg.connect(private_postgres.dsn())
    await owner.execute("CREATE DATABASE toy")
    await owner.close()
    dsn = urlsplit(private_postgres.dsn())._replace(path="/toy").geturl()
    private_postgres.stop()
    service = make_toy(dsn)
    async with service.run("http") as process:
        give_up_at = time.monotonic() + 10
        while "starting" not in (missing := await service.ready(client)).get("wiring", ""):
            assert time.monotonic() < give_up_at, missing
            await asyncio.sleep(0.05)
        assert await _status(client, f"http://127.0.0.1:{service.internal}/livez") == 200
        private_postgres.start()
        async with asyncio.timeout(15):
            out, _ = await process.communicate()
    assert process.returncode == 78, out[-3000:]
    assert b"schema is behind" in out
    migrating = make_toy(dsn)
    migrating.environment["DEFRAY_PAYMENT_DATABASE_OWNER_DSN"] = dsn
    for _ in range(2):
        code, text = await migrating.output("migrate")
        assert code == 0, text
    async with service.run("http") as process:
        await service.until_ready(client)
        private_postgres.kill()
        give_up_at = time.monotonic() + 10
        while "postgres" not in (missing := await service.ready(client)):
            assert time.monotonic() < give_up_at, missing
        assert await _status(client, f"http://127.0.0.1:{service.public}/v1/sleep?s=0") == 200
        headers = HEADERS | {"Idempotency-Key": "k"}
        async with client.post(f"http://127.0.0.1:{service.public}/v1/notes", data=note(), headers=headers) as reply:
            assert (reply.status, (await reply.json())["code"]) == (503, "unavailable")
        private_postgres.start()
        await service.until_ready(client)
        async with client.post(f"http://127.0.0.1:{service.public}/v1/notes", data=note(), headers=headers) as reply:
            assert reply.status == 201
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            await process.communicate()
        assert process.returncode == 0


async def test_a_forgetful_postgres_is_refused(private_postgres: PostgresServer, make_toy: MakeToy) -> None:
    private_postgres.start()
    admin = await asyncpg.connect(private_postgres.dsn())
    await admin.execute("ALTER SYSTEM SET synchronous_commit = off")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    code, out = await make_toy(private_postgres.dsn()).output("http")
    assert code == 78
    assert "synchronous_commit" in out


async def test_wrong_settings_are_told_all_at_once_and_without_values(make_toy: MakeToy) -> None:
    service = make_toy("postgresql://u:canary-password@127.0.0.1:1/x")
    service.environment |= {"DEFRAY_PAYMENT_COLOUR": "red-canary", "DEFRAY_PAYMENT_DATABASE_POOL_MAX": "many-canary"}
    del service.environment["DEFRAY_PAYMENT_KAFKA_BOOTSTRAP"]
    code, out = await service.output("http")
    assert code == 78
    for name in ("COLOUR", "DATABASE_POOL_MAX", "KAFKA_BOOTSTRAP"):
        assert name in out
    assert "canary" not in out
    assert len(out.splitlines()) == 1
    production = make_toy("postgresql://u:canary-password@127.0.0.1:1/x")
    production.environment |= {
        "DEFRAY_PAYMENT_PROFILE": "production",
        "DEFRAY_PAYMENT_CRASH_AT": "x",
        "DEFRAY_PAYMENT_SANDBOX_CLOCK_FILE": "/x",
    }
    code, out = await production.output("http")
    assert code == 78
    for name in ("CRASH_AT", "SANDBOX_CLOCK_FILE", "KAFKA_SECURITY", "DATABASE_DSN"):
        assert name in out
    assert (await service.output("fly"))[0] == 64


async def test_a_taken_port_is_said_in_one_line(make_toy: MakeToy) -> None:
    service = make_toy("postgresql://u@127.0.0.1:1/x")
    with socket.create_server(("127.0.0.1", service.internal)):
        code, out = await service.output("http")
    assert code == 78
    assert out.splitlines() == [f"port {service.internal} cannot be listened on: Address already in use"]


async def test_operators_see_and_free_parked_keys_and_every_act_is_audited(
    migrated: ProvisionedDatabase, make_toy: MakeToy, client: aiohttp.ClientSession, operator_key: Ed25519PrivateKey
) -> None:
    owner = await asyncpg.connect(migrated.owner_dsn("payment"))
    await owner.execute(
        "INSERT INTO parked_key (consumer, part_key, error_class, error, waiting, next_attempt_at)"
        " VALUES ('orders', 'ord_1', 'Poison', 'x', false, now() + interval '1 h'), ('orders', '\\xff00', 'Poison', 'x', false, now() + interval '1 h')"
    )
    service = make_toy(migrated.dsn("payment"))
    code, out = await service.output("parked", "list", "--consumer", "orders")
    assert code == 0
    assert {json.loads(line)["part_key"] for line in out.splitlines()} == {"ord_1", "hex:ff00"}
    assert (await service.output("parked", "retry", "orders", "ord_1", "--actor", "cli:bob"))[0] == 0
    assert (await service.output("parked", "retry", "orders", "ord_9", "--actor", "cli:bob"))[0] == 1
    async with service.run("http"):
        await service.until_ready(client)
        base = f"http://127.0.0.1:{service.internal}/internal/v1"

        async def act(path: str, body: dict[str, str] | None, role: str) -> tuple[int, dict[str, object]]:
            headers = {"Authorization": f"Bearer {token(operator_key, roles=[role])}"}
            method = "GET" if body is None else "POST"
            async with client.request(method, f"{base}/{path}", json=body, headers=headers) as reply:
                return reply.status, await reply.json()

        status, listed = await act("parked", None, "viewer")
        assert status == 200
        assert len(listed["parked"]) == 2  # type: ignore[arg-type]
        wish = {"consumer": "orders", "key": "hex:ff00", "reason": "not ours"}
        assert (await act("parked/skip", wish, "viewer"))[0] == 403
        assert (await act("parked/skip", wish, "operator"))[0] == 200
        assert (await act("parked/skip", wish, "operator"))[0] == 404
        assert (await act("audit/verdict", None, "viewer"))[1] == {"rows": 2, "broken_at": None, "reason": ""}
    rows = await owner.fetch("SELECT actor, action FROM audit_log ORDER BY seq")
    assert [tuple(row) for row in rows] == [("cli:bob", "parked.retry"), ("alice", "parked.skip")]
    assert (await audit.verify(ReadConn(owner))).broken_at is None
    await owner.close()


async def _until(stopping: asyncio.Event) -> None:
    await stopping.wait()


async def test_parts_stop_in_order() -> None:
    order: list[str] = []
    stop = asyncio.Event()

    def part(name: str, stage: Stage, linger_s: float) -> Part:
        async def run(stopping: asyncio.Event) -> None:
            await stopping.wait()
            await asyncio.sleep(linger_s)
            order.append(name)

        return Part(name, stage, run)

    parts = [
        part("relay", Stage.RELAY, 0),
        part("commit", Stage.COMMIT, 0.1),
        part("work", Stage.WORK, 0.2),
        part("http", Stage.HTTP, 0.3),
    ]
    asyncio.get_running_loop().call_later(0.05, stop.set)
    assert await supervise.run(parts, stop) == 0
    assert order == ["http", "work", "commit", "relay"]


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("bug"), 70), (None, 70), (ConnectionResetError(), 75)])
async def test_a_part_that_dies_takes_the_process_down(error: Exception | None, code: int) -> None:
    async def die(_stopping: asyncio.Event) -> None:
        await asyncio.sleep(0.01)
        if error is not None:
            raise error

    parts = [Part("steady", Stage.HTTP, _until), Part("dying", Stage.WORK, die)]
    assert await supervise.run(parts, asyncio.Event()) == code


async def test_a_part_that_does_not_stop_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stubborn(_stopping: asyncio.Event) -> None:
        await asyncio.sleep(60)

    monkeypatch.setitem(supervise._BUDGET_S, Stage.WORK, 0.1)
    stop = asyncio.Event()
    stop.set()
    assert await supervise.run([Part("stubborn", Stage.WORK, stubborn)], stop) == 0
