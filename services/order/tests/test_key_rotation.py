"""The data key changes while orders are placed: a killed rotation is resumed, and the old key may go."""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest_asyncio

from defray_kernel.clock import SystemClock
from defray_kernel.contracts.inbound import Unusable
from defray_kernel.crypto import Envelope, key_id_of
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, OrderId, parse, uuid7
from defray_order import wiring
from defray_order.commands import reject_inbound, rotate_keys, take_inbound
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.commands.rotate_keys import RotateKeys
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.domain.buyer import LookUp
from defray_order.store import inbound
from defray_sandbox.stack.provision import ProvisionedDatabase
from tests.architecture.sources import ROOT

from .asking import record
from .running import order_body, running, token_key

KEYS = {"k1": bytes(range(32)), "k2": bytes(range(1, 33))}
OLD, NEW, BOTH = Envelope({"k1": KEYS["k1"]}, "k1"), Envelope({"k2": KEYS["k2"]}, "k2"), Envelope(KEYS, "k2")
KEPT, REJECTED = 1_200, 70
WRITTEN = b'{"buyer"'


@pytest_asyncio.fixture
async def owner(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as its owner has it."""
    async with Database.open(migrated.owner_dsn("order")) as opened:
        yield opened


async def plant(owner: Database, merchant_id: MerchantId) -> None:
    """Orders whose buyers were kept under the old key, the index key too, and what strangers sent with its digests' key."""
    async with owner.transaction() as tx:
        vault = RejectedVault(owner, OLD)
        bad = [take_inbound.rejected(record(WRITTEN), Unusable("malformed_json", "value", "")) for _ in range(REJECTED)]
        await reject_inbound.handle(bad, tx, SystemClock(), vault)
    await BuyerVault(owner, OLD).digest(merchant_id, LookUp.EMAIL, "any@example.cn")
    ids = [uuid7() for _ in range(KEPT)]
    async with owner.transaction() as tx:
        await tx.execute(
            "INSERT INTO orders (order_id, merchant_id, merchant_order_no, state, currency, amount_minor, content_hash, "
            "correlation_id, placed_at, expires_at, version, event_seq) SELECT i, $2, i::text, 'PLACED', 'CNY', 1, "
            "sha256('x'), 'c', now(), now() + interval '1 h', 1, 1 FROM unnest($1::uuid[]) AS i",
            ids,
            merchant_id,
        )
        await tx.execute(
            "INSERT INTO order_buyer (order_id, enciphered) SELECT i, sha256('x') FROM unnest($1::uuid[]) AS i", ids
        )
        await tx.execute(
            "INSERT INTO buyer_key (order_id, key_sealed) SELECT i, k FROM unnest($1::uuid[], $2::bytea[]) AS n (i, k)",
            ids,
            [OLD.seal(bytes(32), f"buyer_key.key:{each}") for each in ids],
        )


async def key_ids(owner: Database) -> dict[str, int]:
    """How many values each key seals."""
    found: dict[str, int] = {}
    async with owner.read() as conn:
        for column, table in (
            ("key_sealed", "buyer_key"), ("key_sealed", "made_key"), ("record_sealed", "inbound_rejected"),
        ):  # fmt: skip
            for row in await conn.fetch(f"SELECT {column} FROM {table}"):
                found[key_id_of(row[column])] = found.get(key_id_of(row[column]), 0) + 1
    return found


def environment(migrated: ProvisionedDatabase, folder: Path, crash_at: str) -> dict[str, str]:
    """As the operator's shell has it; what the verb does not use is named all the same."""
    ring = {"current": "k2", "keys": {name: base64.b64encode(key).decode() for name, key in KEYS.items()}}
    (folder / "keys.json").write_text(json.dumps(ring))
    (folder / "token.pem").write_bytes(token_key())
    values = {
        "profile": "sandbox",
        "database_dsn": migrated.dsn("order"),
        "database_owner_dsn": migrated.owner_dsn("order"),
        "kafka_bootstrap": "127.0.0.1:1",
        "kafka_security": "PLAINTEXT",
        "topics_file": str(ROOT / "deploy/topics.yaml"),
        "encryption_keys_file": str(folder / "keys.json"),
        "operator_jwks_file": str(folder / "none"),
        "token_private_key_file": str(folder / "token.pem"),
        "token_key_id": "k1",
    } | ({"crash_at": crash_at} if crash_at else {})
    named = {f"DEFRAY_ORDER_{name.upper()}": value for name, value in values.items()}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} | named


