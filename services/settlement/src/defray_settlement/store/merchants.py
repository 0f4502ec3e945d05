"""The merchant registry's rows: merchants, their live keys, their fee rules, and how they moved."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId
from defray_kernel.sql import queries
from defray_settlement.domain.fees import FeeRule
from defray_settlement.domain.merchant import ApiKey, LateMoney, Merchant, MerchantStatus, Mode

Q = queries(__file__)

ANNOUNCE_AGAIN: Final = dt.timedelta(minutes=10)
"""After a change: a thawed relay may have sent an older record behind it, and compaction would keep that one."""
ANNOUNCE_DAILY: Final = dt.timedelta(days=1)
PAGE_MAX: Final = 200
MERCHANTS_MAX: Final = 100_000
_SINCE_EVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is asked for when a merchant is registered; `basis_points` is its first fee rule."""

    merchant_id: MerchantId
    name: str
    mode: Mode
    currencies: tuple[str, ...]
    late_money: LateMoney
    basis_points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One row of the merchant's log."""

    merchant: Merchant
    act: str
    actor: str
    at: dt.datetime
    correlation_id: str


async def register(tx: WriteTx, wishes: Sequence[Registration], now: dt.datetime, real: dt.datetime) -> set[UUID]:
    """Insert merchants whose names are free, each with version 1 of its fee rule; returns the ids that are new."""
    rows = await tx.fetch(
        Q.register,
        [wish.merchant_id for wish in wishes],
        [wish.name for wish in wishes],
        [wish.mode for wish in wishes],
        [",".join(wish.currencies) for wish in wishes],
        [wish.late_money for wish in wishes],
        now,
        real + ANNOUNCE_AGAIN,
    )
    new = {row["merchant_id"] for row in rows}
    rules = [wish for wish in wishes if wish.merchant_id in new]
    await tx.execute(
        Q.insert_fee_rules,
        [wish.merchant_id for wish in rules],
        [1] * len(rules),
        [wish.basis_points for wish in rules],
        [_SINCE_EVER] * len(rules),
    )
    return new


async def by_name(conn: ReadConn, names: Sequence[str]) -> dict[str, tuple[Merchant, int]]:
    """Merchants by name, each with the basis points of its first fee rule."""
    rows = await conn.fetch(Q.named, list(names))
    merchants = await _with_keys(conn, rows)
    return {merchant.name: (merchant, row["basis_points"]) for merchant, row in zip(merchants, rows, strict=True)}


async def lock(tx: WriteTx, merchant_ids: Sequence[MerchantId]) -> dict[MerchantId, Merchant]:
    """Lock merchants in id order and read them with their live keys."""
    merchants = await _with_keys(tx, await tx.fetch(Q.lock, list(merchant_ids)))
    return {merchant.merchant_id: merchant for merchant in merchants}


async def lock_to_announce(tx: WriteTx, real: dt.datetime, limit: int) -> list[Merchant]:
    """Lock merchants whose state is to be told again."""
    return await _with_keys(tx, await tx.fetch(Q.lock_to_announce, real, limit))


async def announced_again(tx: WriteTx, merchants: Sequence[Merchant], real: dt.datetime) -> None:
    """Move both counters of merchants that are told again, and the time of the next telling."""
    await tx.execute(Q.announced_again, [merchant.merchant_id for merchant in merchants], real + ANNOUNCE_DAILY)


async def revoked_among(tx: WriteTx, keys: Sequence[tuple[UUID, MerchantId]]) -> set[UUID]:
    """Which of these (key, merchant) pairs are keys revoked earlier."""
    rows = await tx.fetch(Q.revoked_among, [key for key, _ in keys], [merchant for _, merchant in keys])
    return {row["key_id"] for row in rows}


