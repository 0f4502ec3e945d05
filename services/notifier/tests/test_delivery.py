"""From event to the merchant's endpoint on a real Postgres: told once, tried again, given up, recorded, announced."""

import asyncio
import datetime as dt
import time

import asyncpg
import msgspec
import pytest

from defray_kernel.clock import ManualClock, SystemClock
from defray_kernel.contracts.delivery_v1 import DeliveryDelivered
from defray_kernel.contracts.envelope import Event
from defray_kernel.db import Database
from defray_kernel.errors import Poison
from defray_kernel.ids import MerchantId, show, uuid7
from defray_kernel.testing.eventually import eventually
from defray_notifier.commands import record_attempts, tell_merchants
from defray_notifier.delivery.signing import Secrets
from defray_notifier.domain.delivery import Attempt, Claimed, DeliveryState, Result
from defray_notifier.store import deliveries, endpoints, messages
from tests.judges.run import ask

from .conftest import Receiver, delivering, subscribed
from .given import count, states, succeeded, tell


async def claim(database: Database, clock: ManualClock, limit: int = 100, endpoint_max: int = 100) -> list[Claimed]:
    async with database.transaction() as tx:
        return await deliveries.claim(
            tx, now=clock.now(), real=clock.real(), limit=limit, rooms={}, endpoint_max=endpoint_max
        )


async def test_an_event_reaches_each_endpoint_that_wants_it_signed_and_is_announced(
    database: Database, secrets: Secrets, receiver: Receiver
) -> None:
    clock = SystemClock()
    merchant = MerchantId(uuid7())
    one = await subscribed(database, secrets, f"{receiver.url}/one", merchant_id=merchant)
    await subscribed(database, secrets, f"{receiver.url}/orders", merchant_id=merchant, types=("order.paid.v1",))
    await subscribed(database, secrets, f"{receiver.url}/stranger")
    event = succeeded(merchant)
    await tell(database, clock, event)
    await tell(database, clock, event)
    async with delivering(database, secrets, clock):
        await eventually(lambda: count(database, "DELIVERED"), what="the delivery")
    [got] = receiver.received
    assert got.path == "/one"
    case = {"headers": got.headers, "body": got.body.decode(), "secret": one.secret}
    assert ask("standardwebhooks", "verify", [case]) == [{"accepted": True, "why": None}]
    assert msgspec.json.decode(got.body)["data"]["payment_id"] == event.subject
    async with database.read() as conn:
        [row] = await conn.fetch("SELECT * FROM outbox")
        [attempt] = await conn.fetch("SELECT * FROM attempt")
    told = msgspec.json.decode(row["payload"], type=DeliveryDelivered)
    assert told.message_id == got.headers["webhook-id"]
    assert (told.attempts, told.last_status, row["aggregate_seq"]) == (1, 204, 1)
    assert row["part_key"].decode() == show("end", one.endpoint.endpoint_id)
    assert event.correlation_id.encode() in row["headers"]
    assert (attempt["status"], attempt["state_after"]) == (204, "DELIVERED")


async def test_a_failing_receiver_gets_the_same_id_again_at_the_scheduled_time(
    database: Database, secrets: Secrets, receiver: Receiver
) -> None:
    clock = ManualClock(SystemClock().real())
    merchant = MerchantId(uuid7())
    await subscribed(database, secrets, f"{receiver.url}/flaky", merchant_id=merchant)
    receiver.answers["/flaky"] = [(500, {}), (503, {"Retry-After": "600"})]
    await tell(database, clock, succeeded(merchant))
    async with delivering(database, secrets, clock) as wake:
        for attempts, wait_s in ((1, 6), (2, 599)):
            await eventually(lambda n=attempts: _recorded(database, n), what=f"attempt {attempts}")  # type: ignore[misc]
            clock.advance(dt.timedelta(seconds=wait_s))
            wake.set()
        await asyncio.sleep(0.6)
        assert len(receiver.received) == 2, "Retry-After of 600 s was not honoured"
        clock.advance(dt.timedelta(seconds=2))
        await eventually(lambda: count(database, "DELIVERED"), what="the delivery")
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 1
    assert len({got.headers["webhook-timestamp"] for got in receiver.received}) == 3
    assert len({got.body for got in receiver.received}) == 1
    async with database.read() as conn:
        rows = await conn.fetch("SELECT attempt_no, status, reply, state_after FROM attempt ORDER BY attempt_no")
    assert [tuple(row) for row in rows] == [
        (1, 500, b"nope\x00", "PENDING"),
        (2, 503, b"nope\x00", "PENDING"),
        (3, 204, b"", "DELIVERED"),
    ]


