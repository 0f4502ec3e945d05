"""The accounts' rows: few, read whole every few seconds, changed by operators under compare-and-set."""

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId
from defray_kernel.sql import queries
from defray_payment.domain.channel_account import AccountStatus, HeldAccount

Q = queries(__file__)

ACCOUNTS_MAX: Final = 10_000


async def read_all(conn: ReadConn) -> list[HeldAccount]:
    """All accounts, oldest first, at most ACCOUNTS_MAX."""
    return [_account(row) for row in await conn.fetch(Q.read_all, ACCOUNTS_MAX)]


async def stamps(conn: ReadConn) -> Sequence[tuple[UUID, int]]:
    """Id and version of each account: what tells whether anything has changed."""
    return [(row["account_id"], row["version"]) for row in await conn.fetch(Q.stamps, ACCOUNTS_MAX)]


async def insert(tx: WriteTx, account: HeldAccount, at: dt.datetime) -> bool:
    """Add an account; False when the channel's account is known already, or the merchant has an active one there."""
    return (
        await tx.fetchval(
            Q.insert,
            account.account_id,
            account.channel,
            account.merchant_id,
            account.merchant_ref,
            account.app_ref,
            account.base_url,
            account.status,
            account.secrets_sealed,
            account.seed_digest,
            at,
        )
        is not None
    )


async def change(tx: WriteTx, account: HeldAccount, at: dt.datetime) -> bool:
    """Write new keys, address or status over the version that was read; False when it has moved on."""
    return (
        await tx.fetchval(
            Q.change,
            account.account_id,
            account.version,
            account.base_url,
            account.status,
            account.secrets_sealed,
            account.seed_digest,
            at,
        )
        is not None
    )


def _account(row: Record) -> HeldAccount:
    return HeldAccount(
        account_id=row["account_id"],
        channel=row["channel"],
        merchant_id=None if row["merchant_id"] is None else MerchantId(row["merchant_id"]),
        merchant_ref=row["merchant_ref"],
        app_ref=row["app_ref"],
        base_url=row["base_url"],
        status=AccountStatus(row["status"]),
        secrets_sealed=row["secrets_sealed"],
        seed_digest=row["seed_digest"],
        version=row["version"],
    )
