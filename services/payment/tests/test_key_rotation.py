"""The data key is changed while the service serves: killed and resumed, nothing fails, nothing stays under the old key."""

import asyncio
import base64
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from defray_kernel.clock import SystemClock
from defray_kernel.crypto import Envelope, key_id_of
from defray_kernel.db import Database
from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from defray_payment.commands import rotate_keys
from defray_payment.commands.rotate_keys import RotateKeys
from defray_payment.domain.seals import account_context, action_context, callback_context, payer_context
from defray_payment.store import sealed
from defray_sandbox.simulators.process import WechatSimulator
from defray_sandbox.stack.provision import ProvisionedDatabase
from tests.architecture.sources import ROOT

from .conftest import Service, pay_at_channel
from .given import NOW, terms
from .world import World

KEYS = {"k1": bytes(range(32)), "k2": bytes(range(1, 33))}
OLD, NEW, BOTH = Envelope({"k1": KEYS["k1"]}, "k1"), Envelope({"k2": KEYS["k2"]}, "k2"), Envelope(KEYS, "k2")
CANARY = "oCANARY7f3a9d1e"
CALLBACKS = 1_500
RESTED = 200
_SEALED = (
    ("callback", "raw_sealed"),
    ("attempt", "action_sealed"),
    ("attempt", "payer_sealed"),
    ("channel_account", "secrets_sealed"),
)


@pytest.fixture
def envelope() -> Envelope:
    """Of the serving process: it opens with both keys and seals with the new one."""
    return BOTH


@pytest_asyncio.fixture
async def owner(migrated: ProvisionedDatabase, database: Database) -> AsyncIterator[Database]:
    """The schema as its owner has it, after it was emptied."""
    del database  # wanted for its emptying
    async with Database.open(migrated.owner_dsn("payment")) as opened:
        yield opened


async def plant(database: Database, owner: Database) -> None:
    """A shop's history under the old key: callbacks, attempts with what their payers do next, an account."""
    world = World(database, OLD)
    numbers = [(await world.begun(terms())).attempt.attempt_no for _ in range(RESTED)]
    async with owner.transaction() as tx:
        ids = [f"EV-{number}" for number in range(CALLBACKS)]
        raw = [OLD.seal(f"{CANARY} {each}".encode(), callback_context("wechat", each)) for each in ids]
        await tx.execute(
            "INSERT INTO callback (channel, callback_id, digest, raw_sealed, received_at) "
            "SELECT 'wechat', i, sha256('x'), s, $3 FROM unnest($1::text[], $2::bytea[]) AS n (i, s)",
            ids,
            raw,
            NOW,
        )
        await tx.execute(
            "UPDATE attempt a SET action_sealed = s, payer_sealed = p, action_expires_at = $4 "
            "FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (no, s, p) WHERE attempt_no = no",
            numbers,
            [OLD.seal(CANARY.encode(), action_context(each)) for each in numbers],
            [OLD.seal(CANARY.encode(), payer_context(each)) for each in numbers],
            NOW,
        )
        account_id = uuid7()
        await tx.execute(
            "INSERT INTO channel_account (account_id, channel, merchant_ref, app_ref, base_url, status, secrets_sealed, "
            "version, created_at, updated_at) VALUES ($1, 'wechat', '1', '2', 'https://x', 'RETIRED', $2, 1, $3, $3)",
            account_id,
            OLD.seal(CANARY.encode(), account_context(account_id)),
            NOW,
        )


async def key_ids(owner: Database) -> dict[str, int]:
    """How many values each key seals, over all sealed columns."""
    found: dict[str, int] = {}
    async with owner.read() as conn:
        for table, column in _SEALED:
            for row in await conn.fetch(f"SELECT {column} AS sealed FROM {table} WHERE {column} IS NOT NULL"):
                found[key_id_of(row["sealed"])] = found.get(key_id_of(row["sealed"]), 0) + 1
    return found


def environment(migrated: ProvisionedDatabase, folder: Path, crash_at: str) -> dict[str, str]:
    """As the operator's shell has it; what the verb does not use is named all the same."""
    ring = {"current": "k2", "keys": {name: base64.b64encode(key).decode() for name, key in KEYS.items()}}
    (folder / "keys.json").write_text(json.dumps(ring))
    values = {
        "profile": "sandbox",
        "database_dsn": migrated.dsn("payment"),
        "database_owner_dsn": migrated.owner_dsn("payment"),
        "kafka_bootstrap": "127.0.0.1:1",
        "kafka_security": "PLAINTEXT",
        "topics_file": str(ROOT / "deploy/topics.yaml"),
        "encryption_keys_file": str(folder / "keys.json"),
        "operator_jwks_file": str(folder / "none"),
        "order_token_jwks_file": str(folder / "none"),
        "notify_base_url": "http://127.0.0.1:1",
    } | ({"crash_at": crash_at} if crash_at else {})
    named = {f"DEFRAY_PAYMENT_{name.upper()}": value for name, value in values.items()}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} | named


