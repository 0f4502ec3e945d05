"""The audit log: appended under one head by many, and a verifier that finds every damage it promises to find."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import asyncpg
import pytest

from defray_kernel import audit
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database, ReadConn

if TYPE_CHECKING:
    from defray_sandbox.stack.provision import ProvisionedDatabase

ROWS = 60
DAMAGES = 1_000


async def fill(database: Database, rows: int) -> None:
    clock = SystemClock()

    async def act(number: int) -> None:
        async with database.transaction() as tx:
            await audit.append(
                tx,
                actor=f"alice-{number % 3}",
                action="parked.retry",
                subject=f"key-{number}",
                clock=clock,
                detail={"number": number, "note": "tea ☕", "api_key": "sk_test_" + "z" * 32},
            )

    await asyncio.gather(*(act(number) for number in range(rows)))


async def test_fifty_writers_leave_no_gap(database: Database) -> None:
    await fill(database, 50)
    async with database.read() as connection:
        assert await audit.verify(connection) == audit.Verdict(rows=50, broken_at=None)
        details = await connection.fetch("SELECT detail FROM audit_log")
    assert not any("sk_test" in row["detail"] for row in details)


async def test_the_runtime_role_can_only_append(database: Database) -> None:
    await fill(database, 1)
    async with database.read() as connection:
        for statement in (
            "UPDATE audit_log SET actor = 'x'",
            "DELETE FROM audit_log",
            "TRUNCATE audit_log",
            "DELETE FROM audit_head",
            "INSERT INTO audit_head (only_row, seq, hash) VALUES (false, 0, '')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def damage(connection: asyncpg.Connection[asyncpg.Record], dice: random.Random) -> str:
    kind = dice.choice(["edit", "delete", "swap", "truncate", "insert", "rehash", "head", "time"])
    seq = dice.randint(1, ROWS)
    match kind:
        case "edit":
            column = dice.choice(["actor", "action", "subject", "detail"])
            await connection.execute(f"UPDATE audit_log SET {column} = {column} || '.' WHERE seq = $1", seq)
        case "time":
            await connection.execute("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE seq = $1", seq)
        case "delete":
            await connection.execute("DELETE FROM audit_log WHERE seq = $1", seq)
        case "swap":
            other = seq % ROWS + 1
            for now, then in ((seq, 10**6), (other, seq), (10**6, other)):
                await connection.execute("UPDATE audit_log SET seq = $2 WHERE seq = $1", now, then)
        case "truncate":
            await connection.execute("DELETE FROM audit_log WHERE seq >= $1", seq)
        case "insert":
            await connection.execute("UPDATE audit_log SET seq = seq + 1000 WHERE seq >= $1", seq)
            await connection.execute("UPDATE audit_log SET seq = seq - 999 WHERE seq >= 1000")
            await connection.execute(
                "INSERT INTO audit_log SELECT $1, now(), 'x', 'x', 'x', '{}', sha256('x'::bytea)", seq
            )
        case "rehash":
            await connection.execute("UPDATE audit_log SET hash = sha256(hash) WHERE seq = $1", seq)
        case "head":
            await connection.execute("UPDATE audit_head SET seq = seq - 1")
    return f"{kind} at {seq}"


async def test_the_verifier_finds_a_thousand_damages(database: Database, migrated: ProvisionedDatabase) -> None:
    await fill(database, ROWS)
    dice = random.Random(20260101)
    owner = await asyncpg.connect(migrated.owner_dsn("payment"))
    for _ in range(DAMAGES):
        transaction = owner.transaction()
        await transaction.start()
        what = await damage(owner, dice)
        verdict = await audit.verify(ReadConn(owner))
        assert verdict.broken_at is not None, what
        await transaction.rollback()
    assert (await audit.verify(ReadConn(owner))).broken_at is None
    await owner.close()
