"""How orders end on a real schema: asked by three and by the clock, raced with their money, cancelled before they came."""

import asyncio
import datetime as dt
from collections import Counter
from typing import Literal

import pytest

from defray_kernel.clock import ManualClock
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, OrderId, uuid7
from defray_kernel.timers import run_once
from defray_order.commands import cancel_order, expire_orders
from defray_order.commands.place_order import Cancelled, Outcome
from defray_order.commands.told import Told
from defray_order.entrypoints.timers import expiry_timer
from defray_order.store import orders

from .given import NOW
from .living import by_number, cancel, closed, place, wish, wished
from .test_reports import CLOCK, event, history, mark_paid, payment, placed, reasons, state, told


@pytest.mark.parametrize("by", ["merchant", "customer", "system"])
async def test_a_cancel_is_asked_once_and_told_with_its_asker(database: Database, by: cancel_order.By) -> None:
    order_id = await placed(database)
    for _ in range(3):
        (outcome,) = await cancel(database, wish(order_id, by, reason="changed my mind"))
        assert isinstance(outcome, cancel_order.Asked)
        assert (outcome.order.state, outcome.order.closing_reason) == ("CLOSING", by)
    assert await told(database) == [("order.placed.v1", 1), ("order.closing.v1", 2)]
    await closed(database, order_id, by)
    (outcome,) = await cancel(database, wish(order_id, by))
    assert isinstance(outcome, cancel_order.Asked)
    assert (await state(database, order_id), await reasons(database)) == ("CANCELLED", [])
    assert (await history(database, order_id))[1:] == [
        ("PLACED", "CLOSING", "cancel_asked"),
        ("CLOSING", "CANCELLED", "payable_cancelled"),
    ]


async def test_a_paid_order_is_not_cancelled_and_nothing_is_opened_for_it(database: Database) -> None:
    order_id = await placed(database)
    await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))
    (outcome,) = await cancel(database, wish(order_id))
    assert isinstance(outcome, cancel_order.Refused)
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])


async def test_what_belongs_to_others_or_is_not_there_is_unknown(database: Database) -> None:
    order_id = await placed(database)
    strangers = [
        wish(order_id, merchant_id=MerchantId(uuid7())),
        wish(OrderId(uuid7())),
        by_number("never", tombstone_currency=None),
    ]
    for each in strangers:
        assert await cancel(database, each) == [cancel_order.Unknown()]
    assert (await state(database, order_id), len(await told(database))) == ("PLACED", 1)


@pytest.mark.parametrize("first", ["paid", "asked"])
async def test_cancel_and_payment_whichever_comes_first_the_money_decides(
    database: Database, first: Literal["paid", "asked"]
) -> None:
    order_id = await placed(database)
    paid = event(payment(v1.PaymentSucceeded, order_id))
    if first == "paid":
        await mark_paid(database, paid)
    (outcome,) = await cancel(database, wish(order_id))
    assert isinstance(outcome, cancel_order.Refused if first == "paid" else cancel_order.Asked)
    await mark_paid(database, paid)
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])


async def test_cancels_expiry_and_payments_raced_on_real_locks_leave_every_order_paid_once(database: Database) -> None:
    ids = [await placed(database) for _ in range(24)]
    late = ManualClock(NOW + dt.timedelta(hours=3))

    async def expire() -> None:
        await run_once(database, expiry_timer(late, lambda: None), late)

    async def pay(order_id: OrderId) -> None:
        await mark_paid(database, event(payment(v1.PaymentSucceeded, order_id)))

    work = [pay(each) for each in ids] + [cancel(database, wish(each)) for each in ids] + [expire() for _ in range(6)]
    await asyncio.gather(*work)
    assert {await state(database, each) for each in ids} == {"PAID"}
    kinds = Counter(kind for kind, _ in await told(database))
    assert (kinds["order.placed.v1"], kinds["order.paid.v1"]) == (24, 24)
    assert await reasons(database) == []


async def test_a_cancel_that_comes_before_its_order_keeps_it_from_life(database: Database) -> None:
    for _ in range(2):
        (outcome,) = await cancel(database, by_number("no-1", reason="never mind"))
        assert isinstance(outcome, cancel_order.Asked)
        assert (outcome.order.state, outcome.order.total.minor, outcome.order.items) == ("CANCELLED", 0, ())
    refused, other = await place(database, wished("no-1"), wished("no-2"))
    assert (refused, isinstance(other, Told)) == (Cancelled(), True)
    assert await place(database, wished("no-1")) == [Cancelled()]
    assert Counter(await told(database)) == Counter([("order.cancelled.v1", 1), ("order.placed.v1", 1)])