async def rotate(migrated: ProvisionedDatabase, folder: Path, crash_at: str = "") -> tuple[int, str]:
    """Run the verb as a process; returns how it ended and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "defray_payment", "rotate-keys", "--actor", "ann", "--batch", "200"),
        env=environment(migrated, folder, crash_at),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_rotation_under_load_killed_and_resumed(
    service: Service,
    simulator: WechatSimulator,
    owner: Database,
    migrated: ProvisionedDatabase,
    tmp_path: Path,
    log: io.StringIO,
) -> None:
    await plant(service.database, owner)
    assert (await key_ids(owner)).get("k1") == CALLBACKS + 2 * RESTED + 1
    stopping, served = asyncio.Event(), 0

    async def serve() -> None:
        nonlocal served
        while not stopping.is_set():
            begun = await service.pay(service.order(), product="jsapi", payer={"payer_id": CANARY})
            assert begun.status == 201, begun.body
            assert await pay_at_channel(simulator, begun) == [204]
            shown = await service.get(begun.body["payment_id"])
            assert (shown.status, shown.body["status"]) == (200, "SUCCEEDED")
            served += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(serve())
        for number in (1, 3):
            code, _ = await rotate(migrated, tmp_path, f"rotate_keys.after_batch:{number}")
            assert code == -signal.SIGKILL
        left = (await key_ids(owner))["k1"]
        assert 0 < left < CALLBACKS + 2 * RESTED + 1
        code, said = await rotate(migrated, tmp_path)
        assert (code, json.loads(said.splitlines()[-1])["left"]) == (0, 0)
        stopping.set()
    assert served > 0
    assert set(await key_ids(owner)) == {"k2"}
    # The old key may go: everything opens without it.
    async with owner.read() as conn:
        for row in await conn.fetch("SELECT channel, callback_id, raw_sealed FROM callback"):
            NEW.open(row["raw_sealed"], callback_context(row["channel"], row["callback_id"]))
        for row in await conn.fetch("SELECT attempt_no, payer_sealed FROM attempt WHERE payer_sealed IS NOT NULL"):
            assert CANARY in NEW.open(row["payer_sealed"], payer_context(row["attempt_no"])).decode()
    assert CANARY not in log.getvalue()
    assert await plain_finds(owner, CANARY) == []
    # The other way round: where it stands open, it is found.
    async with owner.transaction() as tx:
        await tx.execute("UPDATE attempt SET payer_sealed = $1 WHERE payer_sealed IS NOT NULL", CANARY.encode())
    assert await plain_finds(owner, CANARY) == ["attempt"]


async def plain_finds(owner: Database, canary: str) -> list[str]:
    """Tables in whose rows the canary stands open, as text, bytes or base64; the outbox and so the topics among them."""
    shapes = [canary, canary.encode().hex(), base64.b64encode(canary.encode()).decode().rstrip("=")]
    async with owner.read() as conn:
        tables = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY 1"
        )
        found = []
        for table in tables:
            name = table["relname"]
            sql = f"SELECT count(*) FROM {name} t WHERE t::text LIKE ANY ($1::text[])"
            if await conn.fetchval(sql, [f"%{shape}%" for shape in shapes]):
                found.append(name)
    return found


async def test_what_somebody_holds_is_left_for_the_next_pass(database: Database, owner: Database) -> None:
    await plant(database, owner)
    holder = await asyncpg.connect(database.dsn)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT 1 FROM attempt ORDER BY attempt_no LIMIT 3 FOR UPDATE")
    rotating = asyncio.create_task(rotate_keys.run(RotateKeys(actor="ann"), owner, SystemClock(), BOTH))

    async def only_the_held_are_left() -> bool:
        return (await key_ids(owner)).get("k1") == 6

    await eventually(only_the_held_are_left, what="everything that nobody holds has the new seal")
    await transaction.rollback()
    await holder.close()
    rotated = await asyncio.wait_for(rotating, 30)
    assert (rotated.resealed, rotated.left) == (CALLBACKS + 2 * RESTED + 1, 0)
    async with owner.read() as conn:
        acts = await conn.fetch("SELECT action FROM audit_log WHERE actor = 'ann' ORDER BY seq DESC LIMIT 2")
    assert [row["action"] for row in acts] == ["payment.keys.rotated", "payment.keys.rotate"]


async def test_every_sealed_column_is_rotated(owner: Database) -> None:
    async with owner.read() as conn:
        columns = await conn.fetch(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND column_name LIKE '%\\_sealed' ORDER BY 1, 2"
        )
    found = {f"{row['table_name']}.{row['column_name'].removesuffix('_sealed')}" for row in columns}
    assert found == {kind.name for kind in sealed.KINDS} == {f"{t}.{c.removesuffix('_sealed')}" for t, c in _SEALED}
