"""Late money that its order was reopened for, on a real Postgres: the same books whichever topic tells of it first."""

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest

from defray_kernel.clock import ManualClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import (
    PaymentDuplicate,
    PaymentPaidLate,
    PaymentSucceeded,
    RefundRequested,
    RefundSucceeded,
)
from defray_kernel.db import Database
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import MerchantId, show, uuid7
from defray_settlement.domain.merchant import Merchant
from defray_settlement.entrypoints import consumers

from .conftest import Service, registered
from .given import order_paid, paid, refund
from .test_ledger import announced, balances
from .test_refunds import minor

_TOPICS = ((consumers.PAYMENTS, consumers.lock_accounts), (consumers.ORDERS, consumers.lock_reopened))
LISTS = {each.event: (each.handle, lock) for topic, lock in _TOPICS for each in topic}


async def hear(database: Database, clock: ManualClock, event: Event[Any]) -> None:
    """As the consumer of its topic does."""
    handle, lock = LISTS[type(event.data)]
    async with database.transaction() as tx:
        await lock([event], tx)
        await handle([event], tx, clock)


def late(shop: Merchant, **changes: str) -> Event[PaymentPaidLate]:
    fields: dict[str, Any] = {"status": "PAID_LATE"} | changes
    return paid(PaymentPaidLate, shop, **fields)


async def books(database: Database, shop: Merchant) -> tuple[int, int, int, int]:
    """Clearing, suspense, what the merchant has to get (as a credit) and the fee."""
    held = await minor(database)
    pending = f"{show('mer', shop.merchant_id)}:pending:CNY"
    return (
        held.get("wechat:clearing:CNY", 0), held.get("wechat:CNY", 0), held.get(pending, 0), held.get("fee_income:CNY", 0),
    )  # fmt: skip


@pytest.mark.parametrize("first", ["payment", "order"])
async def test_late_money_that_is_kept_ends_with_the_merchant_less_the_fee(
    database: Database, clock: ManualClock, first: str
) -> None:
    shop = await registered(database, clock, "Shop")
    payment = late(shop)
    told: list[Event[Any]] = [payment, order_paid(payment)]
    for event in told if first == "payment" else reversed(told):
        await hear(database, clock, event)
    assert await books(database, shop) == (19_900, 0, -19_781, -119)
    before = await balances(database), await announced(database)
    for event in (*told, *reversed(told)):
        await hear(database, clock, event)
    assert (await balances(database), await announced(database)) == before