async def test_a_cancel_by_number_ends_the_order_that_is_there(database: Database) -> None:
    (done,) = await place(database, wished("no-1"))
    assert isinstance(done, Told)
    (outcome,) = await cancel(database, by_number("no-1"))
    assert isinstance(outcome, cancel_order.Asked)
    assert (outcome.order.state, outcome.order.total.minor) == ("CLOSING", 300)


async def test_an_order_and_its_cancel_at_once_end_in_one_of_two_ways(database: Database) -> None:
    async def both(number: str) -> tuple[Outcome, cancel_order.Outcome]:
        (done,), (ended,) = await asyncio.gather(place(database, wished(number)), cancel(database, by_number(number)))
        return done, ended

    results = await asyncio.gather(*(both(f"no-{n}") for n in range(40)))
    ways = set()
    for done, ended in results:
        assert isinstance(ended, cancel_order.Asked)
        ways.add((type(done), ended.order.state))
    assert ways <= {(Told, "CLOSING"), (Cancelled, "CANCELLED")}
    async with database.read() as conn:
        alive = await conn.fetchval("SELECT count(*) FROM orders WHERE state NOT IN ('CLOSING', 'CANCELLED')")
        assert (await conn.fetchval("SELECT count(*) FROM orders"), alive) == (40, 0)


async def expire(database: Database, clock: ManualClock) -> int:
    return await run_once(database, expiry_timer(clock, lambda: None), clock)


async def test_orders_expire_when_their_time_is_up_and_not_before(database: Database) -> None:
    ids = [await placed(database) for _ in range(5)]
    await mark_paid(database, event(payment(v1.PaymentSucceeded, ids[0])))
    await cancel(database, wish(ids[1]))
    clock = ManualClock(NOW + dt.timedelta(hours=2, microseconds=-1))
    assert await expire(database, clock) == 0
    clock.advance(dt.timedelta(microseconds=1))
    assert await expire(database, clock) == 3
    assert await expire(database, clock) == 0
    assert [await state(database, each) for each in ids] == ["PAID", "CLOSING", "CLOSING", "CLOSING", "CLOSING"]
    assert (await history(database, ids[2]))[1:] == [("PLACED", "CLOSING", "expiry_due")]
    async with database.read() as conn:
        asked = await orders.get(conn, ids)
    assert [asked[each].closing_reason for each in ids[1:]] == ["merchant", "expired", "expired", "expired"]


async def test_many_are_taken_in_batches_by_several_workers_each_once(database: Database) -> None:
    for _ in range(3):
        await place(database, *(wished(uuid7().hex) for _ in range(150)))
    clock = ManualClock(NOW + dt.timedelta(days=1))
    done = 0
    while taken := sum(await asyncio.gather(*(expire(database, clock) for _ in range(4)))):
        done += taken
    assert done == 450
    assert Counter(kind for kind, _ in await told(database)) == {"order.placed.v1": 450, "order.closing.v1": 450}


async def test_an_order_that_somebody_works_on_is_left_for_the_next_look(database: Database) -> None:
    held, free = await placed(database), await placed(database)
    async with database.transaction() as tx:
        await orders.lock(tx, [held])
        async with database.transaction() as other:
            late = NOW + dt.timedelta(hours=2)
            assert await expire_orders.handle(late, other, CLOCK, limit=10) == [free]
    assert (await state(database, held), await state(database, free)) == ("PLACED", "CLOSING")


@pytest.mark.parametrize("first", ["paid", "due"])
async def test_expiry_and_payment_whichever_comes_first_the_money_decides(
    database: Database, first: Literal["paid", "due"]
) -> None:
    order_id = await placed(database)
    clock = ManualClock(NOW + dt.timedelta(hours=2))
    paid = event(payment(v1.PaymentSucceeded, order_id))
    if first == "paid":
        await mark_paid(database, paid)
    await expire(database, clock)
    assert await state(database, order_id) == ("PAID" if first == "paid" else "CLOSING")
    await mark_paid(database, paid)
    assert (await state(database, order_id), await reasons(database)) == ("PAID", [])
