"""Operators see all merchants' orders and, by another right, one order's buyer; each look is a row of the audit log, which shows every damage."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import msgspec
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from defray_kernel import audit
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database, ReadConn
from defray_kernel.http import Edge
from defray_kernel.ids import show, uuid7
from defray_kernel.operators import AUDIENCE, OperatorTokens
from defray_kernel.problems import registry
from defray_kernel.server import Listener
from defray_order.commands import verify_audit
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.commands.verify_audit import Anchor
from defray_order.entrypoints.operator_orders import OperatorOrdersApi
from defray_sandbox.stack.provision import ProvisionedDatabase

from .running import ENVELOPE, Service, order_body
from .test_key_rotation import verb

ISSUER = "https://operators.test"


@dataclass(frozen=True, slots=True)
class Desk:
    """The internal port, and tokens for it."""

    url: str
    service: Service
    key: Ed25519PrivateKey

    def headers(self, *roles: str) -> Mapping[str, str]:
        now_s = int(SystemClock().real().timestamp())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now_s, "exp": now_s + 600, "roles": list(roles)}
        return {"Authorization": f"Bearer {jwt.encode(claims, self.key, algorithm='EdDSA', headers={'kid': 'p1'})}"}

    async def get(self, path: str, *roles: str) -> tuple[int, Any]:
        async with self.service.http.get(self.url + path, headers=self.headers(*roles) if roles else {}) as reply:
            return reply.status, await reply.json(content_type=None)


@pytest_asyncio.fixture
async def desk(service: Service) -> AsyncIterator[Desk]:
    key = Ed25519PrivateKey.generate()
    public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    operators = OperatorTokens(json.dumps({"keys": [{**public, "kid": "p1"}]}).encode(), issuer=ISSUER)
    edge = Edge(title="operators", version="1", problems=registry(), operators=operators)
    OperatorOrdersApi(service.database, BuyerVault(service.database, ENVELOPE), SystemClock()).declare(edge)
    listener, stopping = Listener(edge.app(), "127.0.0.1", 0), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.run(stopping))
        yield Desk(f"http://127.0.0.1:{listener.port}", service, key)
        stopping.set()


@pytest_asyncio.fixture
async def owner(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as its owner has it: whoever has these rights can damage the log."""
    async with Database.open(migrated.owner_dsn("order")) as opened:
        yield opened


async def acts(database: Database) -> list[tuple[str, str, str]]:
    async with database.read() as conn:
        rows = await conn.fetch("SELECT actor, action, subject FROM audit_log ORDER BY seq")
    return [(row["actor"], row["action"], row["subject"]) for row in rows]


async def test_orders_of_all_merchants_page_by_page(desk: Desk) -> None:
    service = desk.service
    made = []
    for n in range(5):
        by = service.one if n % 2 else service.other
        made.append((await service.place(order_body(f"no-{n}"), by=by)).body["order_id"])
    page: dict[str, Any] = {}
    path, found = "/internal/v1/orders?limit=2", []
    for _ in range(3):
        status, page = await desk.get(path, "viewer")
        assert status == 200
        found += [order["order_id"] for order in page["data"]]
        path = f"/internal/v1/orders?limit=2&before={page['next_before']}"
    assert (found, page["next_before"]) == (sorted(made, reverse=True), None)
    one = show("mer", service.one.merchant_id)
    _, of_one = await desk.get(f"/internal/v1/orders?merchant_id={one}&status=PLACED", "viewer")
    assert [order["merchant_id"] for order in of_one["data"]] == [one, one]
    assert await acts(service.database) == [("ann", "order.orders.list", "all merchants")] * 3 + [
        ("ann", "order.orders.list", one)
    ]


DOORS: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("/internal/v1/orders", (), 401),
    ("/internal/v1/orders", ("finance",), 200),
    ("/internal/v1/orders?merchant_id=x", ("viewer",), 400),
    ("/internal/v1/orders?before=x", ("viewer",), 400),
    ("/internal/v1/orders?status=x", ("viewer",), 400),
    ("/internal/v1/orders?email=ann@example.cn", ("viewer",), 400),
    (f"/internal/v1/orders/{show('ord', uuid7())}/buyer", ("viewer",), 403),
    (f"/internal/v1/orders/{show('ord', uuid7())}/buyer", ("operator",), 404),
    ("/internal/v1/orders/x/buyer", ("operator",), 404),
)


async def test_who_may_look(desk: Desk) -> None:
    assert [(path, roles, (await desk.get(path, *roles))[0]) for path, roles, _ in DOORS] == list(DOORS)
    by_key = await desk.service.http.get(
        f"{desk.url}/internal/v1/orders", headers={"Authorization": f"Bearer {desk.service.one.api_key}"}
    )
    assert by_key.status == 401


async def test_a_look_at_a_buyer_is_written_down_before_it_is_given(desk: Desk) -> None:
    service = desk.service
    order_id = (await service.place(order_body("no-1", buyer={"email": "ann@example.cn"}))).body["order_id"]
    path = f"/internal/v1/orders/{order_id}/buyer"
    status, shown = await desk.get(path, "operator")
    assert (status, shown["email"]) == (200, "ann@example.cn")
    nobody = show("ord", uuid7())
    await desk.get(f"/internal/v1/orders/{nobody}/buyer", "operator")
    assert await acts(service.database) == [("ann", "order.buyer.read", each) for each in (order_id, nobody)]


