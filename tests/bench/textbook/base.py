"""What the twin's services share: tables of outbox and inbox, the relay, the consumer loop, and how a service runs."""

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from fastapi import APIRouter, FastAPI
from sqlalchemy import JSON, DateTime, Index, MetaData, String, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

POOL_SIZE = 20
RELAY_POLL_S = 0.05
SCHEMAS = ("orders", "payments", "settlement", "notify")

Sessions = async_sessionmaker[AsyncSession]
Handler = Callable[[AsyncSession, "Received"], Awaitable[None]]


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


class OutboxColumns:
    """An event that waits for Kafka; each service has such a table."""

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    event_id: Mapped[str] = mapped_column(String(40))
    topic: Mapped[str] = mapped_column(String(249))
    key: Mapped[str] = mapped_column(String(100))
    type: Mapped[str] = mapped_column(String(100))
    sequence: Mapped[int]
    correlation_id: Mapped[str] = mapped_column(String(128), default="")
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), default=now)
    published_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))


class InboxColumns:
    """An event that was handled, so that it is handled once."""

    event_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    handled_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), default=now)


@dataclass(frozen=True, slots=True)
class Tables:
    """A service's own declarative base with its outbox and inbox."""

    base: type[DeclarativeBase]
    outbox: type[Any]
    inbox: type[Any]


def tables(schema: str) -> Tables:
    """Make base, outbox and inbox in `schema`."""

    class Base(DeclarativeBase):
        metadata = MetaData(schema=schema)

    class Outbox(OutboxColumns, Base):
        __tablename__ = "outbox"
        __table_args__ = (Index("outbox_unpublished", "id", postgresql_where="published_at IS NULL"),)

    class Inbox(InboxColumns, Base):
        __tablename__ = "inbox"

    return Tables(Base, Outbox, Inbox)


@dataclass(frozen=True, slots=True)
class Received:
    """An event as a consumer gets it."""

    id: str
    type: str
    key: str
    correlation_id: str
    data: dict[str, Any]


async def relay(sessions: Sessions, outbox: type[Any], producer: AIOKafkaProducer) -> None:
    """Publish unpublished events, one row a transaction, in id order."""
    while True:
        async with sessions() as session, session.begin():
            query = select(outbox).where(outbox.published_at.is_(None)).order_by(outbox.id).limit(1)
            row = (await session.execute(query.with_for_update(skip_locked=True))).scalar_one_or_none()
            if row is not None:
                headers = [
                    ("event_id", row.event_id.encode()), ("event_type", row.type.encode()),
                    ("sequence", str(row.sequence).encode()), ("correlation_id", row.correlation_id.encode()),
                ]  # fmt: skip
                value = json.dumps(row.payload).encode()
                await producer.send_and_wait(row.topic, value, key=row.key.encode(), headers=headers)
                row.published_at = now()
        if row is None:
            await asyncio.sleep(RELAY_POLL_S)


async def consume(
    consumer: AIOKafkaConsumer, sessions: Sessions, inbox: type[Any], handlers: Mapping[str, Handler]
) -> None:
    """Handle one event after another: inbox row and effects in a transaction, then the offset."""
    while True:
        message = await consumer.getone()
        headers = {name: value.decode() for name, value in message.headers}
        handler = handlers.get(headers["event_type"])
        if handler is not None:
            event = Received(headers["event_id"], headers["event_type"], message.key.decode(),
                             headers["correlation_id"], json.loads(message.value))  # fmt: skip
            async with sessions() as session, session.begin():
                if await session.get(inbox, event.id) is None:
                    session.add(inbox(event_id=event.id))
                    await handler(session, event)
        await consumer.commit()


Loop = Callable[[Sessions], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service: its routes, what it listens to, and loops of its own."""

    name: str
    tables: Tables
    topics: Sequence[str] = ()
    handlers: Mapping[str, Handler] | None = None
    router: Callable[[Sessions, argparse.Namespace, contextlib.AsyncExitStack], APIRouter] | None = None
    loops: Callable[[argparse.Namespace], Sequence[Loop]] = lambda _: ()


@contextlib.asynccontextmanager
async def running(service: Service, options: argparse.Namespace) -> AsyncIterator[Sessions]:
    """Run the loops of a role in the background of a `with` block."""
    engine = engine_for(options.dsn)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        tasks: list[asyncio.Task[None]] = []
        if options.role in {"all", "relay"}:
            producer = AIOKafkaProducer(bootstrap_servers=options.kafka, enable_idempotence=True, acks="all")
            await producer.start()
            stack.push_async_callback(producer.stop)
            tasks.append(asyncio.create_task(relay(sessions, service.tables.outbox, producer)))
        if options.role in {"all", "consume"} and service.handlers:
            consumer = AIOKafkaConsumer(
                *service.topics, bootstrap_servers=options.kafka, group_id=f"textbook.{service.name}",
                enable_auto_commit=False, auto_offset_reset="earliest",
            )  # fmt: skip
            await consumer.start()
            stack.push_async_callback(consumer.stop)
            tasks.append(asyncio.create_task(consume(consumer, sessions, service.tables.inbox, service.handlers)))
        if options.role == "all":
            tasks += [asyncio.create_task(loop(sessions)) for loop in service.loops(options)]
        try:
            yield sessions
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for error in ended:
                if isinstance(error, Exception):
                    raise error


def engine_for(dsn: str) -> AsyncEngine:
    return create_async_engine(
        dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_size=POOL_SIZE, max_overflow=0
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("role", choices=("http", "relay", "consume", "all"))
    made.add_argument("--dsn", required=True)
    made.add_argument("--kafka", default="")
    made.add_argument("--port", type=int, required=True)
    made.add_argument("--keys", default="", help="folder with the channel's and the order service's keys")
    made.add_argument("--channel", default="", help="the channel's address; none: payments stay CREATED")
    made.add_argument("--public-url", default="", help="where the channel reaches the payment service")
    return made


def main(service: Service) -> None:
    """Run one role until SIGTERM."""
    options = parser().parse_args()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            sessions = await stack.enter_async_context(running(service, options))
            if service.router is not None:
                app.include_router(service.router(sessions, options, stack))
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")
