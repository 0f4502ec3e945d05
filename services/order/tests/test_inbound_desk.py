"""What operators do with rejected requests, over HTTP and in a shell's words; each act is one row of the audit log."""

import argparse
import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
import msgspec
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_kernel import audit
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.http import Edge
from defray_kernel.ids import uuid7
from defray_kernel.operators import AUDIENCE, OperatorTokens
from defray_kernel.problems import registry
from defray_kernel.server import Listener
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.entrypoints import inbound_desk
from defray_order.entrypoints.inbound import InboundDoor
from defray_order.entrypoints.inbound_desk import InboundApi, InboundDesk

from .asking import changed, know, record, request
from .running import ENVELOPE, Shop, shop

_BASE = "/internal/v1/inbound/rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """The internal port with the desk's routes, and one rejected request of a merchant that is not known."""

    url: str
    http: aiohttp.ClientSession
    desk: InboundDesk
    database: Database
    late: Shop
    key: Ed25519PrivateKey

    async def call(self, method: str, path: str, *roles: str, body: object = None) -> tuple[int, Any]:
        now = int(SystemClock().real().timestamp())
        claims = {"iss": "tests", "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 60, "roles": roles}
        token = jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": "k"})
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.request(method, f"{self.url}{_BASE}{path}", headers=headers, json=body) as reply:
            return reply.status, await reply.json(content_type=None)

    async def only(self) -> str:
        _, page = await self.call("GET", "?state=OPEN", "viewer")
        (row,) = page["data"]
        found: str = row["rejected_id"]
        return found


@pytest_asyncio.fixture
async def office(database: Database) -> AsyncIterator[Office]:
    late, key = shop("late"), Ed25519PrivateKey.generate()
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())) | {"kid": "k"}
    tokens = OperatorTokens(json.dumps({"keys": [jwk]}).encode(), issuer="tests")
    desk = InboundDesk(database, SystemClock(), RejectedVault(database, ENVELOPE))
    edge = Edge(title="desk", version="0", problems=registry(), operators=tokens)
    InboundApi(desk).declare(edge)
    listener, stopping = Listener(edge.app(), "127.0.0.1", 0), asyncio.Event()
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as http:
        group.create_task(listener.run(stopping))
        url = f"http://127.0.0.1:{listener.port}"
        yield Office(url=url, http=http, desk=desk, database=database, late=late, key=key)
        stopping.set()


async def reject(office: Office, *records: Any) -> None:  # noqa: ANN401 - as Kafka brings them
    async with office.database.transaction() as tx:
        door = InboundDoor(SystemClock(), RejectedVault(office.database, ENVELOPE), lambda: None, waits_s=60)
        await door.take(tx, records, slowly=False)


async def orders(database: Database) -> int:
    async with database.read() as conn:
        found: int = await conn.fetchval("SELECT count(*) FROM orders")
    return found


async def acts(database: Database) -> list[tuple[str, str]]:
    async with database.read() as conn:
        rows = await conn.fetch("SELECT actor, action FROM audit_log ORDER BY seq")
        assert (await audit.verify(conn)).broken_at is None
    return [(row["actor"], row["action"]) for row in rows]


async def test_a_request_is_redriven_once_its_cause_is_mended(office: Office) -> None:
    disabled = office.late.state([])
    await know(office.database, msgspec.structs.replace(disabled, status="DISABLED"))
    wish = record(request(office.late.merchant_id, "n-1"), id_="cart 1")
    await reject(office, wish)
    rejected_id = await office.only()
    status, shown = await office.call("GET", f"/{rejected_id}", "operator")
    assert (status, base64.b64decode(shown["value_base64"]), shown["reason"]) == (200, wish.value, "merchant_disabled")
    assert ["ce_id", "cart 1"] in shown["headers"]
    status, shown = await office.call("POST", f"/{rejected_id}/redrive", "operator")
    assert (status, shown["state"], shown["tries"], await orders(office.database)) == (200, "OPEN", 2, 0)
    await know(office.database, disabled)
    status, shown = await office.call("POST", f"/{rejected_id}/redrive", "operator")
    assert (status, shown["state"], shown["ended_by"], await orders(office.database)) == (200, "REDRIVEN", "ann", 1)
    assert (await office.call("POST", f"/{rejected_id}/redrive", "operator"))[0] == 409
    assert await acts(office.database) == [("ann", "order.inbound.show")] + [("ann", "order.inbound.redrive")] * 2