async def fill(database: Database, rows: int = 8) -> list[Anchor]:
    """A log of acts, and an anchor taken in its middle and at its end."""
    anchors = []
    for n in range(rows):
        async with database.transaction() as tx:
            await audit.append(tx, actor="ann", action="order.act", subject=f"s{n}", clock=SystemClock())
        if n in {rows // 2, rows - 1}:
            last = await verify_audit.anchor(database)
            assert last is not None
            anchors.append(last)
    return anchors


async def rewrite(tx: ReadConn, rows: list[asyncpg.Record]) -> None:
    """Write the whole chain anew, as somebody who knows how it is made would."""
    await tx.execute("DELETE FROM audit_log")
    hash_ = bytes(32)
    for seq, row in enumerate(rows, start=1):
        content = (seq, row["at"], row["actor"], row["action"], row["subject"], row["detail"])
        hash_ = audit._chained(hash_, *content)
        await tx.execute("INSERT INTO audit_log VALUES ($1, $2, $3, $4, $5, $6, $7)", *content, hash_)
    await tx.execute("UPDATE audit_head SET seq = $1, hash = $2", len(rows), hash_)


READ = "SELECT * FROM audit_log ORDER BY seq"


async def change(tx: ReadConn) -> None:
    await tx.execute("UPDATE audit_log SET subject = 'other' WHERE seq = 3")


async def delete(tx: ReadConn) -> None:
    await tx.execute("DELETE FROM audit_log WHERE seq = 4")


async def insert(tx: ReadConn) -> None:
    await tx.execute("UPDATE audit_log SET seq = seq + 100 WHERE seq > 2")
    await tx.execute("UPDATE audit_log SET seq = seq - 99 WHERE seq > 100")
    await tx.execute(
        "INSERT INTO audit_log SELECT 3, at, actor, action, subject, detail, hash FROM audit_log WHERE seq = 2"
    )


async def swap(tx: ReadConn) -> None:
    await tx.execute("UPDATE audit_log SET seq = seq + 100 WHERE seq IN (2, 3)")
    await tx.execute("UPDATE audit_log SET seq = 105 - seq WHERE seq > 100")


async def cut(tx: ReadConn) -> None:
    await tx.execute("DELETE FROM audit_log WHERE seq > 6")


async def cut_with_head(tx: ReadConn) -> None:
    await cut(tx)
    await tx.execute("UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit_log WHERE seq = 6)")


async def rewritten(tx: ReadConn) -> None:
    rows = await tx.fetch(READ)
    await rewrite(tx, [rows[0], *rows[2:]])


async def begun_anew(tx: ReadConn) -> None:
    await rewrite(tx, [])


async def headless(tx: ReadConn) -> None:
    await tx.execute("DELETE FROM audit_head")


# What was done, what the chain alone says, and what it says together with anchors kept elsewhere.
DAMAGES: tuple[tuple[Callable[[ReadConn], Awaitable[None]], int | None, int], ...] = (
    (change, 3, 3),
    (delete, 4, 4),
    (insert, 3, 3),
    (swap, 2, 2),
    (cut, 7, 7),
    (headless, 0, 0),
    (cut_with_head, None, 7),
    (rewritten, None, 5),
    (begun_anew, None, 1),
)


async def test_every_damage_shows(database: Database, owner: Database) -> None:
    anchors = await fill(database)
    assert (await verify_audit.run(database, anchors)).broken_at is None
    assert (await verify_audit.run(database, [])).rows == 8
    told = []
    for damage, _, _ in DAMAGES:
        async with owner.read() as conn:
            transaction = conn.transaction()
            await transaction.start()
            await damage(conn)
            alone = await audit.verify(conn)
            await transaction.rollback()
        async with owner.transaction() as tx:
            await tx.execute("CREATE TABLE log_before AS SELECT * FROM audit_log")
            await tx.execute("CREATE TABLE head_before AS SELECT * FROM audit_head")
            await damage(tx)
        held = await verify_audit.run(owner, anchors)
        async with owner.transaction() as tx:
            await tx.execute(
                "DELETE FROM audit_log; INSERT INTO audit_log SELECT * FROM log_before; DROP TABLE log_before"
            )
            await tx.execute(
                "DELETE FROM audit_head; INSERT INTO audit_head SELECT * FROM head_before; DROP TABLE head_before"
            )
        told.append((damage, alone.broken_at, held.broken_at))
    assert told == list(DAMAGES)
    assert (await verify_audit.run(database, anchors)).broken_at is None


async def test_the_serving_role_cannot_damage_it(database: Database) -> None:
    async with database.read() as conn:
        for statement in ("UPDATE audit_log SET subject = 'x'", "DELETE FROM audit_log", "DELETE FROM audit_head"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)


async def test_the_verb_anchors_and_verifies(
    database: Database, owner: Database, migrated: ProvisionedDatabase, tmp_path: Path
) -> None:
    await fill(database)
    code, said = await verb(migrated, tmp_path, "audit", "anchor")
    anchor = msgspec.json.decode(said.splitlines()[-1], type=Anchor)
    assert (code, anchor.seq) == (0, 8)
    (tmp_path / "anchors").write_text(said.splitlines()[-1] + "\n\n")
    code, said = await verb(migrated, tmp_path, "audit", "verify", "--anchors", str(tmp_path / "anchors"))
    assert (code, json.loads(said.splitlines()[-1])) == (0, {"rows": 8, "broken_at": None, "reason": ""})
    async with owner.transaction() as tx:
        await cut_with_head(tx)
    assert (await verb(migrated, tmp_path, "audit", "verify"))[0] == 0
    code, said = await verb(migrated, tmp_path, "audit", "verify", "--anchors", str(tmp_path / "anchors"))
    assert (code, json.loads(said.splitlines()[-1])["reason"]) == (1, "rows up to an anchor are missing")
    (tmp_path / "anchors").write_text("no anchor\n")
    assert (await verb(migrated, tmp_path, "audit", "verify", "--anchors", str(tmp_path / "anchors")))[0] == 64
