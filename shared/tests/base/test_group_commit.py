"""Group commit on a real Postgres: overlapping flushers, one bad command, a lost COMMIT, a server that is away."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from defray_kernel.clock import Clock, SystemClock
from defray_kernel.db import Database, WriteTx
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_kernel.testing.proxy import CommitCutter, Cut

if TYPE_CHECKING:
    from defray_sandbox.stack.provision import ProvisionedDatabase

SECONDS = float(os.environ.get("DEFRAY_OVERLAP_SECONDS", "30"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Move one unit between two of a few hot accounts, once per number."""

    number: str
    accounts: tuple[int, int]


async def transfer(commands: Sequence[Transfer], tx: WriteTx, _: Clock) -> list[str]:
    """A handler in the house's form: natural keys first, then accounts in id order, sums applied once."""
    if any(command.number == "poison" for command in commands):
        raise ValueError("poison")
    numbers = sorted(command.number for command in commands)
    new = {
        row["number"]
        for row in await tx.fetch(
            "INSERT INTO transfer SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING number", numbers
        )
    }
    sums: dict[int, int] = {}
    for command in commands:
        if command.number in new:
            for account, delta in zip(command.accounts, (1, -1), strict=True):
                sums[account] = sums.get(account, 0) + delta
    touched = sorted(sums)
    await tx.fetch("SELECT id FROM account WHERE id = ANY($1) ORDER BY id FOR UPDATE", touched)
    await tx.execute(
        "UPDATE account SET balance = balance + d, moves = moves + 1 FROM unnest($1::int[], $2::int[]) AS s(i, d) WHERE id = i",
        touched,
        [sums[account] for account in touched],
    )
    return ["done" if command.number in new else "repeated" for command in commands]


@pytest.fixture
async def dsn(fresh_database: ProvisionedDatabase) -> str:
    owner = await asyncpg.connect(fresh_database.owner_dsn("payment"))
    await owner.execute(
        """CREATE TABLE transfer (number text PRIMARY KEY);
           CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL DEFAULT 0, moves int NOT NULL DEFAULT 0);
           INSERT INTO account SELECT generate_series(1, 8);
           GRANT SELECT, INSERT, UPDATE ON transfer, account TO defray_payment"""
    )
    await owner.close()
    return fresh_database.dsn("payment")


@asynccontextmanager
async def running(database: Database, **options: object) -> AsyncIterator[GroupCommit[Transfer, str]]:
    arguments: dict[str, Any] = {"keys": lambda command: [command.number], "natural_key": True} | options
    group = GroupCommit("transfer", database, transfer, SystemClock(), **arguments)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run())
        yield group
        await group.stop()


async def facts(dsn: str) -> tuple[int, int]:
    connection = await asyncpg.connect(dsn)
    try:
        transfers = await connection.fetchval("SELECT count(*) FROM transfer")
        balance = await connection.fetchval("SELECT coalesce(sum(balance), 0) FROM account")
        return transfers, balance
    finally:
        await connection.close()


@pytest.mark.alone
async def test_overlapping_flushers_never_deadlock_outwards_nor_apply_a_twin_twice(dsn: str) -> None:
    """Four held connections of two processes' worth of groups, hot accounts, every command sent by both as twins."""
    done: list[str] = []
    deadline = time.monotonic() + SECONDS

    async def caller(groups: Sequence[GroupCommit[Transfer, str]], seed: int) -> int:
        chance, made = random.Random(seed), 0
        while time.monotonic() < deadline:
            number = f"{seed}-{made}"
            one, other = chance.sample(range(1, 9), 2)
            twin = Transfer(number=number, accounts=(one, other))
            answers = await asyncio.gather(*(group.submit(twin) for group in groups))
            assert sorted(answers) == ["done", "repeated"]
            done.append(number)
            made += 1
        return made

    async with (
        Database.open(dsn) as database,
        running(database) as first,
        running(database) as second,
        asyncio.TaskGroup() as callers,
    ):
        for seed in range(60):
            callers.create_task(caller((first, second), seed))
    print(f"{len(done)} twins through 4 connections in {SECONDS:.0f} s")
    assert len(done) > 100 * SECONDS
    assert await facts(dsn) == (len(set(done)), 0)
    assert len(set(done)) == len(done)


