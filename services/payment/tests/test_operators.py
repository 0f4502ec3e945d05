"""Cases on the internal port: listed, resolved once, audited; for operators only."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from defray_kernel.clock import SystemClock
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.ids import show
from defray_kernel.operators import AUDIENCE, OperatorTokens
from defray_kernel.server import Listener
from defray_kernel.testing.eventually import eventually
from defray_payment import wiring
from defray_payment.domain.refusals import CaseReason
from defray_payment.entrypoints.accounts import AccountDesk, AccountsApi
from defray_payment.entrypoints.operators import CaseDesk, CasesApi
from defray_payment.store import cases
from defray_payment.store.cases import Case

from .given import NOW, payment

ISSUER = "https://operators.test"


class Desk:
    """The internal port, and tokens for it."""

    def __init__(self, url: str, http: aiohttp.ClientSession, key: Ed25519PrivateKey) -> None:
        self.url, self.http, self._key = url, http, key

    def headers(self, *roles: str, who: str = "ann") -> Mapping[str, str]:
        now_s = int(SystemClock().real().timestamp())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": who, "iat": now_s, "exp": now_s + 600, "roles": list(roles)}
        token = jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": "p1"})
        return {"Authorization": f"Bearer {token}"}

    async def listed(self, **query: str) -> list[dict[str, object]]:
        url = f"{self.url}/internal/v1/cases"
        async with self.http.get(url, params=query, headers=self.headers("viewer")) as reply:
            assert reply.status == 200
            return list((await reply.json())["data"])

    async def act(self, case_id: object, act: str, who: str, **body: object) -> tuple[int, str | None]:
        """Status and, where refused, the code."""
        url = f"{self.url}/internal/v1/cases/{case_id}/{act}"
        async with self.http.post(url, json=body, headers=self.headers("operator", who=who)) as reply:
            return reply.status, None if reply.status == 204 else (await reply.json())["code"]

    async def shown(self, case_id: object) -> dict[str, Any]:
        url = f"{self.url}/internal/v1/cases/{case_id}"
        async with self.http.get(url, headers=self.headers("viewer")) as reply:
            assert reply.status == 200
            return dict(await reply.json())

    async def resolve(self, case_id: object, *roles: str) -> int:
        url = f"{self.url}/internal/v1/cases/{case_id}/resolve"
        async with self.http.post(url, json={"resolution": "refunded by hand"}, headers=self.headers(*roles)) as reply:
            return reply.status


@pytest_asyncio.fixture
async def desk(database: Database, envelope: Envelope) -> AsyncIterator[Desk]:
    key = Ed25519PrivateKey.generate()
    public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    operators = OperatorTokens(json.dumps({"keys": [{**public, "kid": "p1"}]}).encode(), issuer=ISSUER)
    clock = SystemClock()
    accounts = AccountDesk(database=database, clock=clock, envelope=envelope, tls_only=False)
    edge = wiring.internal(CasesApi(CaseDesk(database=database, clock=clock)), AccountsApi(accounts), operators)
    listener, stopping = Listener(edge.app(), "127.0.0.1", 0), asyncio.Event()
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as http:
        group.create_task(listener.run(stopping))
        await eventually(lambda: listener.port != 0, what="the port listens")
        yield Desk(f"http://127.0.0.1:{listener.port}", http, key)
        stopping.set()


async def test_a_case_is_listed_and_resolved_once(desk: Desk, database: Database) -> None:
    one = payment()
    case = Case(reason=CaseReason.AMOUNT_MISMATCH, cause="callback:wechat:EV-1", payment_id=one.payment_id)
    async with database.transaction() as tx:
        await cases.open_all(tx, [case], NOW)
        await cases.open_all(tx, [case, Case(reason=CaseReason.UNKNOWN_ATTEMPT, cause="callback:wechat:EV-2")], NOW)
    found = await desk.listed()
    assert [(each["reason"], each["cause"]) for each in found] == [
        ("amount_mismatch", "callback:wechat:EV-1"),
        ("unknown_attempt", "callback:wechat:EV-2"),
    ]
    first = found[0]["case_id"]
    assert await desk.listed(after=str(first)) == found[1:]
    assert await desk.resolve(first, "operator") == 204
    assert await desk.resolve(first, "operator") == 404
    assert await desk.listed() == found[1:]
    async with database.read() as conn:
        audited = await conn.fetchrow("SELECT actor, action, subject FROM audit_log ORDER BY seq DESC LIMIT 1")
    assert audited is not None
    assert tuple(audited) == ("ann", "payment.case.resolve", first)


@pytest.mark.parametrize(("roles", "status"), [(["viewer"], 403), (["finance"], 403), ([], 401)])
async def test_who_may_not(desk: Desk, roles: list[str], status: int) -> None:
    assert await desk.resolve("case_" + "0" * 32, *roles) == status


async def test_ids_that_are_none(desk: Desk) -> None:
    for text in ("case_1", "pay_" + "0" * 32, "case_" + "0" * 32):
        assert await desk.resolve(text, "operator") == 404


async def test_a_case_is_worked_on_by_one_person(desk: Desk, database: Database) -> None:
    async with database.transaction() as tx:
        await cases.open_all(tx, [Case(reason=CaseReason.LATE_MONEY, cause="callback:wechat:EV-1")], NOW)
    ((case_id),) = [each["case_id"] for each in await desk.listed()]
    assert await desk.act(case_id, "claim", "ann") == (204, None)
    assert await desk.act(case_id, "claim", "ann") == (204, None)
    assert await desk.act(case_id, "claim", "bob") == (409, "case_claimed")
    assert await desk.act(case_id, "resolve", "bob", resolution="x") == (409, "case_claimed")
    assert await desk.act(case_id, "notes", "bob", text="the shop wants it back") == (204, None)
    assert await desk.act(case_id, "claim", "bob", take_over=True) == (204, None)
    assert await desk.act(case_id, "notes", "bob", text="refunded") == (204, None)
    assert await desk.act(case_id, "resolve", "bob", resolution="refunded by the shop") == (204, None)
    assert await desk.act(case_id, "claim", "ann") == (409, "case_resolved")
    shown = await desk.shown(case_id)
    assert (shown["state"], shown["owner"], shown["resolved_by"]) == ("RESOLVED", "bob", "bob")
    assert [(note["author"], note["text"]) for note in shown["notes"]] == [
        ("bob", "the shop wants it back"),
        ("bob", "refunded"),
    ]
    async with database.read() as conn:
        audited = await conn.fetch("SELECT actor, action FROM audit_log WHERE subject = $1 ORDER BY seq", case_id)
    assert [tuple(row) for row in audited] == [
        ("ann", "payment.case.claim"),
        ("bob", "payment.case.note"),
        ("bob", "payment.case.claim"),
        ("bob", "payment.case.note"),
        ("bob", "payment.case.resolve"),
    ]


async def test_cases_by_filters_and_pages(desk: Desk, database: Database) -> None:
    one = payment()
    several = [Case(reason=CaseReason.LATE_MONEY, cause=f"c{n}", order_id=one.order_id) for n in range(5)]
    async with database.transaction() as tx:
        await cases.open_all(tx, several, NOW)
        other = Case(reason=CaseReason.CONTRADICTION, cause="x", payment_id=one.payment_id)
        await cases.open_all(tx, [other], NOW)
    everything = await desk.listed()
    assert len(everything) == 6
    assert await desk.listed(limit="2") == everything[:2]
    assert await desk.listed(limit="2", after=str(everything[1]["case_id"])) == everything[2:4]
    assert await desk.listed(reason="contradiction") == everything[5:]
    assert await desk.listed(order_id=show("ord", one.order_id)) == everything[:5]
    assert await desk.listed(payment_id=show("pay", one.payment_id)) == everything[5:]
    await desk.act(everything[0]["case_id"], "claim", "ann")
    assert [each["case_id"] for each in await desk.listed(owner="ann")] == [everything[0]["case_id"]]
    assert len(await desk.listed(state="OPEN")) == 5
    await desk.act(everything[0]["case_id"], "resolve", "ann", resolution="done")
    assert len(await desk.listed()) == 5
    assert [each["case_id"] for each in await desk.listed(state="RESOLVED")] == [everything[0]["case_id"]]


@pytest.mark.parametrize(
    "query",
    ["state=SHUT", "reason=x", "after=case_1", "limit=0", "limit=101", "limit=00010000000", "order_id=1", "x=1"],
)
async def test_bad_filters(desk: Desk, query: str) -> None:
    async with desk.http.get(f"{desk.url}/internal/v1/cases?{query}", headers=desk.headers("viewer")) as reply:
        assert (reply.status, (await reply.json())["code"]) == (400, "invalid_parameter")
