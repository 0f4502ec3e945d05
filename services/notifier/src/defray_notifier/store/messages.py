"""Rows of messages: frozen payloads, each with its delivery."""

import datetime as dt
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId
from defray_kernel.sql import queries
from defray_notifier.domain.message import Message

Q = queries(__file__)

PAGE_MAX: Final = 100
_ATTEMPTS_MAX: Final = 100
NEWEST: Final = UUID(int=(1 << 128) - 1)


async def insert(tx: WriteTx, messages: Sequence[Message], now: dt.datetime) -> None:
    """Store messages with deliveries that are due at once; a message told before changes nothing."""
    await tx.execute(
        Q.insert,
        [message.message_id for message in messages],
        [message.merchant_id for message in messages],
        [message.endpoint_id for message in messages],
        [message.event_id for message in messages],
        [message.event_type for message in messages],
        [message.subject for message in messages],
        [message.sequence for message in messages],
        [message.payload for message in messages],
        [message.correlation_id for message in messages],
        now,
        [message.delivery_id for message in messages],
    )


async def page(conn: ReadConn, merchant_id: MerchantId, before: UUID, limit: int) -> list[Record]:
    """A merchant's messages, newest first, without payloads."""
    assert 0 < limit <= PAGE_MAX
    return await conn.fetch(Q.page, merchant_id, before, limit)


async def get(conn: ReadConn, merchant_id: MerchantId, message_id: UUID) -> tuple[Record, list[Record]] | None:
    """One message of this merchant with its attempts; None for another's."""
    message = await conn.fetchrow(Q.get, merchant_id, message_id)
    if message is None:
        return None
    return message, await conn.fetch(Q.attempts_of, message["delivery_id"], _ATTEMPTS_MAX)
