"""Rows of webhook endpoints, their sealed secrets and how they moved."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from asyncpg import Record

from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import EndpointId, MerchantId
from defray_kernel.sql import queries
from defray_notifier.domain.endpoint import DisabledReason, Endpoint, EndpointState

Q = queries(__file__)

PAGE_MAX: Final = 100


async def lock_merchants(tx: WriteTx, merchant_ids: Sequence[MerchantId]) -> None:
    """Hold other adders off these merchants until the end of the transaction; merchants have no row here to lock."""
    await tx.execute(Q.lock_merchants, list(merchant_ids))


async def enabled_of(conn: ReadConn, merchant_ids: Sequence[MerchantId]) -> list[Endpoint]:
    """Enabled endpoints of these merchants."""
    return [_endpoint(row) for row in await conn.fetch(Q.enabled_of, list(merchant_ids))]


async def insert(tx: WriteTx, endpoints: Sequence[Endpoint], sealed: Sequence[bytes], now: dt.datetime) -> None:
    """Add endpoints with their first secrets."""
    await tx.execute(
        Q.insert,
        [endpoint.endpoint_id for endpoint in endpoints],
        [endpoint.merchant_id for endpoint in endpoints],
        [endpoint.slot for endpoint in endpoints],
        [endpoint.url for endpoint in endpoints],
        [",".join(endpoint.event_types) for endpoint in endpoints],
        [endpoint.created_at for endpoint in endpoints],
    )
    await tx.execute(Q.insert_secrets, [endpoint.endpoint_id for endpoint in endpoints], list(sealed), now)


async def log(
    tx: WriteTx,
    moves: Sequence[tuple[EndpointId, int, EndpointState, DisabledReason | None, Cause]],
    now: dt.datetime,
) -> None:
    """Append to the endpoints' logs: (endpoint, version, state, reason, cause)."""
    await tx.execute(
        Q.log_transitions,
        [endpoint_id for endpoint_id, *_ in moves],
        [version for _, version, *_ in moves],
        [state for _, _, state, _, _ in moves],
        [reason for _, _, _, reason, _ in moves],
        now,
        [cause.correlation_id for *_, cause in moves],
        [cause.causation_id for *_, cause in moves],
    )


async def disable(
    tx: WriteTx, causes: Mapping[EndpointId, Cause], reason: DisabledReason, now: dt.datetime
) -> set[EndpointId]:
    """Disable and log those that are enabled, in id order; returns which were."""
    rows = await tx.fetch(Q.disable, list(causes), reason)
    moves = [
        (
            EndpointId(row["endpoint_id"]),
            int(row["version"]),
            EndpointState.DISABLED,
            reason,
            causes[row["endpoint_id"]],
        )
        for row in rows
    ]
    if moves:
        await log(tx, moves, now)
    return {endpoint_id for endpoint_id, *_ in moves}


async def page(conn: ReadConn, merchant_id: MerchantId, after: UUID, limit: int) -> list[Endpoint]:
    """A merchant's endpoints, oldest first."""
    assert 0 < limit <= PAGE_MAX
    return [_endpoint(row) for row in await conn.fetch(Q.page, merchant_id, after, limit)]


async def get(conn: ReadConn, merchant_id: MerchantId, endpoint_id: UUID) -> Endpoint | None:
    """One endpoint of this merchant; None for another's."""
    row = await conn.fetchrow(Q.get, merchant_id, endpoint_id)
    return None if row is None else _endpoint(row)


def _endpoint(row: Record) -> Endpoint:
    return Endpoint(
        endpoint_id=EndpointId(row["endpoint_id"]),
        merchant_id=MerchantId(row["merchant_id"]),
        slot=row["slot"],
        url=row["url"],
        event_types=tuple(row["event_types"]),
        state=EndpointState(row["state"]),
        disabled_reason=DisabledReason(row["disabled_reason"]) if row["disabled_reason"] else None,
        version=row["version"],
        created_at=row["created_at"],
    )
