"""The merchant registry on a real Postgres, and every named query on the migrated schema."""

import asyncio
import datetime as dt
import hashlib

import asyncpg
import msgspec

from defray_kernel import audit
from defray_kernel.clock import ManualClock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, uuid7
from defray_settlement.commands import announce_merchants, change_merchant
from defray_settlement.commands.change_merchant import Changed, ChangeMerchant
from defray_settlement.domain.merchant import (
    Act,
    Disable,
    IssueKey,
    Merchant,
    Refusal,
    Refused,
    Resume,
    RevokeKey,
    Suspend,
)
from defray_settlement.store import ledger, merchants

from .conftest import registered


def issue() -> IssueKey:
    key_id = uuid7()
    digest = hashlib.sha256(key_id.bytes).digest()
    return IssueKey(key_id=key_id, prefix="sk_test_abcdef", sha256=digest, scopes=("orders:read", "orders:write"))


async def change(database: Database, clock: ManualClock, merchant_id: MerchantId, act: Act) -> change_merchant.Outcome:
    command = ChangeMerchant(merchant_id=merchant_id, act=act, actor="op", cause=Cause(correlation_id="c"))
    async with database.transaction() as tx:
        [outcome] = await change_merchant.handle([command], tx, clock)
    return outcome


async def announced(database: Database) -> list[tuple[int, MerchantState]]:
    async with database.read() as conn:
        rows = await conn.fetch(
            "SELECT aggregate_seq, payload FROM outbox WHERE event_type = 'merchant.state.v1' ORDER BY id"
        )
    return [(row["aggregate_seq"], msgspec.json.decode(row["payload"], type=MerchantState)) for row in rows]


async def reread(database: Database, merchant: Merchant) -> Merchant:
    async with database.read() as conn:
        found = await merchants.get(conn, merchant.merchant_id)
    assert found is not None
    return found


async def test_each_change_is_announced_logged_and_audited(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    key = issue()
    await change(database, clock, shop.merchant_id, key)
    await change(database, clock, shop.merchant_id, RevokeKey(key_id=key.key_id))
    await change(database, clock, shop.merchant_id, Disable())
    states = await announced(database)
    assert [sequence for sequence, _ in states] == [1, 2, 3, 4]
    assert [len(state.api_keys) for _, state in states] == [0, 1, 0, 0]
    assert states[1][1].api_keys[0].sha256 == key.sha256.hex()
    assert states[-1][1].status == "DISABLED"
    async with database.read() as conn:
        acts = await conn.fetch("SELECT act, version FROM merchant_transition ORDER BY version")
        verdict = await audit.verify(conn)
        actions = [row["action"] for row in await conn.fetch("SELECT action FROM audit_log ORDER BY seq")]
    assert [tuple(row) for row in acts] == [("register", 1), ("issue_key", 2), ("revoke_key", 3), ("disable", 4)]
    assert verdict.broken_at is None
    assert actions == ["merchant.register", "merchant.issue_key", "merchant.revoke_key", "merchant.disable"]


async def test_a_suspended_merchant_is_told_of_and_keeps_its_keys(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    for act in (issue(), Suspend(), issue(), Resume()):
        assert isinstance(await change(database, clock, shop.merchant_id, act), Changed)
    states = [state for _, state in await announced(database)]
    assert [(state.status, state.suspended, len(state.api_keys)) for state in states] == [
        ("ACTIVE", False, 0),
        ("ACTIVE", False, 1),
        ("ACTIVE", True, 1),
        ("ACTIVE", True, 2),
        ("ACTIVE", False, 2),
    ]


async def test_the_same_act_again_changes_nothing(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    key = issue()
    for act in (key, key, RevokeKey(key_id=key.key_id), RevokeKey(key_id=key.key_id), Disable(), Disable()):
        outcome = await change(database, clock, shop.merchant_id, act)
        assert isinstance(outcome, Changed)
    assert (await reread(database, shop)).version == 4
    assert len(await announced(database)) == 4


async def test_of_ten_keys_issued_at_once_two_live(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    outcomes = await asyncio.gather(*(change(database, clock, shop.merchant_id, issue()) for _ in range(10)))
    assert sum(isinstance(each, Changed) for each in outcomes) == 2
    assert sum(each == Refused(reason=Refusal.TOO_MANY_KEYS) for each in outcomes) == 8
    assert sorted(key.slot for key in (await reread(database, shop)).keys) == [1, 2]


async def test_a_key_of_another_merchant_cannot_be_revoked(database: Database, clock: ManualClock) -> None:
    one, other = await registered(database, clock, "One"), await registered(database, clock, "Other")
    key = issue()
    await change(database, clock, one.merchant_id, key)
    for _ in range(2):
        assert await change(database, clock, other.merchant_id, RevokeKey(key_id=key.key_id)) == Refused(
            reason=Refusal.KEY_UNKNOWN
        )
        await change(database, clock, one.merchant_id, RevokeKey(key_id=key.key_id))
    assert await change(database, clock, MerchantId(uuid7()), Disable()) == "unknown"


async def test_a_state_is_told_again_after_ten_minutes_and_then_daily(database: Database, clock: ManualClock) -> None:
    await registered(database, clock, "Shop")
    told = []
    for minutes in (9, 1, 60, 24 * 60 - 61, 1, 24 * 60):
        clock.advance(dt.timedelta(minutes=minutes))
        async with database.transaction() as tx:
            told.append(await announce_merchants.handle(tx, clock, 100))
    assert told == [0, 1, 0, 0, 1, 1]
    states = await announced(database)
    assert [sequence for sequence, _ in states] == [1, 2, 3, 4]
    assert len({msgspec.json.encode(state) for _, state in states}) == 1


async def test_every_named_query_prepares_on_the_migrated_schema(database: Database) -> None:
    async with database.read() as conn:
        for query in (*merchants.Q.by_name.values(), *ledger.Q.by_name.values()):
            try:
                await conn.prepare(query)
            except asyncpg.PostgresError as error:
                raise AssertionError(query) from error
    assert len(merchants.Q.by_name) > 10