async def verb(migrated: ProvisionedDatabase, folder: Path, *arguments: str, crash_at: str = "") -> tuple[int, str]:
    """Run a verb as a process; returns how it ended and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "defray_order", *arguments),
        env=environment(migrated, folder, crash_at),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_rotation_under_load_killed_and_resumed(
    database: Database, owner: Database, migrated: ProvisionedDatabase, tmp_path: Path
) -> None:
    rotate = ("rotate-keys", "--actor", "ann", "--batch", "200")
    placing = wiring.placing(database, SystemClock(), after_commit=None)
    async with running(database, placing, BOTH) as service:
        await plant(owner, service.one.merchant_id)
        assert (await key_ids(owner)) == {"k1": KEPT + REJECTED + 2}
        stopping, placed = asyncio.Event(), list[str]()

        async def serve() -> None:
            while not stopping.is_set():
                body = order_body(uuid7().hex, buyer={"email": "ann@example.cn"})
                answer = await service.place(body)
                assert answer.status == 201, answer.body
                placed.append(answer.body["order_id"])
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            for number in (1, 3):
                code, _ = await verb(migrated, tmp_path, *rotate, crash_at=f"rotate_keys.after_batch:{number}")
                assert code == -signal.SIGKILL
            assert 0 < (await key_ids(owner))["k1"] < KEPT
            code, said = await verb(migrated, tmp_path, *rotate)
            assert (code, json.loads(said.splitlines()[-1])["left"]) == (0, 0), said
            stopping.set()
        assert set(await key_ids(owner)) == {"k2"}
    async with database.read() as conn:
        rows = await inbound.list_rejected(conn, after=UUID(int=0), state=None, reason=None, limit=REJECTED + 1)
        for row in rows:
            whole = await inbound.rejected(conn, row.rejected_id)
            assert whole is not None
            assert whole.sealed is not None
            assert RejectedVault(database, NEW).open(row.rejected_id, whole.sealed).value == WRITTEN
    assert len(rows) == REJECTED
    merchant_id = service.one.merchant_id
    # The old key may go: all opens without it, and what was placed meanwhile is found by the same digests.
    assert placed
    vault = BuyerVault(database, NEW)
    digest = await vault.digest(merchant_id, LookUp.EMAIL, "ann@example.cn")
    async with database.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM buyer_digest WHERE digest = $1", digest) == len(placed)
        for each in placed:
            kept = await vault.show(conn, OrderId(parse("ord", each)))
            assert kept is not None
            assert kept[1] is not None
            assert kept[1].email == "ann@example.cn"


async def test_what_is_held_is_left_for_the_next_pass_and_what_is_erased_meanwhile_is_no_trouble(
    database: Database, owner: Database
) -> None:
    merchant_id = MerchantId(uuid7())
    await plant(owner, merchant_id)
    async with owner.read() as holder:
        transaction = holder.transaction()
        await transaction.start()
        held = await holder.fetch("SELECT order_id FROM buyer_key ORDER BY order_id LIMIT 3 FOR UPDATE")
        rotating = asyncio.create_task(rotate_keys.run(RotateKeys(actor="ann"), owner, SystemClock(), BOTH))
        await asyncio.sleep(0.3)
        await holder.execute("DELETE FROM buyer_key WHERE order_id = $1", held[0]["order_id"])
        await transaction.commit()
        rotated = await asyncio.wait_for(rotating, 30)
    assert rotated.left == 0
    assert rotated.resealed in {KEPT + REJECTED + 1, KEPT + REJECTED + 2}
    assert await key_ids(owner) == {"k2": KEPT + REJECTED + 1}
    async with database.read() as conn:
        acts = await conn.fetch("SELECT action FROM audit_log WHERE actor = 'ann' ORDER BY seq")
    assert [row["action"] for row in acts] == ["order.keys.rotate", "order.keys.rotated"]


async def test_every_sealed_column_is_rotated(owner: Database) -> None:
    async with owner.read() as conn:
        columns = await conn.fetch(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND column_name LIKE '%\\_sealed' ORDER BY 1, 2"
        )
    found = [f"{row['table_name']}.{row['column_name']}" for row in columns]
    assert found == ["buyer_key.key_sealed", "inbound_rejected.record_sealed", "made_key.key_sealed"]
