"""The twin's order service: places orders and marks them paid."""

import argparse
import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jwt
from fastapi import APIRouter, Depends, Header, HTTPException, Response
from pydantic import BaseModel, Field
from sqlalchemy import JSON, DateTime, ForeignKey, String, UniqueConstraint, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tests.bench.textbook import base
from tests.bench.textbook.base import Received, Service, Sessions, new_id, now

TOPIC = "textbook.order.events"
PAYMENT_TOPIC = "textbook.payment.events"
TABLES = base.tables("orders")


class Merchant(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "merchant"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    api_key_sha256: Mapped[str] = mapped_column(String(64), unique=True)


class Order(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "order"
    __table_args__ = (UniqueConstraint("merchant_id", "merchant_order_no"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("orders.merchant.id"))
    merchant_order_no: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    amount_minor: Mapped[int]
    correlation_id: Mapped[str] = mapped_column(String(128))
    placed_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    paid_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    payment_id: Mapped[str | None] = mapped_column(String(40))
    event_sequence: Mapped[int] = mapped_column(default=0)
    items: Mapped[list["Item"]] = relationship(lazy="selectin", order_by="Item.line")


class Item(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "order_item"

    order_id: Mapped[str] = mapped_column(ForeignKey("orders.order.id"), primary_key=True)
    line: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int]
    unit_amount_minor: Mapped[int]
    amount_minor: Mapped[int]


class Transition(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "order_transition"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("orders.order.id"))
    from_status: Mapped[str | None] = mapped_column(String(20))
    to_status: Mapped[str] = mapped_column(String(20))
    at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class IdempotencyKey(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "idempotency_key"

    merchant_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    response: Mapped[dict[str, Any]] = mapped_column(JSON)


class ItemBody(BaseModel):
    sku: Annotated[str, Field(max_length=64)]
    title: Annotated[str, Field(max_length=200)]
    quantity: Annotated[int, Field(ge=1)]
    unit_amount_minor: Annotated[int, Field(ge=0)]


class OrderBody(BaseModel):
    merchant_order_no: Annotated[str, Field(max_length=64)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    amount_minor: Annotated[int, Field(ge=1)]
    items: Annotated[list[ItemBody], Field(min_length=1, max_length=100)]
    expires_in_s: Annotated[int, Field(ge=60)] = 7200


class ItemShown(BaseModel):
    line: int
    sku: str
    title: str
    quantity: int
    unit_amount_minor: int
    amount_minor: int


class OrderShown(BaseModel):
    order_id: str
    merchant_order_no: str
    status: str
    currency: str
    amount_minor: int
    items: list[ItemShown]
    placed_at: dt.datetime
    expires_at: dt.datetime
    paid_at: dt.datetime | None
    payment_id: str | None
    payment_token: str | None = None


def show(order: Order, token: str | None = None) -> OrderShown:
    items = [ItemShown(line=item.line, sku=item.sku, title=item.title, quantity=item.quantity,
                       unit_amount_minor=item.unit_amount_minor, amount_minor=item.amount_minor)
             for item in order.items]  # fmt: skip
    return OrderShown(
        order_id=order.id, merchant_order_no=order.merchant_order_no, status=order.status, currency=order.currency,
        amount_minor=order.amount_minor, items=items, placed_at=order.placed_at, expires_at=order.expires_at,
        paid_at=order.paid_at, payment_id=order.payment_id, payment_token=token,
    )  # fmt: skip


def move(session: AsyncSession, order: Order, status: str, event_type: str) -> None:
    """Change the status, note it and announce it."""
    order.event_sequence += 1
    session.add(Transition(order_id=order.id, from_status=order.status or None, to_status=status, at=now()))
    order.status = status
    payload = show(order).model_dump(mode="json") | {"merchant_id": order.merchant_id}
    session.add(TABLES.outbox(event_id=new_id("evt"), topic=TOPIC, key=order.id, type=event_type,
                              sequence=order.event_sequence, correlation_id=order.correlation_id,
                              payload=payload))  # fmt: skip


async def payment_succeeded(session: AsyncSession, event: Received) -> None:
    query = select(Order).where(Order.id == event.data["order_id"]).with_for_update()
    order = (await session.execute(query)).scalar_one()
    if order.status == "PLACED":
        order.paid_at = dt.datetime.fromisoformat(event.data["paid_at"])
        order.payment_id = event.data["payment_id"]
        move(session, order, "PAID", "order.paid")


def new_order(body: OrderBody, merchant: Merchant) -> Order:
    """An order that nobody has heard of yet."""
    placed_at = now()
    return Order(
        id=new_id("ord"), merchant_id=merchant.id, merchant_order_no=body.merchant_order_no, status="",
        currency=body.currency, amount_minor=body.amount_minor, correlation_id=new_id("cor"), placed_at=placed_at,
        expires_at=placed_at + dt.timedelta(seconds=body.expires_in_s), event_sequence=0,
        items=[Item(line=line, sku=item.sku, title=item.title, quantity=item.quantity,
                    unit_amount_minor=item.unit_amount_minor, amount_minor=item.quantity * item.unit_amount_minor)
               for line, item in enumerate(body.items, 1)],
    )  # fmt: skip


def router(sessions: Sessions, options: argparse.Namespace, _stack: contextlib.AsyncExitStack) -> APIRouter:
    """The merchant's API."""
    made = APIRouter()
    with open(f"{options.keys}/token_private.pem", encoding="ascii") as file:  # noqa: PTH123
        private_key = jwt.get_algorithm_by_name("EdDSA").prepare_key(file.read())

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    async def get_merchant(
        authorization: Annotated[str, Header()], session: Annotated[AsyncSession, Depends(get_session)]
    ) -> Merchant:
        digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        found = (await session.execute(select(Merchant).where(Merchant.api_key_sha256 == digest))).scalar_one_or_none()
        if found is None:
            raise HTTPException(401)
        return found

    def token(order: Order) -> str:
        claims = {"sub": order.id, "mid": order.merchant_id, "amt": order.amount_minor, "cur": order.currency,
                  "exp": order.expires_at, "cid": order.correlation_id}  # fmt: skip
        return jwt.encode(claims, private_key, algorithm="EdDSA")

    @made.post("/v1/orders", status_code=201)
    async def place(
        body: OrderBody, merchant: Annotated[Merchant, Depends(get_merchant)],
        session: Annotated[AsyncSession, Depends(get_session)], idempotency_key: Annotated[str, Header()],
        response: Response,
    ) -> OrderShown:  # fmt: skip
        request_hash = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
        known = await session.get(IdempotencyKey, (merchant.id, idempotency_key))
        if known is not None:
            if known.request_hash != request_hash:
                raise HTTPException(422, "idempotency key was used with another body")
            response.headers["Idempotency-Replayed"] = "true"
            return OrderShown.model_validate(known.response)
        if sum(item.quantity * item.unit_amount_minor for item in body.items) != body.amount_minor:
            raise HTTPException(422, "amounts do not add up")
        order = new_order(body, merchant)
        session.add(order)
        await session.flush()
        move(session, order, "PLACED", "order.placed")
        shown = show(order, token(order))
        session.add(IdempotencyKey(merchant_id=merchant.id, key=idempotency_key, request_hash=request_hash,
                                   response=shown.model_dump(mode="json")))  # fmt: skip
        await session.commit()
        return shown

    @made.get("/v1/orders/{order_id}")
    async def get(
        order_id: str, merchant: Annotated[Merchant, Depends(get_merchant)],
        session: Annotated[AsyncSession, Depends(get_session)],
    ) -> OrderShown:  # fmt: skip
        order = await session.get(Order, order_id)
        if order is None or order.merchant_id != merchant.id:
            raise HTTPException(404)
        return show(order)

    return made


SERVICE = Service(name="order", tables=TABLES, topics=(PAYMENT_TOPIC,),
                  handlers={"payment.succeeded": payment_succeeded}, router=router)  # fmt: skip

if __name__ == "__main__":
    base.main(SERVICE)