async def _recorded(database: Database, attempts: int) -> bool:
    async with database.read() as conn:
        return bool(await conn.fetchval("SELECT count(*) FROM attempt") == attempts)


async def test_after_the_last_attempt_the_delivery_is_exhausted_and_told(
    database: Database, secrets: Secrets, clock: ManualClock, receiver: Receiver
) -> None:
    merchant = MerchantId(uuid7())
    await subscribed(database, secrets, f"{receiver.url}/dead", merchant_id=merchant)
    await tell(database, clock, succeeded(merchant))
    for attempt_no in range(1, 12):
        [claimed] = await claim(database, clock)
        assert claimed.attempt_no == attempt_no
        await record(database, clock, claimed, 500)
        assert await claim(database, clock) == []
        clock.advance(dt.timedelta(hours=27))
    assert await claim(database, clock) == []
    assert await count(database, "EXHAUSTED") == 1
    async with database.read() as conn:
        assert [row["event_type"] for row in await conn.fetch("SELECT event_type FROM outbox")] == [
            "delivery.exhausted.v1"
        ]


async def record(database: Database, clock: ManualClock, claimed: Claimed, status: int) -> DeliveryState:
    attempt = Attempt(
        claimed=claimed,
        result=Result.ACCEPTED if status < 300 else Result.GONE if status == 410 else Result.FAILED,
        at=clock.real(),
        duration_ms=1,
        status=status,
        error=None,
        reply=b"",
        retry_after=None,
        jitter_permille=0,
    )
    async with database.transaction() as tx:
        [state] = await record_attempts.handle([attempt], tx, clock)
    return state


async def test_410_disables_the_endpoint_and_what_else_was_due_there_is_given_up(
    database: Database, secrets: Secrets, receiver: Receiver
) -> None:
    clock = SystemClock()
    merchant = MerchantId(uuid7())
    gone = await subscribed(database, secrets, f"{receiver.url}/gone", merchant_id=merchant)
    kept = await subscribed(database, secrets, f"{receiver.url}/kept", merchant_id=merchant)
    receiver.answers["/gone"] = [(410, {})] * 10
    await tell(database, clock, *(succeeded(merchant) for _ in range(10)))
    async with delivering(database, secrets, clock, endpoint_in_flight_max=1) as wake:
        await eventually(lambda: _nothing_pending(database, wake), what="all settled")
    assert await states(database) == {
        gone.endpoint.endpoint_id: ("EXHAUSTED", 1),
        kept.endpoint.endpoint_id: ("DELIVERED", 1),
    }
    assert len(receiver.of("/gone")) == 1
    assert len(receiver.of("/kept")) == 10
    await tell(database, clock, succeeded(merchant))
    async with database.read() as conn:
        found = await endpoints.get(conn, merchant, gone.endpoint.endpoint_id)
        reasons = await conn.fetch("SELECT state, reason, version FROM endpoint_transition WHERE reason IS NOT NULL")
        assert (
            await conn.fetchval("SELECT count(*) FROM message WHERE endpoint_id = $1", gone.endpoint.endpoint_id) == 10
        )
    assert found is not None
    assert found.disabled_reason == "gone"
    assert [tuple(row) for row in reasons] == [("DISABLED", "gone", 2)]


async def _nothing_pending(database: Database, wake: asyncio.Event) -> bool:
    wake.set()
    return await count(database, "PENDING") == 0


@pytest.mark.alone
async def test_a_hanging_endpoint_with_a_backlog_does_not_delay_the_others(
    database: Database, secrets: Secrets, receiver: Receiver
) -> None:
    clock = SystemClock()
    dead, alive = MerchantId(uuid7()), MerchantId(uuid7())
    await subscribed(database, secrets, f"{receiver.url}/dead", merchant_id=dead)
    await subscribed(database, secrets, f"{receiver.url}/alive", merchant_id=alive)
    receiver.hang.add("/dead")
    await tell(database, clock, *(succeeded(dead) for _ in range(500)))
    async with delivering(database, secrets, clock, total_s=30, in_flight_max=32, endpoint_in_flight_max=8) as wake:
        await eventually(lambda: len(receiver.of("/dead")) == 8, what="the dead endpoint's limit")
        started = time.monotonic()
        await tell(database, clock, *(succeeded(alive) for _ in range(300)))
        wake.set()
        await eventually(lambda: _delivered(database, 300), what="the living")
        assert time.monotonic() - started < 5
        assert len(receiver.of("/dead")) == 8


