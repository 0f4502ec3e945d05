"""The schema keeps what may never be, every named query prepares, and the running role cannot rewrite history."""

import asyncio
import datetime as dt

import asyncpg
import pytest
from msgspec.structs import replace

from defray_kernel import migrate
from defray_kernel.db import Database
from defray_kernel.ids import PaymentId, uuid7
from defray_kernel.sql import all_queries
from defray_payment import wiring
from defray_payment.domain.attempt import AttemptStatus
from defray_payment.domain.payment import Payment, PaymentStatus
from defray_payment.store import attempts, callbacks, cases, payables, payments
from defray_payment.store.payments import PaymentMove
from defray_sandbox.stack.provision import ProvisionedDatabase

from .given import NOW, attempt, payment, terms


async def test_migrating_again_changes_nothing(migrated: ProvisionedDatabase) -> None:
    again = await migrate.apply(
        migrated.owner_dsn("payment"), directories=wiring.MIGRATIONS, runtime_role="defray_payment"
    )
    assert again == []


async def test_every_named_query_prepares(database: Database) -> None:
    own = {payables.Q.path, payments.Q.path, attempts.Q.path, callbacks.Q.path, cases.Q.path}
    loaded = {
        queries.path: queries
        for queries in all_queries()
        if "services" not in queries.path.parts or "payment" in queries.path.parts
    }
    assert own <= set(loaded)
    failed = []
    async with database.read() as conn:
        for queries in loaded.values():
            for name, text in queries.by_name.items():
                try:
                    await conn.prepare(text)
                except asyncpg.PostgresError as error:
                    failed.append(f"{queries.path.name} {name}: {error}")
    assert failed == [], "\n".join(failed)


async def kept(database: Database, one: Payment, status: AttemptStatus = AttemptStatus.OPEN) -> Payment:
    """Write a payment with its payable and attempt."""
    order = terms(order_id=one.order_id, merchant_id=one.merchant_id)
    async with database.transaction() as tx:
        await payables.ensure(tx, [order], NOW)
        await payments.insert(tx, [one], "test", NOW)
        await attempts.insert(tx, [attempt(one, status)], NOW)
    return one


async def test_what_was_written_is_read(database: Database) -> None:
    one = await kept(database, payment())
    async with database.transaction() as tx:
        found = await payments.of_attempts(tx, [(one.attempt_no, "wechat", "T1")])
        assert found[one.attempt_no].payment == one
        assert found[one.attempt_no].attempt == attempt(one)
        assert await payments.of_order(tx, one.order_id) == list(found.values())
        assert (await payments.by_ids(tx, [one.payment_id, uuid7()])).keys() == {one.payment_id}
        assert await payments.live_of_orders(tx, [one.order_id]) == list(found.values())
        assert await attempts.orders_of(tx, [one.attempt_no, "X"]) == {one.attempt_no: one.order_id}


async def test_concurrent_moves_have_one_winner(database: Database) -> None:
    one = await kept(database, payment())

    async def move(to: PaymentStatus) -> bool:
        after = replace(one, status=to, event_seq=2, version=2, failure_code="channel_refused")
        try:
            async with database.transaction() as tx:
                await payments.move(tx, [PaymentMove(before=one, after=after, cause="test")], NOW)
        except AssertionError:
            return False
        return True

    won = await asyncio.gather(*(move(to) for to in [PaymentStatus.FAILED, PaymentStatus.CLOSED] * 4))
    assert won.count(True) == 1


def paid(one: Payment, txn: str) -> Payment:
    return replace(one, status=PaymentStatus.SUCCEEDED, channel_txn_id=txn, paid_at=NOW, event_seq=2, version=2)


async def test_what_may_never_be_is_refused_by_the_database(database: Database) -> None:
    one = await kept(database, payment())
    other = await kept(database, payment())
    with pytest.raises(asyncpg.UniqueViolationError, match="payment_one_live"):
        await kept(database, payment(order_id=one.order_id, merchant_id=one.merchant_id))
    second = await kept(database, payment(order_id=one.order_id, merchant_id=one.merchant_id, product="jsapi"))
    async with database.transaction() as tx:
        await payments.move(tx, [PaymentMove(before=one, after=paid(one, "T1"), cause="test")], NOW)
    with pytest.raises(asyncpg.UniqueViolationError, match="payment_one_success"):
        async with database.transaction() as tx:
            await payments.move(tx, [PaymentMove(before=second, after=paid(second, "T2"), cause="test")], NOW)
    with pytest.raises(asyncpg.UniqueViolationError, match="payment_channel_txn"):
        async with database.transaction() as tx:
            await payments.move(tx, [PaymentMove(before=other, after=paid(other, "T1"), cause="test")], NOW)
    with pytest.raises(asyncpg.CheckViolationError):
        async with database.transaction() as tx:
            await tx.execute("UPDATE payment SET status = 'SUCCEEDED' WHERE payment_id = $1", other.payment_id)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("callback", "attempt_no"),
        ("evidence", "verdict"),
        ("payment_transition", "cause"),
        ("payable_transition", "cause"),
        ("exception_case", "cause"),
    ],
)
async def test_history_is_append_only_for_the_running_role(database: Database, table: str, column: str) -> None:
    for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET {column} = 'x'"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.transaction() as tx:
                await tx.execute(statement)


async def test_due_attempts_are_claimed_once_under_a_lease(database: Database) -> None:
    made = [await kept(database, payment()) for _ in range(5)]
    lease_until = NOW + dt.timedelta(seconds=60)

    async def claim() -> list[str]:
        async with database.transaction() as tx:
            rows = await attempts.claim_due(tx, NOW, lease_until, 3)
            await asyncio.sleep(0.05)
            return [row["attempt_no"] for row in rows]

    first, second = await asyncio.gather(claim(), claim())
    assert sorted(first + second) == sorted(one.attempt_no for one in made)
    assert await claim() == []
    async with database.transaction() as tx:
        again = await attempts.claim_due(tx, lease_until, lease_until + dt.timedelta(seconds=60), 10)
    assert {payments.found_of(row).attempt.query_count for row in again} == {2}
    assert {payments.found_of(row).payment.payment_id for row in again} == {PaymentId(one.payment_id) for one in made}