async def test_one_that_was_not_reopened_stays_in_suspense(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = late(shop)
    await hear(database, clock, payment)
    # Another order is reopened; this one was paid in time, and tells nothing new.
    await hear(database, clock, order_paid(payment, reopened=False))
    await hear(database, clock, order_paid(late(shop)))
    assert await books(database, shop) == (19_900, -19_900, 0, 0)


async def test_of_two_late_payments_only_the_one_that_is_kept_leaves_suspense(
    database: Database, clock: ManualClock
) -> None:
    shop = await registered(database, clock, "Shop")
    one, other = late(shop), late(shop)
    other = msgspec.structs.replace(other, data=msgspec.structs.replace(other.data, order_id=one.data.order_id))
    told: list[Event[Any]] = [one, order_paid(other), other]
    for event in told:
        await hear(database, clock, event)
    assert await books(database, shop) == (39_800, -19_900, -19_781, -119)


async def test_refunds_of_it_are_the_merchant_s(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = late(shop)
    part = refund(RefundSucceeded, payment, amount=5_000)
    rest = refund(RefundSucceeded, payment, amount=14_900)
    told: list[Event[Any]] = [order_paid(payment), payment, part, rest, part]
    for event in told:
        await hear(database, clock, event)
    assert await books(database, shop) == (0, 0, 119, -119)


@pytest.mark.parametrize("basis_points", [60, 0, 10_000])
@pytest.mark.parametrize("amounts", [(5_000,), (19_900,), (5_000, 14_900)])
async def test_the_books_are_the_same_in_every_order_of_arrival(
    database: Database, clock: ManualClock, basis_points: int, amounts: tuple[int, ...]
) -> None:
    """The orders' topic may be far behind: a refund can come before it is known that the money was kept."""
    shops, expected = [], set()
    for number, place in enumerate(range(len(amounts) + 2)):
        shop = await registered(database, clock, f"Shop {number}", basis_points)
        shops.append(shop)
        payment = late(shop, channel=f"channel{number}")
        events: list[Event[Any]] = [payment, *(refund(RefundSucceeded, payment, amount=each) for each in amounts)]
        events.insert(place, order_paid(payment))
        for event in (*events, *events):
            await hear(database, clock, event)
        held = await minor(database)
        expected.add((
            held[f"channel{number}:clearing:CNY"],
            held[f"channel{number}:CNY"],
            held.get(f"{show('mer', shop.merchant_id)}:pending:CNY", 0),
        ))  # fmt: skip
    fee, gone = (19_900 * basis_points + 5_000) // 10_000, sum(amounts)
    assert expected == {(19_900 - gone, 0, gone + fee - 19_900)}
    assert (await minor(database)).get("fee_income:CNY", 0) == -fee * len(shops)


async def test_money_of_a_wrong_amount_beside_it_stays_apart(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = late(shop)
    wrong: dict[str, Any] = {"reason": "mismatch", "refund_id": show("rfd", uuid7())}
    asked = refund(RefundRequested, payment, amount=700, status="REQUESTED", done_at=None, **wrong)
    back = refund(RefundSucceeded, payment, amount=700, **wrong)
    told: list[Event[Any]] = [payment, asked, back, order_paid(payment), asked, back]
    for event in told:
        await hear(database, clock, event)
    assert await books(database, shop) == (19_900, 0, -19_781, -119)


async def test_what_the_two_topics_disagree_about_is_poison(database: Database, clock: ManualClock) -> None:
    shop, other = await registered(database, clock, "Shop"), await registered(database, clock, "Other")
    wrong: list[dict[str, Any]] = [
        {"amount_minor": 19_901}, {"currency": "JPY"}, {"merchant_id": show("mer", other.merchant_id)},
    ]  # fmt: skip
    for changes in wrong:
        for turn in (1, -1):
            payment = late(shop)
            told: list[Event[Any]] = [payment, order_paid(payment, **changes)]
            first, second = told[::turn]
            await hear(database, clock, first)
            with pytest.raises(Poison):
                await hear(database, clock, second)
    payment = late(shop)
    await hear(database, clock, order_paid(payment))
    wrong = [{"payment_id": show("pay", uuid7())}, {"payment_id": None}, {"order_id": "ord_1"}]
    for changes in wrong:
        again = order_paid(payment)
        with pytest.raises(Poison):
            await hear(
                database, clock, msgspec.structs.replace(again, data=msgspec.structs.replace(again.data, **changes))
            )
    assert (await minor(database))["wechat:CNY"] == -3 * 19_900


async def test_an_unknown_merchant_s_is_tried_later(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = late(dataclasses.replace(shop, merchant_id=MerchantId(uuid7())))
    await hear(database, clock, order_paid(payment))
    with pytest.raises(RetryLater):
        await hear(database, clock, payment)
    assert await balances(database) == {}


async def test_both_topics_and_refunds_at_once_end_in_the_same_books(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payments = [late(shop) for _ in range(20)]
    # Money of other kinds keeps the same accounts busy.
    others: list[Event[Any]] = [paid((PaymentSucceeded, PaymentDuplicate)[n % 2], shop) for n in range(20)]
    backs: list[Event[Any]] = [refund(RefundSucceeded, payment, amount=100) for payment in payments]

    async def all_of(batch: list[Event[Any]]) -> None:
        _, lock = LISTS[type(batch[0].data)]
        while True:
            try:
                async with database.transaction() as tx:
                    await lock(batch, tx)
                    for event in batch:
                        await LISTS[type(event.data)][0]([event], tx, clock)
            except RetryLater:
                await asyncio.sleep(0.01)
                continue
            return

    told: list[Event[Any]] = [order_paid(payment) for payment in payments]
    work: list[list[Event[Any]]] = [
        told[:10],
        told[10:][::-1],
        [*payments[:10], *others[:10]],
        [*others[10:], *payments[10:]],
    ]
    work += [backs[5:15], backs[:5], backs[15:][::-1], told[5:15]]
    async with asyncio.TaskGroup() as tasks:
        for batch in [*work, *work[::-1]]:
            tasks.create_task(all_of(batch))
    gross, fees = 30 * 19_900, 30 * 119
    assert await books(database, shop) == (40 * 19_900 - 2_000, -10 * 19_900, fees + 2_000 - gross, -fees)


async def test_the_merchant_sees_that_it_was_kept(service: Service, clock: ManualClock) -> None:
    merchant, key = await service.merchant_with_key("Shop", ["ledger:read"])
    shop = await registered(service.database, clock, "Another")
    payment = late(shop, merchant_id=merchant["merchant_id"])
    told: list[Event[Any]] = [payment, refund(RefundSucceeded, payment, amount=5_000), order_paid(payment)]
    for event in told:
        await hear(service.database, clock, event)
    status, body = await service.ask(f"/v1/ledger/entries?payment_id={payment.data.payment_id}", key=key)
    assert status == 200
    shown = {each["kind"]: (each["gross_minor"], each["fee_minor"], each["net_minor"]) for each in body["data"]}
    assert shown == {
        "paid_late": (19_900, 0, 0), "returned": (5_000, 0, 0), "reopened": (19_900, 119, 14_781),
    }  # fmt: skip
    [kept] = [each for each in body["data"] if each["kind"] == "reopened"]
    assert (kept["explanation"]["returned_minor"], kept["refund_id"]) == (5_000, None)
    assert kept["correlation_id"] == payment.correlation_id
