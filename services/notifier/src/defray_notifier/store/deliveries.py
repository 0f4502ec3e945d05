"""Rows of deliveries and attempts: claimed in batches, fair over endpoints, and moved by compare-and-set."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from defray_kernel.db import WriteTx
from defray_kernel.ids import DeliveryId, EndpointId, MerchantId, MessageId
from defray_kernel.sql import queries
from defray_notifier.domain.delivery import Attempt, Claimed, DeliveryState, Moved
from defray_notifier.domain.endpoint import EndpointState
from defray_notifier.store.endpoints import Q as ENDPOINTS

Q = queries(__file__)

LEASE: Final = dt.timedelta(seconds=30)
"""Longer than an attempt may take (20 s with looking up the address) and its recording may wait; of real time."""


async def claim(
    tx: WriteTx,
    *,
    now: dt.datetime,
    real: dt.datetime,
    limit: int,
    rooms: Mapping[UUID, int],
    endpoint_max: int,
) -> list[Claimed]:
    """Lease due deliveries, at most `limit`, at most `endpoint_max` of one endpoint or what `rooms` leaves to it."""
    rows = await tx.fetch(Q.claim, now, real, limit, list(rooms), list(rooms.values()), endpoint_max, real + LEASE)
    if not rows:
        return []
    messages = {
        row["message_id"]: row for row in await tx.fetch(Q.messages_to_send, [row["message_id"] for row in rows])
    }
    endpoints = {
        row["endpoint_id"]: row for row in await tx.fetch(ENDPOINTS.to_send, list({row["endpoint_id"] for row in rows}))
    }
    claimed = []
    for row in rows:
        message, endpoint = messages[row["message_id"]], endpoints[row["endpoint_id"]]
        claimed.append(
            Claimed(
                delivery_id=DeliveryId(row["delivery_id"]),
                message_id=MessageId(row["message_id"]),
                endpoint_id=EndpointId(row["endpoint_id"]),
                merchant_id=MerchantId(message["merchant_id"]),
                event_id=message["event_id"],
                event_type=message["event_type"],
                correlation_id=message["correlation_id"],
                attempt_no=row["attempts"],
                version=row["version"],
                payload=message["payload"],
                url=endpoint["url"],
                enabled=endpoint["state"] == EndpointState.ENABLED,
                sealed=tuple(endpoint["sealed"]),
            )
        )
    return claimed


async def move(tx: WriteTx, moves: Sequence[tuple[Attempt, Moved]]) -> set[UUID]:
    """Write the outcome of attempts; returns the deliveries that moved. One claimed again meanwhile stays as it is."""
    ordered = sorted(moves, key=lambda each: each[0].claimed.delivery_id)
    rows = await tx.fetch(
        Q.move,
        [attempt.claimed.delivery_id for attempt, _ in ordered],
        [attempt.claimed.version for attempt, _ in ordered],
        [moved.state for _, moved in ordered],
        [moved.next_at for _, moved in ordered],
        [attempt.status for attempt, _ in ordered],
    )
    return {row["delivery_id"] for row in rows}


async def insert_attempts(tx: WriteTx, attempts: Sequence[tuple[Attempt, DeliveryState]]) -> None:
    """Append to the deliveries' logs what was tried and the state it left."""
    await tx.execute(
        Q.insert_attempts,
        [attempt.claimed.delivery_id for attempt, _ in attempts],
        [attempt.claimed.attempt_no for attempt, _ in attempts],
        [attempt.at for attempt, _ in attempts],
        [attempt.duration_ms for attempt, _ in attempts],
        [attempt.status for attempt, _ in attempts],
        [attempt.error for attempt, _ in attempts],
        [attempt.reply for attempt, _ in attempts],
        [state for _, state in attempts],
    )
