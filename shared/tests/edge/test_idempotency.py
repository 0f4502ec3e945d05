"""Idempotency keys over HTTP and at the store: one effect, one answer, whoever repeats, whenever somebody dies."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from defray_kernel import idempotency, ids
from defray_kernel.clock import ManualClock, SystemClock
from defray_kernel.db import Database
from defray_kernel.idempotency import Answer, Claim, Fresh, Mismatch, Replay, Resume, Running
from shared.tests.edge import toy
from shared.tests.edge.conftest import Running as Service
from shared.tests.edge.test_bad_input import digest, note

if TYPE_CHECKING:
    from defray_sandbox.stack.provision import ProvisionedDatabase

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HASH = b"h" * 32


def wish(key: str = "k", *, mode: str = "decision", request: bytes = HASH, scope: str = "s") -> Claim:
    return Claim(scope=scope, key=key, request_hash=request, mode=mode, lease_s=30)  # type: ignore[arg-type]


async def test_fifty_twins_at_once_have_one_effect_and_one_answer(toy_service: Service) -> None:
    replies = await asyncio.gather(*(toy_service.post(note(), key="twin") for _ in range(50)))
    assert {status for status, _, _ in replies} == {201}
    assert len({body for _, body, _ in replies}) == 1
    fresh = [headers for _, _, headers in replies if "idempotency-replayed" not in headers]
    assert len(fresh) == 1
    assert await digest(toy_service.database) == (1, 1)


async def test_white_space_and_key_order_are_the_same_request_and_another_body_is_not(toy_service: Service) -> None:
    first = await toy_service.post(note(), key="same")
    reordered = b'{ "currency":"CNY",\n "amount_minor":100, "title":"tea" }'
    again = await toy_service.post(reordered, key="same")
    assert (again[0], again[1], again[2]["idempotency-replayed"]) == (201, first[1], "true")
    status, body, _ = await toy_service.post(note(amount_minor=101), key="same")
    assert (status, json.loads(body)["code"]) == (422, "idempotency_mismatch")
    assert await digest(toy_service.database) == (1, 1)


async def test_the_same_key_of_another_merchant_is_another_request(toy_service: Service) -> None:
    mine = await toy_service.post(note(), key="shared")
    theirs = await toy_service.post(note(title="coffee"), key="shared", api_key=toy.KEYS[1])
    assert (mine[0], theirs[0]) == (201, 201)
    assert "idempotency-replayed" not in theirs[2]
    assert await digest(toy_service.database) == (2, 2)


async def test_group_commit_answers_many_requests_in_few_transactions(
    toy_service: Service, migrated: ProvisionedDatabase
) -> None:
    admin = await asyncpg.connect(migrated.admin_dsn)
    before = await admin.fetchval("SELECT count(DISTINCT xmin::text) FROM payments.note")
    replies = await asyncio.gather(*(toy_service.post(note(), key=f"g-{n}") for n in range(300)))
    transactions = await admin.fetchval("SELECT count(DISTINCT xmin::text) FROM payments.note")
    await admin.close()
    assert {status for status, _, _ in replies} == {201}
    assert await digest(toy_service.database) == (300, 300)
    assert before == 0
    assert transactions < 100, "requests were not committed together"


async def test_a_twin_of_an_open_decision_waits_and_replays(database: Database) -> None:
    clock = SystemClock()
    claimed, go = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with database.transaction() as tx:
            assert await idempotency.claim(tx, [wish()], clock) == [Fresh()]
            claimed.set()
            await go.wait()
            await idempotency.finish(tx, [Answer(scope="s", key="k", status=201, body=b"done")])

    async def second() -> list[object]:
        await claimed.wait()
        async with database.transaction() as tx:
            return list(await idempotency.claim(tx, [wish(), wish("other")], clock))

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
        waiting = group.create_task(second())
        await claimed.wait()
        await asyncio.sleep(0.2)
        assert not waiting.done()
        go.set()
    assert waiting.result() == [Replay(status=201, body=b"done"), Fresh()]


async def test_a_twin_of_a_rolled_back_decision_is_fresh(database: Database) -> None:
    async def die() -> None:
        async with database.transaction() as tx:
            assert await idempotency.claim(tx, [wish()], SystemClock()) == [Fresh()]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await die()
    async with database.transaction() as tx:
        assert await idempotency.claim(tx, [wish()], SystemClock()) == [Fresh()]


async def test_a_conversation_holds_its_lease_and_is_resumed_after_a_crash(database: Database) -> None:
    clock = ManualClock(START)
    resource = ids.uuid7()
    async with database.transaction() as tx:
        assert await idempotency.claim(tx, [wish(mode="conversation")], clock) == [Fresh()]
        await idempotency.remember_resource(tx, [("s", "k", resource)])
    async with database.transaction() as tx:
        assert await idempotency.claim(tx, [wish(mode="conversation")], clock) == [Running(retry_after_s=31)]
        assert await idempotency.claim(tx, [wish(mode="conversation", request=b"x" * 32)], clock) == [Mismatch()]
    clock.advance(dt.timedelta(seconds=31))

    async def twin() -> object:
        async with database.transaction() as tx:
            return (await idempotency.claim(tx, [wish(mode="conversation")], clock))[0]

    outcomes = await asyncio.gather(*(twin() for _ in range(8)))
    assert outcomes.count(Resume(resource_id=resource)) == 1, "only one may go on"
    assert outcomes.count(Running(retry_after_s=31)) == 7
    async with database.transaction() as tx:
        await idempotency.finish(tx, [Answer(scope="s", key="k", status=202, body=b"qr")])
        await idempotency.finish(tx, [Answer(scope="s", key="k", status=500, body=b"late")])
    assert await twin() == Replay(status=202, body=b"qr")


async def test_batches_in_opposite_orders_do_not_deadlock(database: Database) -> None:
    async def batch(number: int) -> int:
        keys = [f"k{i}" for i in range(40)]
        async with database.transaction() as tx:
            claims = [wish(key) for key in (keys if number % 2 else reversed(keys))]
            outcomes = await idempotency.claim(tx, claims, SystemClock())
            await asyncio.sleep(0.01)
            fresh = [c for c, o in zip(claims, outcomes, strict=True) if isinstance(o, Fresh)]
            await idempotency.finish(tx, [Answer(scope=c.scope, key=c.key, status=200, body=b"") for c in fresh])
            return len(fresh)

    assert sum(await asyncio.gather(*(batch(number) for number in range(16)))) == 40


async def test_keys_are_forgotten_after_seven_days_and_not_before(database: Database) -> None:
    clock = ManualClock(START)
    timer = idempotency.purge_timer(clock)
    async with database.transaction() as tx:
        await idempotency.claim(tx, [wish(f"k{i}") for i in range(30)], clock)
    for after, left in ((dt.timedelta(days=6, hours=23), 30), (dt.timedelta(hours=2), 20)):
        clock.advance(after)
        async with database.transaction() as tx:
            await timer.claim(tx, clock.now(), 10)
        assert (await digest(database))[1] == left
