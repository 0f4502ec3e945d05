"""Who may do what: merchants apart, keys and tokens, operators' roles, and a directory that knows when it does not know."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_kernel import ids, merchants
from defray_kernel.clock import ManualClock, SystemClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import AUDIENCE, OperatorTokens, Role
from shared.tests.edge import toy
from shared.tests.edge.conftest import ISSUER, Running, serving
from shared.tests.edge.test_bad_input import note


async def test_each_merchant_sees_only_its_own(toy_service: Running) -> None:
    _, body, _ = await toy_service.post(note())
    note_id = json.loads(body)["note_id"]
    assert (await toy_service.get(f"/v1/notes/{note_id}", toy.KEYS[0]))[0] == 200
    absent = ids.show("ord", ids.uuid7())
    answers = []
    for name in (note_id, absent, "mer_" + note_id[4:], "..", "x" * 10_000, note_id.upper(), "%00", "ord_" + "٣" * 32):
        status, answer, _ = await toy_service.get(f"/v1/notes/{name}", toy.KEYS[1])
        problem = json.loads(answer)
        del problem["correlation_id"]
        answers.append((status, json.dumps(problem)))
    assert answers[0][0] == 404
    assert set(answers) == {answers[0]}, "the answer tells whether another merchant's note exists"


async def test_every_bad_credential_gets_the_same_answer(toy_service: Running) -> None:
    bad = [
        None,
        "",
        "x",
        "sk_test_unknown",
        toy.EXPIRED_KEY,
        toy.KEYS[0] + "x",
        toy.KEYS[0][:-1],
        "eyJ.payment.token",
        "sk_" + "a" * 5000,
    ]
    answers = set()
    for credential in bad:
        status, answer, headers = await toy_service.get("/v1/notes/ord_1", credential)
        problem = json.loads(answer)
        assert problem.pop("correlation_id") == headers.pop("x-correlation-id")
        headers.pop("date")
        answers.add((status, json.dumps(problem), json.dumps(headers)))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 401


async def test_scopes_are_asked_for(toy_service: Running) -> None:
    status, answer, _ = await toy_service.post(note(), api_key=toy.READ_ONLY_KEY)
    assert (status, json.loads(answer)["code"]) == (403, "forbidden")
    assert (await toy_service.get("/v1/notes/ord_1", toy.READ_ONLY_KEY))[0] == 404


async def test_payment_tokens_open_only_their_routes(toy_service: Running) -> None:
    assert (await toy_service.get("/v1/token", "eyJ.payment.token"))[0] == 200
    for credential in ("eyJ.other.token", toy.KEYS[0], None):
        assert (await toy_service.get("/v1/token", credential))[0] == 401


async def test_correlation_and_trace_are_taken_over_or_made(toy_service: Running) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = {"X-Correlation-Id": "shop-12345", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    async with toy_service.client.post("/v1/echo", data=b"abc", headers=given) as reply:
        body = await reply.json()
        assert reply.headers["X-Correlation-Id"] == body["correlation_id"] == "shop-12345"
        assert body["traceparent"].split("-")[1] == trace_id
        assert body["bytes"] == 3
    for bad in ("a b c d e f", "x" * 65, "é" * 10):
        async with toy_service.client.post(
            "/v1/echo", data=b"", headers={"X-Correlation-Id": bad, "traceparent": "00-0-0-0"}
        ) as reply:
            assert len(reply.headers["X-Correlation-Id"]) == 32


def token(key: Ed25519PrivateKey, **changes: object) -> str:
    now = int(time.time())
    claims = {
        "sub": "alice",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 300,
        "roles": ["viewer"],
    } | changes
    claims = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "op1"})


async def test_operators_may_what_their_role_says(
    database: Database, operator_key: Ed25519PrivateKey, key_set: bytes
) -> None:
    async with serving(database, operators=OperatorTokens(key_set, issuer=ISSUER), internal=True) as running:
        for roles, allowed in (
            (["viewer"], {"viewer"}),
            (["operator"], {"viewer", "operator"}),
            (["finance"], {"viewer", "finance"}),
            (["operator", "finance", "unknown"], {"viewer", "operator", "finance"}),
        ):
            for path in Role:
                status, _, _ = await running.get(f"/internal/v1/{path}", token(operator_key, roles=roles))
                assert status == (200 if path in allowed else 403), (roles, path)
        assert (await running.get("/internal/v1/viewer", toy.KEYS[0]))[0] == 401


def test_forged_and_stale_operator_tokens_are_refused(operator_key: Ed25519PrivateKey, key_set: bytes) -> None:
    tokens = OperatorTokens(key_set, issuer=ISSUER)
    assert tokens.verify(token(operator_key)) is not None
    now = int(time.time())
    changes: list[dict[str, Any]] = [
        {"exp": now - 60},
        {"exp": ...},
        {"iat": ...},
        {"sub": ...},
        {"iss": "https://evil.test"},
        {"aud": "defray-payment"},
        {"roles": []},
        {"roles": ["root"]},
        {"roles": "viewer"},
        {"roles": ...},
        {"roles": None},
        {"nbf": now + 600},
        {"sub": "x" * 300},
    ]
    for change in changes:
        assert tokens.verify(token(operator_key, **change)) is None, change
    assert tokens.verify(token(Ed25519PrivateKey.generate())) is None
    claims = jwt.decode(token(operator_key), options={"verify_signature": False})
    forged: list[Callable[[], str]] = [
        lambda: jwt.encode(claims, "", algorithm="none", headers={"kid": "op1"}),
        lambda: jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": "op1"}),
        lambda: jwt.encode(claims, operator_key, algorithm="EdDSA", headers={"kid": "op2"}),
        lambda: jwt.encode(claims, operator_key, algorithm="EdDSA"),
        lambda: token(operator_key)[:-4] + "AAAA",
        lambda: "not a token",
        lambda: "a" * 10_000,
    ]
    for make in forged:
        assert tokens.verify(make()) is None
    for bad in (b"", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "1"}]}'):
        with pytest.raises(ConfigInvalid):
            OperatorTokens(bad, issuer=ISSUER)


def state_event(state: MerchantState, sequence: int) -> Event[MerchantState]:
    return Event(
        id=ids.uuid7(),
        source="settlement",
        subject=state.merchant_id,
        key=state.merchant_id,
        sequence=sequence,
        time=SystemClock().real(),
        correlation_id="c",
        causation_id=None,
        traceparent=None,
        data=state,
    )


async def test_the_projection_keeps_the_newest_state_and_disables_what_it_cannot_read(database: Database) -> None:
    clock = SystemClock()
    first, second = toy.states()
    renamed = msgspec.structs.replace(first, name="New name")
    disabled = msgspec.structs.replace(second, status="DISABLED")
    load = merchants.projected(database)

    async def names() -> list[str]:
        return [state.name for state in await load()]

    async with database.transaction() as tx:
        await merchants.project([state_event(renamed, 5), state_event(first, 4), state_event(second, 1)], tx, clock)
    assert await names() == ["New name", "Shop"]
    async with database.transaction() as tx:
        await merchants.project([state_event(first, 4), state_event(disabled, 2)], tx, clock)
    assert await names() == ["New name"]
    async with database.transaction() as tx:
        await merchants.disable_unreadable(first.merchant_id.encode(), "value: not JSON", tx, clock)
        await merchants.disable_unreadable(b"mer_\xff", "key", tx, clock)
        await merchants.disable_unreadable(ids.show("mer", ids.uuid7()).encode(), "value", tx, clock)
    assert await names() == []
    async with database.transaction() as tx:
        await merchants.project([state_event(renamed, 4)], tx, clock)
    assert await names() == [], "an old record must not enable it again"
    async with database.transaction() as tx:
        await merchants.project([state_event(renamed, 6)], tx, clock)
    assert await names() == ["New name"]


async def test_until_the_projection_has_caught_up_the_answer_is_503_not_401(database: Database) -> None:
    known: list[MerchantState] = []
    caught_up = False

    async def load() -> list[MerchantState]:
        return known

    async def reached() -> bool:
        return caught_up

    directory = MerchantDirectory(load, SystemClock(), caught_up=reached)
    async with serving(database, directory=directory) as running:
        status, answer, headers = await running.get("/v1/notes/ord_1", toy.KEYS[0])
        assert (status, json.loads(answer)["code"]) == (503, "unavailable")
        assert "retry-after" in headers
        known, caught_up = toy.states(), True
        deadline = time.monotonic() + 5
        while not directory.ready and time.monotonic() < deadline:
            await running.get("/v1/sleep?s=0.05")
        assert (await running.get("/v1/notes/ord_1", toy.KEYS[0]))[0] == 404


async def test_a_new_key_works_within_a_second_and_a_revoked_one_ends() -> None:
    known: list[MerchantState] = []
    reads = 0

    async def load() -> list[MerchantState]:
        nonlocal reads
        reads += 1
        return known

    clock = ManualClock(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    directory = MerchantDirectory(load, clock)
    for _ in range(100):
        assert await directory.authenticate(toy.KEYS[0]) is None
    assert reads == 1, "guessing keys must not become reading the database"
    known = toy.states()
    directory._read_at -= 1.1
    merchant = await directory.authenticate(toy.KEYS[0])
    assert merchant is not None
    assert merchant.merchant_id == toy.MERCHANTS[0]
    known = known[1:]
    await directory._reread(0)
    assert await directory.authenticate(toy.KEYS[0]) is None