async def move(
    tx: WriteTx, before: Mapping[MerchantId, Merchant], after: Sequence[Merchant], now: dt.datetime, real: dt.datetime
) -> None:
    """Write moved merchants with the keys they gained and lost. The caller holds their locks since reading `before`."""
    revoked = [
        key.key_id
        for merchant in after
        for key in before[merchant.merchant_id].keys
        if key.key_id not in {kept.key_id for kept in merchant.keys}
    ]
    await tx.execute(Q.revoke_keys, revoked, now)
    gained = [
        (merchant.merchant_id, key)
        for merchant in after
        for key in merchant.keys
        if key not in before[merchant.merchant_id].keys
    ]
    await tx.execute(
        Q.insert_keys,
        [key.key_id for _, key in gained],
        [merchant_id for merchant_id, _ in gained],
        [key.slot for _, key in gained],
        [key.prefix for _, key in gained],
        [key.sha256 for _, key in gained],
        [",".join(key.scopes) for _, key in gained],
        [key.issued_at for _, key in gained],
    )
    moved = await tx.fetch(
        Q.move,
        [merchant.merchant_id for merchant in after],
        [merchant.status for merchant in after],
        [merchant.version for merchant in after],
        [merchant.event_seq for merchant in after],
        [merchant.changed_at for merchant in after],
        real + ANNOUNCE_AGAIN,
    )
    assert len(moved) == len(after), "a locked merchant moved"


async def log(tx: WriteTx, transitions: Sequence[Transition]) -> None:
    """Append to the merchants' logs."""
    await tx.execute(
        Q.log_transitions,
        [each.merchant.merchant_id for each in transitions],
        [each.merchant.version for each in transitions],
        [each.act for each in transitions],
        [each.merchant.status for each in transitions],
        [each.actor for each in transitions],
        [each.at for each in transitions],
        [each.correlation_id for each in transitions],
    )


async def page(conn: ReadConn, after: UUID | None, limit: int) -> list[Merchant]:
    """Registered merchants in id order, which is the order of registration."""
    assert 0 < limit <= PAGE_MAX
    return await _with_keys(conn, await conn.fetch(Q.page, after or _NO_ID, limit))


async def get(conn: ReadConn, merchant_id: UUID) -> Merchant | None:
    """One merchant, None when it is not registered."""
    merchants = await _with_keys(conn, await conn.fetch(Q.get, merchant_id))
    return merchants[0] if merchants else None


async def everyone(conn: ReadConn) -> list[Merchant]:
    """All merchants, for the directory that API keys are checked in."""
    return await _with_keys(conn, await conn.fetch(Q.page, _NO_ID, MERCHANTS_MAX))


async def fee_basis_points(conn: ReadConn, merchant_ids: Sequence[UUID], now: dt.datetime) -> dict[UUID, int]:
    """The fee in force at a time, by merchant."""
    rows = await conn.fetch(Q.fee_basis_points, list(merchant_ids), now)
    return {row["merchant_id"]: row["basis_points"] for row in rows}


async def fee_rules_at(conn: ReadConn, paid: Sequence[tuple[MerchantId, dt.datetime]]) -> list[FeeRule | None]:
    """The fee rule in force when each payment was made; None for a merchant that is not registered."""
    rows = await conn.fetch(Q.fee_rules_at, [merchant for merchant, _ in paid], [at for _, at in paid])
    found = {row["position"]: FeeRule(version=row["version"], basis_points=row["basis_points"]) for row in rows}
    return [found.get(position) for position in range(1, len(paid) + 1)]


async def _with_keys(conn: ReadConn, rows: Sequence[Record]) -> list[Merchant]:
    keys: dict[UUID, list[ApiKey]] = defaultdict(list)
    for row in await conn.fetch(Q.live_keys, [row["merchant_id"] for row in rows]):
        keys[row["merchant_id"]].append(
            ApiKey(
                key_id=row["key_id"],
                slot=row["slot"],
                prefix=row["prefix"],
                sha256=row["sha256"],
                scopes=tuple(row["scopes"]),
                issued_at=row["issued_at"],
            )
        )
    return [
        Merchant(
            merchant_id=MerchantId(row["merchant_id"]),
            name=row["name"],
            status=MerchantStatus(row["status"]),
            mode=row["mode"],
            currencies=tuple(row["currencies"]),
            late_money=row["late_money"],
            version=row["version"],
            event_seq=row["event_seq"],
            registered_at=row["registered_at"],
            changed_at=row["changed_at"],
            keys=tuple(keys[row["merchant_id"]]),
        )
        for row in rows
    ]