async def test_a_bad_command_fails_alone(dsn: str) -> None:
    async with Database.open(dsn) as database, running(database, connections=1) as group:
        commands = [Transfer(number=f"n{i}", accounts=(1, 2)) for i in range(150)]
        commands[77] = Transfer(number="poison", accounts=(1, 2))
        answers = await asyncio.gather(*(group.submit(c) for c in commands), return_exceptions=True)
    assert isinstance(answers[77], ValueError)
    assert [a for i, a in enumerate(answers) if i != 77] == ["done"] * 149
    assert await facts(dsn) == (149, 0)


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_commit_whose_answer_is_lost_is_run_again_under_its_natural_key(dsn: str, cut: Cut) -> None:
    async with proxied(dsn) as (cutter, through), Database.open(through) as database, running(database) as group:
        await group.submit(Transfer(number="warm", accounts=(1, 2)))
        cutter.arm(cut)
        answers = await asyncio.gather(*(group.submit(Transfer(number=f"c{i}", accounts=(3, 4))) for i in range(20)))
        assert cutter.cuts == 1
        # Where the COMMIT had reached the server the second run finds its own first result: still one effect each.
        assert set(answers) <= {"done", "repeated"}
    assert await facts(dsn) == (21, 0)


@pytest.mark.parametrize("cut", list(Cut))
async def test_without_a_natural_key_a_lost_answer_is_unknown_and_never_failed(dsn: str, cut: Cut) -> None:
    async with (
        proxied(dsn) as (cutter, through),
        Database.open(through) as database,
        running(database, natural_key=False) as group,
    ):
        cutter.arm(cut)
        with pytest.raises(OutcomeUnknown):
            await group.submit(Transfer(number="once", accounts=(1, 2)))
        assert await group.submit(Transfer(number="next", accounts=(1, 2))) == "done"
    assert await facts(dsn) == ({Cut.BEFORE_COMMIT: 1, Cut.AFTER_COMMIT: 2}[cut], 0)


async def test_a_server_that_is_away_is_unavailable_not_an_error(unused_tcp_port: int) -> None:
    async with Database.open(f"postgresql://u:p@127.0.0.1:{unused_tcp_port}/d") as database, running(database) as group:
        with pytest.raises(Unavailable):
            await group.submit(Transfer(number="x", accounts=(1, 2)))


async def test_a_full_queue_refuses_at_once(dsn: str) -> None:
    async with Database.open(dsn) as database, running(database, queue_max=10, connections=1) as group:
        commands = [Transfer(number=f"q{i}", accounts=(1, 2)) for i in range(50)]
        answers = await asyncio.gather(*(group.submit(c) for c in commands), return_exceptions=True)
    assert answers.count("done") == 10
    assert sum(isinstance(a, Overloaded) for a in answers) == 40
    assert await facts(dsn) == (10, 0)


async def test_ids_are_resolved_for_a_batch_before_rounds_are_cut(dsn: str) -> None:
    seen: list[int] = []

    async def resolve(commands: Sequence[Transfer], _: object) -> Sequence[Transfer]:
        seen.append(len(commands))
        return [Transfer(number=command.number.lower(), accounts=command.accounts) for command in commands]

    async with Database.open(dsn) as database, running(database, resolve=resolve, connections=1) as group:
        numbers = ["A", "a", "B", "b"]
        answers = await asyncio.gather(*(group.submit(Transfer(number=n, accounts=(1, 2))) for n in numbers))
    assert answers == ["done", "repeated", "done", "repeated"]
    assert seen == [4]
    assert await facts(dsn) == (2, 0)


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[tuple[CommitCutter, str]]:
    url = urlsplit(dsn)
    async with CommitCutter(url.hostname or "", url.port or 0).serve() as cutter:
        netloc = url.netloc.replace(f":{url.port}", f":{cutter.port}")
        yield cutter, url._replace(netloc=netloc).geturl()


@pytest.fixture
def unused_tcp_port(unused_tcp_port_factory: Callable[[], int]) -> int:
    return unused_tcp_port_factory()
