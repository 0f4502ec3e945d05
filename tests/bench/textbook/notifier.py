"""The twin's notifier: a signed message per event and endpoint, delivered one after another."""

import argparse
import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Sequence

import aiohttp
from sqlalchemy import DateTime, ForeignKey, Index, LargeBinary, String, Text, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from tests.bench.textbook import base
from tests.bench.textbook.base import Loop, Received, Service, Sessions, new_id, now
from tests.bench.textbook.order import TOPIC as ORDER_TOPIC
from tests.bench.textbook.payment import TOPIC as PAYMENT_TOPIC

TOPIC = "textbook.delivery.events"
TABLES = base.tables("notify")
POLL_S = 0.05
TIMEOUT_S = 15


class Endpoint(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "endpoint"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    merchant_id: Mapped[str] = mapped_column(String(40), index=True)
    url: Mapped[str] = mapped_column(String(2048))
    secret: Mapped[bytes] = mapped_column(LargeBinary)


class Delivery(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "delivery"
    __table_args__ = (Index("delivery_pending", "next_at", postgresql_where="status = 'PENDING'"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("notify.endpoint.id"))
    event_id: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    delivered_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))


async def queue(session: AsyncSession, event: Received) -> None:
    """One delivery for each endpoint of the merchant."""
    query = select(Endpoint).where(Endpoint.merchant_id == event.data["merchant_id"])
    for endpoint in (await session.execute(query)).scalars():
        body = json.dumps({"type": event.type, "timestamp": now().isoformat(), "data": event.data})
        session.add(Delivery(id=new_id("dlv"), endpoint_id=endpoint.id, event_id=event.id, body=body,
                             status="PENDING", next_at=now(), attempts=0))  # fmt: skip


def signed(secret: bytes, delivery: Delivery) -> dict[str, str]:
    """Standard Webhooks headers."""
    timestamp = int(now().timestamp())
    code = hmac.digest(secret, f"{delivery.id}.{timestamp}.{delivery.body}".encode(), hashlib.sha256)
    return {"webhook-id": delivery.id, "webhook-timestamp": str(timestamp),
            "webhook-signature": "v1," + base64.b64encode(code).decode(), "content-type": "application/json"}  # fmt: skip


async def deliver(sessions: Sessions) -> None:
    """Send what is pending, one after another."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
        while True:
            async with sessions() as session, session.begin():
                query = (select(Delivery, Endpoint).join(Endpoint, Delivery.endpoint_id == Endpoint.id)
                         .where(Delivery.status == "PENDING", Delivery.next_at <= now()).order_by(Delivery.next_at)
                         .limit(1).with_for_update(skip_locked=True, of=Delivery))  # fmt: skip
                found = (await session.execute(query)).one_or_none()
                if found is not None:
                    await attempt(session, http, *found)
            if found is None:
                await asyncio.sleep(POLL_S)


async def attempt(session: AsyncSession, http: aiohttp.ClientSession, delivery: Delivery, endpoint: Endpoint) -> None:
    """Post a delivery and note what came of it."""
    delivery.attempts += 1
    try:
        async with http.post(endpoint.url, data=delivery.body, headers=signed(endpoint.secret, delivery)) as answer:
            accepted = 200 <= answer.status < 300
    except (aiohttp.ClientError, TimeoutError):
        accepted = False
    if accepted:
        delivery.status, delivery.delivered_at = "DELIVERED", now()
        session.add(TABLES.outbox(event_id=new_id("evt"), topic=TOPIC, key=endpoint.id, type="delivery.delivered",
                                  sequence=1, payload={"delivery_id": delivery.id, "attempts": delivery.attempts,
                                                       "endpoint_id": endpoint.id}))  # fmt: skip
    else:
        delivery.next_at = now() + dt.timedelta(seconds=5 * 2 ** min(delivery.attempts, 12))


def loops(_: argparse.Namespace) -> Sequence[Loop]:
    return (deliver,)


SERVICE = Service(name="notifier", tables=TABLES, topics=(ORDER_TOPIC, PAYMENT_TOPIC),
                  handlers={"order.paid": queue}, loops=loops)  # fmt: skip

if __name__ == "__main__":
    base.main(SERVICE)