async def test_all_of_one_reason_are_redriven_in_their_order(office: Office) -> None:
    first = [record(request(office.late.merchant_id, f"n-{n}")) for n in range(120)]
    second = [record(request(office.late.merchant_id, f"n-{n}", expires_in_s=600)) for n in range(120)]
    disabled = office.late.state([])
    await know(office.database, msgspec.structs.replace(disabled, status="DISABLED"))
    await reject(office, *first, *second)
    await know(office.database, disabled)
    status, done = await office.call("POST", "/redrive", "operator", body={"reason": "merchant_disabled"})
    # The second wish of each number conflicts with the first, never the other way round.
    assert (status, done) == (200, {"tried": 240, "redriven": 120})
    async with office.database.read() as conn:
        lives = await conn.fetch("SELECT DISTINCT extract(epoch FROM expires_at - placed_at)::int AS life FROM orders")
    assert [row["life"] for row in lives] == [7200]


async def test_what_is_given_up_stays_undone_and_is_audited(office: Office) -> None:
    await reject(office, record(b"{"))
    rejected_id = await office.only()
    assert (await office.call("POST", f"/{rejected_id}/dismiss", "operator", body={}))[0] == 422
    status, shown = await office.call("POST", f"/{rejected_id}/dismiss", "operator", body={"note": "a test of theirs"})
    assert (status, shown["state"]) == (200, "DISMISSED")
    assert (await office.call("GET", "?state=OPEN", "viewer"))[1] == {"data": []}
    assert await acts(office.database) == [("ann", "order.inbound.dismiss")]


async def test_card_numbers_are_not_kept_and_so_cannot_be_redriven(office: Office) -> None:
    await know(office.database, office.late.state([]))
    body = request(office.late.merchant_id, "n-1")
    body["items"][0]["title"] = "4111 1111 1111 1111"
    await reject(office, record(body))
    _, page = await office.call("GET", "", "viewer")
    (row,) = page["data"]
    assert (row["reason"], row["field"], row["truncated"], row["value_bytes"]) == (
        "pan_not_allowed", "items[0].title", True, 0,
    )  # fmt: skip
    assert (await office.call("POST", f"/{row['rejected_id']}/redrive", "operator"))[0] == 409
    async with office.database.read() as conn:
        assert await conn.fetchval("SELECT payload FROM outbox WHERE topic = 'dlq.order.inbound'") == b""
    _, shown = await office.call("GET", f"/{row['rejected_id']}", "operator")
    assert "value_base64" not in shown


async def test_a_list_shows_nothing_that_a_stranger_wrote(office: Office) -> None:
    await reject(office, changed(record(b"{secret"), key=b"secret", headers=[("secret", b"secret")]))
    _, page = await office.call("GET", "", "viewer")
    (row,) = page["data"]
    assert "secret" not in json.dumps(row)
    assert len(row["value_digest"]) == 64
    _, shown = await office.call("GET", f"/{row['rejected_id']}", "operator")
    assert (shown["key"], shown["headers"]) == ("secret", [["secret", "secret"]])
    assert await acts(office.database) == [("ann", "order.inbound.show")]


async def test_who_may_what_and_what_is_not_there(office: Office) -> None:
    await reject(office, changed(record(b"{"), key=b"\xff"))
    rejected_id = await office.only()
    for method, path in (
        ("GET", f"/{rejected_id}"),
        ("POST", f"/{rejected_id}/redrive"),
        ("POST", f"/{rejected_id}/dismiss"),
    ):
        assert (await office.call(method, path, "viewer", body={"note": "x"} if "dismiss" in path else None))[0] == 403
    for path in (f"/rej_{uuid7().hex}", "/rej_1", f"/ord_{uuid7().hex}"):
        assert (await office.call("GET", path, "operator"))[0] == 404
    for query in ("?state=NONE", "?after=x", "?limit=5"):
        assert (await office.call("GET", query, "viewer"))[0] == 400
    assert (await office.call("GET", f"?after={rejected_id}", "viewer"))[1] == {"data": []}
    assert await acts(office.database) == []


async def test_a_shell_does_the_same(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    await reject(office, record(b"{"))
    rejected_id = await office.only()

    async def run(*arguments: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        inbound_desk.declare_verb(parser)
        code = await inbound_desk.run_verb(office.desk, parser.parse_args(arguments))
        return code, capsys.readouterr().out

    code, listed = await run("list")
    assert (code, json.loads(listed)["rejected_id"]) == (0, rejected_id)
    assert (
        json.loads((await run("show", rejected_id, "--actor", "bob"))[1])["value_base64"]
        == base64.b64encode(b"{").decode()
    )
    assert json.loads((await run("redrive", rejected_id, "--actor", "bob"))[1])["tries"] == 2
    assert json.loads((await run("redrive-all", "--reason", "malformed_json", "--actor", "bob"))[1]) == {
        "tried": 1,
        "redriven": 0,
    }
    assert (await run("dismiss", rejected_id, "--actor", "bob", "--note", "x" * 501))[0] == 1
    assert (
        json.loads((await run("dismiss", rejected_id, "--actor", "bob", "--note", "enough"))[1])["state"] == "DISMISSED"
    )
    assert (await run("redrive", rejected_id, "--actor", "bob"))[0] == 1
    assert (await run("list"))[1] == ""
