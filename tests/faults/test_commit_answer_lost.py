"""The answer to COMMIT is lost: work is run again only under a natural key, else its outcome is unknown, never failed."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from defray_kernel import migrate
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_order import wiring
from defray_order.commands import place_order
from defray_sandbox.stack.provision import ProvisionedDatabase
from services.order.tests.running import Service, order_body, running
from tests.faults.commit_proxy import CommitProxy, Lose

pytestmark = pytest.mark.alone

ROWS = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM order_transition), (SELECT count(*) FROM outbox)"


@asynccontextmanager
async def behind_proxy(made: ProvisionedDatabase, *, natural_key: bool) -> AsyncIterator[tuple[Service, CommitProxy]]:
    """The order service with every connection of its through the proxy."""
    await migrate.apply(made.owner_dsn("order"), directories=wiring.MIGRATIONS, runtime_role="defray_order")
    async with CommitProxy(made.dsn("order")).listening() as proxy, Database.open(proxy.dsn) as database:
        clock = SystemClock()
        placing = wiring.placing(database, clock, after_commit=None)
        if not natural_key:
            placing = GroupCommit(
                "unrepeatable", database, place_order.handle, clock, keys=place_order.serial_keys, natural_key=False
            )
        async with running(database, placing) as service:
            yield service, proxy


async def rows(service: Service) -> tuple[int, ...]:
    async with service.database.read() as conn:
        found = await conn.fetchrow(ROWS)
    assert found is not None
    return tuple(found)


@pytest.mark.parametrize("what", Lose)
async def test_under_its_natural_key_an_order_is_placed_once(fresh_database: ProvisionedDatabase, what: Lose) -> None:
    async with behind_proxy(fresh_database, natural_key=True) as (service, proxy):
        proxy.lose(what, times=3)
        answer = await service.place(order_body("no-1"), key="k-1")
        assert (answer.status, proxy.lost) == (201, 3)
        assert await rows(service) == (1, 1, 1)
        again = await service.place(order_body("no-1"), key="k-1")
        assert (again.status, again.body) == (201, answer.body)


@pytest.mark.parametrize("what", Lose)
async def test_a_batch_is_placed_once_each(fresh_database: ProvisionedDatabase, what: Lose) -> None:
    async with behind_proxy(fresh_database, natural_key=True) as (service, proxy):
        proxy.lose(what, times=4)
        answers = await asyncio.gather(*(service.place(order_body(f"no-{n % 40}")) for n in range(80)))
        assert Counter(answer.status for answer in answers) == {201: 40, 200: 40}
        assert proxy.lost == 4
        assert await rows(service) == (40, 40, 40)


@pytest.mark.parametrize(("what", "done"), [(Lose.ANSWER, 1), (Lose.COMMIT, 0)])
async def test_without_one_the_outcome_is_unknown_and_never_failed(
    fresh_database: ProvisionedDatabase, what: Lose, done: int
) -> None:
    async with behind_proxy(fresh_database, natural_key=False) as (service, proxy):
        proxy.lose(what, times=1)
        answer = await service.place(order_body("no-1"), key="k-1")
        assert (answer.status, answer.body["code"]) == (503, "outcome_unknown")
        assert "Retry-After" in answer.headers
        assert await rows(service) == (done, done, done)
        # What the reply asks for: the same request with the same key finds or makes the one order.
        assert (await service.place(order_body("no-1"), key="k-1")).status == 201
        assert await rows(service) == (1, 1, 1)


@pytest.mark.parametrize("what", Lose)
async def test_a_database_that_never_answers_leaves_the_outcome_unknown(
    fresh_database: ProvisionedDatabase, what: Lose
) -> None:
    async with behind_proxy(fresh_database, natural_key=True) as (service, proxy):
        proxy.lose(what, times=1_000)
        answer = await service.place(order_body("no-1"), key="k-1")
        assert (answer.status, answer.body["code"]) == (503, "outcome_unknown")
        proxy.lose(what, times=0)
        assert (await service.place(order_body("no-1"), key="k-1")).status == 201
        assert await rows(service) == (1, 1, 1)
