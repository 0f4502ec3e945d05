"""Posting on a real Postgres: once, balanced, in account order, and never changed."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
import pytest

from defray_kernel.clock import ManualClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.ledger_v1 import AccountPosted
from defray_kernel.contracts.payment_v1 import PaymentDuplicate, PaymentPaidLate, PaymentSucceeded
from defray_kernel.db import Database, ReadConn
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import MerchantId, show, uuid7
from defray_sandbox.stack.provision import ProvisionedDatabase
from defray_settlement.commands import post_payments
from defray_settlement.entrypoints import consumers
from defray_settlement.store import ledger

from .conftest import registered
from .given import paid


async def post(database: Database, clock: ManualClock, events: Sequence[Event[Any]]) -> None:
    async with database.transaction() as tx:
        await consumers.lock_accounts(events, tx)
        await post_payments.handle(events, tx, clock)


async def balances(database: Database) -> dict[str, tuple[int, int]]:
    async with database.read() as conn:
        rows = await conn.fetch("SELECT account_id, balance_minor, sequence FROM account")
    return {row["account_id"]: (row["balance_minor"], row["sequence"]) for row in rows}


async def announced(database: Database) -> list[AccountPosted]:
    async with database.read() as conn:
        rows = await conn.fetch("SELECT payload FROM outbox WHERE event_type = 'account.posted.v1' ORDER BY lane, id")
    return [msgspec.json.decode(row["payload"], type=AccountPosted) for row in rows]


async def test_a_batch_moves_each_account_once_and_announces_it_once(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    events = [paid(PaymentSucceeded, shop) for _ in range(50)]
    await post(database, clock, events)
    pending = f"merchant:{show('mer', shop.merchant_id)}:pending:CNY"
    assert await balances(database) == {
        "channel:wechat:clearing:CNY": (50 * 19_900, 1),
        pending: (-50 * 19_781, 1),
        "platform:fee_income:CNY": (-50 * 119, 1),
    }
    posted = {each.account_id: each for each in await announced(database)}
    assert len(posted) == 3
    assert posted[pending].delta_minor == posted[pending].balance_minor == -50 * 19_781
    assert len(set(posted[pending].entry_ids)) == 50
    async with database.read() as conn:
        books = await ledger.verify(conn)
    assert books.balanced


async def test_the_same_event_again_changes_nothing(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    first, second = paid(PaymentSucceeded, shop), paid(PaymentSucceeded, shop)
    await post(database, clock, [first])
    before, told = await balances(database), await announced(database)
    await post(database, clock, [first])
    assert await balances(database) == before
    assert await announced(database) == told
    await post(database, clock, [first, second])
    assert (await balances(database))["channel:wechat:clearing:CNY"] == (2 * 19_900, 2)


async def test_a_repeat_with_another_amount_is_poison(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    first = paid(PaymentSucceeded, shop)
    await post(database, clock, [first])
    other = msgspec.structs.replace(first, data=msgspec.structs.replace(first.data, amount_minor=1, paid_minor=1))
    with pytest.raises(Poison, match="other content"):
        await post(database, clock, [other])
    assert (await balances(database))["channel:wechat:clearing:CNY"] == (19_900, 1)


async def test_late_and_duplicate_money_waits_in_suspense(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    await post(database, clock, [paid(PaymentPaidLate, shop, status="PAID_LATE", paid_minor=5)])
    await post(database, clock, [paid(PaymentDuplicate, shop, status="DUPLICATE")])
    assert await balances(database) == {
        "channel:wechat:clearing:CNY": (19_905, 2),
        "suspense:wechat:CNY": (-19_905, 2),
    }


async def test_an_unknown_merchant_is_tried_later_and_opens_no_account(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    stranger = dataclasses.replace(shop, merchant_id=MerchantId(uuid7()))
    with pytest.raises(RetryLater):
        await post(database, clock, [paid(PaymentSucceeded, shop), paid(PaymentSucceeded, stranger)])
    assert await balances(database) == {}


async def test_what_contradicts_itself_is_poison_and_spares_the_batch_lock(
    database: Database, clock: ManualClock
) -> None:
    shop = await registered(database, clock, "Shop")
    for changes in (
        {"payment_id": "pay_x"},
        {"currency": "XXX"},
        {"channel": "a:b"},
        {"paid_minor": 19_899},
        {"paid_minor": 0},
    ):
        event = paid(PaymentSucceeded, shop, **changes)
        async with database.transaction() as tx:
            await consumers.lock_accounts([event], tx)
        with pytest.raises(Poison):
            await post(database, clock, [event])


async def test_overlapping_batches_in_any_order_leave_gap_free_sequences(
    database: Database, clock: ManualClock
) -> None:
    shops = [await registered(database, clock, f"Shop {n}") for n in range(5)]
    batches = [[paid(PaymentSucceeded, shops[(n + i) % 5]) for i in range(5)] for n in range(12)]
    # Each batch comes twice, at once: one of each pair finds the other's entries.
    async with asyncio.TaskGroup() as tasks:
        for batch in [*batches, *batches]:
            tasks.create_task(post(database, clock, batch))
    assert (await balances(database))["channel:wechat:clearing:CNY"] == (60 * 19_900, 12)
    sequences: dict[str, list[int]] = {}
    for each in await announced(database):
        sequences.setdefault(each.account_id, []).append(each.balance_minor)
    async with database.read() as conn:
        rows = await conn.fetch(
            "SELECT aggregate_id, aggregate_seq FROM outbox WHERE topic LIKE '%ledger%' ORDER BY lane, id"
        )
        books = await ledger.verify(conn)
    numbers: dict[str, list[int]] = {}
    for row in rows:
        numbers.setdefault(row["aggregate_id"], []).append(row["aggregate_seq"])
    assert all(each == list(range(1, len(each) + 1)) for each in numbers.values())
    assert books.balanced


async def test_the_running_service_may_not_rewrite_history(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    await post(database, clock, [paid(PaymentSucceeded, shop)])
    async with database.read() as conn:
        for change in (
            "UPDATE entry SET gross_minor = 1",
            "DELETE FROM entry",
            "UPDATE posting SET amount_minor = 1",
            "DELETE FROM posting",
            "TRUNCATE posting",
            "UPDATE fee_rule SET basis_points = 0",
            "DELETE FROM merchant_transition",
            "DELETE FROM account",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(change)
        assert (await ledger.verify(conn)).balanced


async def test_an_entry_whose_legs_do_not_add_up_cannot_commit(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    await post(database, clock, [paid(PaymentSucceeded, shop)])
    with pytest.raises(asyncpg.CheckViolationError, match="not balanced"):
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO entry SELECT gen_random_uuid(), source, kind, gen_random_uuid(), merchant_id, order_id, currency,"
                " gross_minor, fee_minor, explanation, legs, paid_at, effective_on, posted_at, correlation_id FROM entry"
            )


async def test_a_leg_cannot_be_added_to_an_entry_afterwards(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    await post(database, clock, [paid(PaymentSucceeded, shop)])
    with pytest.raises(asyncpg.CheckViolationError):
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO posting SELECT entry_id, 4, legs, account_id, currency, 5, 1 FROM posting WHERE leg = 1"
            )


DAMAGES = {
    "UPDATE account SET balance_minor = balance_minor + 1 WHERE owner = 'channel'": {"unexplained", "totals"},
    "UPDATE posting SET amount_minor = amount_minor + 1 WHERE leg = 1": {"unexplained", "unbalanced"},
    "DELETE FROM posting WHERE leg = 2": {"unexplained", "unbalanced"},
    "UPDATE posting SET account_sequence = 9 WHERE leg = 1": {"unexplained"},
    "UPDATE account SET balance_minor = balance_minor - 7 WHERE owner = 'platform'": {"unexplained", "totals"},
}


async def test_each_damage_to_the_books_is_found(
    migrated: ProvisionedDatabase, database: Database, clock: ManualClock
) -> None:
    shop = await registered(database, clock, "Shop")
    await post(database, clock, [paid(PaymentSucceeded, shop)])
    found = {}
    owner = await asyncpg.connect(migrated.owner_dsn("settlement"))
    try:
        for damage in DAMAGES:
            transaction = owner.transaction()
            await transaction.start()
            await owner.execute(damage)
            books = await ledger.verify(ReadConn(owner))
            assert not books.balanced
            even = all(row["debit_minor"] == row["credit_minor"] for row in books.totals)
            checks = {"totals": not even, "unexplained": books.unexplained, "unbalanced": books.unbalanced}
            found[damage] = {name for name, finding in checks.items() if finding}
            await transaction.rollback()
    finally:
        await owner.close()
    assert found == DAMAGES