async def _delivered(database: Database, wanted: int) -> bool:
    return await count(database, "DELIVERED") == wanted


async def test_what_a_dead_worker_had_claimed_is_taken_over_after_its_lease(
    database: Database, secrets: Secrets, clock: ManualClock
) -> None:
    merchant = MerchantId(uuid7())
    await subscribed(database, secrets, "http://127.0.0.1:1/", merchant_id=merchant)
    await tell(database, clock, succeeded(merchant))
    [first] = await claim(database, clock)
    assert await claim(database, clock) == []
    clock.advance(deliveries.LEASE)
    [second] = await claim(database, clock)
    assert (second.delivery_id, second.attempt_no) == (first.delivery_id, 2)
    # The first one was only slow: its outcome is logged, and moves nothing.
    assert await record(database, clock, first, 500) is DeliveryState.PENDING
    assert await claim(database, clock) == []
    assert await record(database, clock, second, 204) is DeliveryState.DELIVERED
    assert await record(database, clock, second, 204) is DeliveryState.PENDING
    async with database.read() as conn:
        rows = await conn.fetch("SELECT attempt_no, status, state_after FROM attempt ORDER BY attempt_no")
        assert await conn.fetchval("SELECT count(*) FROM outbox") == 1
    assert [tuple(row) for row in rows] == [(1, 500, "PENDING"), (2, 204, "DELIVERED")]
    assert await count(database, "DELIVERED") == 1


async def test_many_claimers_at_once_share_the_due_without_overlap(
    database: Database, secrets: Secrets, clock: ManualClock
) -> None:
    merchants = [MerchantId(uuid7()) for _ in range(4)]
    for merchant in merchants:
        await subscribed(database, secrets, "http://127.0.0.1:1/", merchant_id=merchant)
        await tell(database, clock, *(succeeded(merchant) for _ in range(50)))
    claims = await asyncio.gather(*(claim(database, clock, limit=30, endpoint_max=10) for _ in range(6)))
    taken = [each.delivery_id for batch in claims for each in batch]
    assert len(taken) == len(set(taken))
    assert all(len(batch) <= 30 for batch in claims)
    for batch in claims:
        for merchant in merchants:
            assert sum(each.merchant_id == merchant for each in batch) <= 10
    left = 1
    while left:
        batch = await claim(database, clock)
        left = len(batch)
        taken += [each.delivery_id for each in batch]
    assert len(taken) == len(set(taken)) == 200


async def test_an_event_that_names_no_merchant_is_poison(database: Database, clock: ManualClock) -> None:
    event = succeeded(MerchantId(uuid7()))
    nameless: Event[tell_merchants.Told] = msgspec.structs.replace(
        event, data=msgspec.structs.replace(event.data, merchant_id="x")
    )
    with pytest.raises(Poison):
        await tell(database, clock, nameless)


async def test_the_running_service_may_not_rewrite_what_was_told(database: Database) -> None:
    async with database.read() as conn:
        for change in (
            "UPDATE message SET payload = ''",
            "DELETE FROM message",
            "UPDATE attempt SET status = 200",
            "DELETE FROM attempt",
            "DELETE FROM delivery",
            "DELETE FROM endpoint_transition",
            "UPDATE endpoint SET url = 'x'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(change)


async def test_every_named_query_prepares_on_the_migrated_schema(database: Database) -> None:
    named = {**endpoints.Q.by_name, **{f"m {k}": v for k, v in messages.Q.by_name.items()}}
    named |= {f"d {k}": v for k, v in deliveries.Q.by_name.items()}
    async with database.read() as conn:
        for name, query in named.items():
            try:
                await conn.prepare(query)
            except asyncpg.PostgresError as error:
                raise AssertionError(name) from error
    assert len(named) > 12
