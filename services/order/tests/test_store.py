"""The schema keeps what may never be, every named query prepares, and the running role cannot rewrite history."""

import asyncio
import importlib
from typing import Any

import asyncpg
import msgspec
import pytest

from defray_kernel import migrate
from defray_kernel.db import Database
from defray_kernel.sql import all_queries
from defray_order import wiring
from defray_order.domain.order import OrderState
from defray_order.store import orders
from defray_sandbox.stack.provision import ProvisionedDatabase

from .given import NOW, PAYMENT, order


async def test_migrating_again_changes_nothing(migrated: ProvisionedDatabase) -> None:
    again = await migrate.apply(migrated.owner_dsn("order"), directories=wiring.MIGRATIONS, runtime_role="defray_order")
    assert again == []


async def test_every_named_query_prepares(database: Database) -> None:
    folder = orders.Q.path.parent
    for path in folder.glob("*.sql"):
        importlib.import_module(f"defray_order.store.{path.stem}")
    # Other services' queries may be loaded in the same test process; they belong to other schemas.
    loaded = [queries for queries in all_queries() if queries.path.parent == folder]
    assert {queries.path for queries in loaded} == set(folder.glob("*.sql"))
    failed = []
    async with database.read() as conn:
        for queries in loaded:
            for name, text in queries.by_name.items():
                try:
                    await conn.prepare(text)
                except asyncpg.PostgresError as error:
                    failed.append(f"{queries.path.name} {name}: {error}")
    assert failed == [], "\n".join(failed)


async def test_an_order_is_read_as_it_was_written(database: Database) -> None:
    written = [order(OrderState.PLACED), msgspec.structs.replace(order(OrderState.PLACED), merchant_order_no="no-2")]
    written = [msgspec.structs.replace(each, version=1, event_seq=1, closing_reason=None) for each in written]
    async with database.transaction() as tx:
        assert await orders.insert(tx, written, [bytes(32)] * 2) == {each.order_id for each in written}
    async with database.read() as conn:
        assert await orders.get(conn, [each.order_id for each in written]) == {each.order_id: each for each in written}


async def test_concurrent_moves_have_one_winner(database: Database) -> None:
    placed = msgspec.structs.replace(order(OrderState.PLACED), version=1, event_seq=1)
    async with database.transaction() as tx:
        await orders.insert(tx, [placed], [bytes(32)])
    moved = msgspec.structs.replace(
        placed, state=OrderState.PAID, version=2, event_seq=2, paid_at=placed.placed_at, payment_id=PAYMENT
    )

    async def move() -> bool:
        try:
            async with database.transaction() as tx:
                await orders.move(tx, [moved])
        except orders.MovedByAnother:
            return False
        return True

    assert sorted(await asyncio.gather(*(move() for _ in range(6)))) == [False] * 5 + [True]


FORBIDDEN = (
    "DELETE FROM orders",
    "UPDATE orders SET amount_minor = 1",
    "UPDATE order_item SET quantity = 1",
    "DELETE FROM order_transition",
    "UPDATE order_transition SET to_state = 'PAID'",
    "DELETE FROM exception_case",
    "UPDATE exception_case SET reason = 'none'",
    "SELECT * FROM payments.payment",
)


async def test_the_running_role_cannot_rewrite_history_nor_look_elsewhere(database: Database) -> None:
    async with database.read() as conn:
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                await conn.execute(statement)


IMPOSSIBLE: tuple[dict[str, Any], ...] = (
    {"state": OrderState.PAID},  # paid without a time
    {"paid_at": NOW},  # a time without being paid
    {"state": OrderState.PAID, "paid_at": NOW},  # money without a payment
    {"state": OrderState.CANCELLED, "closing_reason": None},
    {"expires_at": NOW},
    {"version": 0},
    {"event_seq": 2},
    {"merchant_order_no": "x" * 65},
    {"state": OrderState.REFUNDED, "paid_at": NOW, "payment_id": PAYMENT},  # refunded without a sum
)


async def test_what_may_never_be_is_refused(database: Database) -> None:
    placed = msgspec.structs.replace(order(OrderState.PLACED), version=1, event_seq=1)
    for change in IMPOSSIBLE:
        with pytest.raises(asyncpg.CheckViolationError):
            async with database.transaction() as tx:
                await orders.insert(tx, [msgspec.structs.replace(placed, **change)], [bytes(32)])
