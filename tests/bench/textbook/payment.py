"""The twin's payment service: creates payments at the channel and takes its callbacks."""

import argparse
import base64
import contextlib
import datetime as dt
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from pydantic import BaseModel
from sqlalchemy import JSON, DateTime, ForeignKey, LargeBinary, String, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from tests.bench.textbook import base
from tests.bench.textbook.base import Service, Sessions, new_id, now

TOPIC = "textbook.payment.events"
TABLES = base.tables("payments")
NATIVE = "/v3/pay/transactions/native"
SCHEME = "WECHATPAY2-SHA256-RSA2048"
SKEW_S = 300
CHANNEL_TIMEOUT_S = 10


class Payment(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "payment"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    order_id: Mapped[str] = mapped_column(String(40), index=True)
    merchant_id: Mapped[str] = mapped_column(String(40))
    attempt_no: Mapped[str] = mapped_column(String(32), unique=True)
    status: Mapped[str] = mapped_column(String(20))
    amount_minor: Mapped[int]
    currency: Mapped[str] = mapped_column(String(3))
    code_url: Mapped[str | None] = mapped_column(String(512))
    channel_txn_id: Mapped[str | None] = mapped_column(String(64))
    correlation_id: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))
    paid_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    event_sequence: Mapped[int] = mapped_column(default=0)


class Transition(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "payment_transition"

    id: Mapped[int] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payments.payment.id"))
    from_status: Mapped[str | None] = mapped_column(String(20))
    to_status: Mapped[str] = mapped_column(String(20))
    at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class Callback(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "callback"

    id: Mapped[int] = mapped_column(primary_key=True)
    notice_id: Mapped[str] = mapped_column(String(64), unique=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("payments.payment.id"))
    headers: Mapped[dict[str, str]] = mapped_column(JSON)
    raw: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class IdempotencyKey(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "idempotency_key"

    order_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    payment_id: Mapped[str] = mapped_column(String(40))


class PaymentBody(BaseModel):
    channel: str
    product: str


class PaymentShown(BaseModel):
    payment_id: str
    order_id: str
    status: str
    amount_minor: int
    currency: str
    attempt_no: str
    code_url: str | None
    paid_at: dt.datetime | None


class Resource(BaseModel):
    ciphertext: str
    nonce: str
    associated_data: str


class Notice(BaseModel):
    id: str
    event_type: str
    resource: Resource


class Amount(BaseModel):
    total: int
    currency: str


class Transaction(BaseModel):
    mchid: str
    appid: str
    out_trade_no: str
    transaction_id: str
    trade_state: str
    success_time: dt.datetime
    amount: Amount


def show(payment: Payment) -> PaymentShown:
    return PaymentShown(
        payment_id=payment.id, order_id=payment.order_id, status=payment.status, amount_minor=payment.amount_minor,
        currency=payment.currency, attempt_no=payment.attempt_no, code_url=payment.code_url, paid_at=payment.paid_at,
    )  # fmt: skip


def move(session: AsyncSession, payment: Payment, status: str, event_type: str) -> None:
    """Change the status, note it and announce it."""
    payment.event_sequence += 1
    session.add(Transition(payment_id=payment.id, from_status=payment.status or None, to_status=status, at=now()))
    payment.status = status
    payload = show(payment).model_dump(mode="json") | {"merchant_id": payment.merchant_id}
    session.add(TABLES.outbox(event_id=new_id("evt"), topic=TOPIC, key=payment.order_id, type=event_type,
                              sequence=payment.event_sequence, correlation_id=payment.correlation_id,
                              payload=payload))  # fmt: skip


class Channel:
    """Signs what goes to the channel and verifies what comes from it; every key is parsed once."""

    def __init__(self, folder: Path, base_url: str, notify_url: str) -> None:
        self.base_url, self.notify_url = base_url, notify_url
        self.private = serialization.load_pem_private_key((folder / "merchant_private.pem").read_bytes(), None)
        self.serial = (folder / "merchant_serial.txt").read_text().strip()
        self.cipher = AESGCM((folder / "apiv3_key.txt").read_text().strip().encode())
        self.platform = {
            path.stem: serialization.load_pem_public_key(path.read_bytes())
            for path in (folder / "platform").glob("*.pem")
        }
        self.mchid, self.appid = "1900000109", "wx8888888888888888"
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CHANNEL_TIMEOUT_S), trust_env=False)

    def verify(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Check timestamp and signature of a callback or a reply."""
        try:
            timestamp, nonce = headers["Wechatpay-Timestamp"], headers["Wechatpay-Nonce"]
            key = self.platform[headers["Wechatpay-Serial"]]
            signature = base64.b64decode(headers["Wechatpay-Signature"])
            if abs(now().timestamp() - int(timestamp)) > SKEW_S:
                return False
            key.verify(signature, f"{timestamp}\n{nonce}\n".encode() + body + b"\n", PKCS1v15(), SHA256())
        except (KeyError, ValueError, InvalidSignature):
            return False
        return True

    def open(self, resource: Resource) -> Transaction:
        plain = self.cipher.decrypt(
            resource.nonce.encode(), base64.b64decode(resource.ciphertext), resource.associated_data.encode()
        )
        return Transaction.model_validate_json(plain)

    async def create(self, payment: Payment) -> str:
        """Ask the channel for a QR text."""
        body = json.dumps({
            "mchid": self.mchid, "appid": self.appid, "out_trade_no": payment.attempt_no, "description": "Order",
            "notify_url": self.notify_url, "amount": {"total": payment.amount_minor, "currency": payment.currency},
        })  # fmt: skip
        timestamp, nonce = int(now().timestamp()), secrets.token_hex(16)
        message = f"POST\n{NATIVE}\n{timestamp}\n{nonce}\n{body}\n".encode()
        signature = base64.b64encode(self.private.sign(message, PKCS1v15(), SHA256())).decode()  # type: ignore[union-attr,call-arg,arg-type]
        headers = {
            "Authorization": f'{SCHEME} mchid="{self.mchid}",nonce_str="{nonce}",signature="{signature}",'
            f'timestamp="{timestamp}",serial_no="{self.serial}"',
            "Content-Type": "application/json", "Accept": "application/json", "User-Agent": "textbook",
            "Wechatpay-Serial": next(iter(sorted(self.platform))),
        }  # fmt: skip
        async with self.session.post(self.base_url + NATIVE, data=body, headers=headers) as answer:
            raw = await answer.read()
            if answer.status != 200 or not self.verify(answer.headers, raw):
                raise HTTPException(502, f"channel: {answer.status} {raw[:200]!r}")
            return str(json.loads(raw)["code_url"])


async def find_or_create(
    session: AsyncSession, body: PaymentBody, claims: dict[str, Any], key: str, response: Response
) -> Payment:
    """The payment of an idempotency key."""
    request_hash = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    known = await session.get(IdempotencyKey, (claims["sub"], key))
    if known is not None:
        if known.request_hash != request_hash:
            raise HTTPException(422, "idempotency key was used with another body")
        response.headers["Idempotency-Replayed"] = "true"
        payment = await session.get_one(Payment, known.payment_id)
    else:
        payment = Payment(
            id=new_id("pay"), order_id=claims["sub"], merchant_id=claims["mid"], attempt_no=secrets.token_hex(14),
            status="", amount_minor=claims["amt"], currency=claims["cur"], correlation_id=claims["cid"],
            created_at=now(), event_sequence=0,
        )  # fmt: skip
        session.add(payment)
        await session.flush()
        session.add(IdempotencyKey(order_id=claims["sub"], key=key, request_hash=request_hash,
                                   payment_id=payment.id))  # fmt: skip
        move(session, payment, "CREATED", "payment.created")
        await session.commit()
    return payment


async def apply_callback(session: AsyncSession, channel: Channel, headers: Mapping[str, str], raw: bytes) -> None:
    """Keep a verified callback and move its payment; the same callback again changes nothing."""
    notice = Notice.model_validate_json(raw)
    transaction = channel.open(notice.resource)
    query = select(Payment).where(Payment.attempt_no == transaction.out_trade_no).with_for_update()
    payment = (await session.execute(query)).scalar_one_or_none()
    if payment is None:
        raise HTTPException(404)
    seen = await session.execute(select(Callback.id).where(Callback.notice_id == notice.id))
    if seen.scalar_one_or_none() is None:
        session.add(Callback(notice_id=notice.id, payment_id=payment.id, headers=dict(headers), raw=raw,
                             received_at=now()))  # fmt: skip
        same = (transaction.amount.total, transaction.amount.currency) == (payment.amount_minor, payment.currency)
        if transaction.trade_state == "SUCCESS" and same and payment.status in {"CREATED", "PENDING"}:
            payment.channel_txn_id = transaction.transaction_id
            payment.paid_at = transaction.success_time
            move(session, payment, "SUCCEEDED", "payment.succeeded")


def router(sessions: Sessions, options: argparse.Namespace, stack: contextlib.AsyncExitStack) -> APIRouter:
    """The cashier's API and the channel's callback."""
    folder = Path(options.keys)
    channel = Channel(folder / "wechat", options.channel, f"{options.public_url}/v1/webhooks/wechat")
    stack.push_async_callback(channel.session.close)
    token_key = jwt.PyJWK(json.loads((folder / "order_tokens.jwks.json").read_text())["keys"][0]).key
    made = APIRouter()

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session

    def get_claims(authorization: Annotated[str, Header()]) -> dict[str, Any]:
        try:
            return jwt.decode(authorization.removeprefix("Bearer "), token_key, algorithms=["EdDSA"])
        except jwt.InvalidTokenError as error:
            raise HTTPException(401) from error

    @made.post("/v1/payments", status_code=201)
    async def create(
        body: PaymentBody, claims: Annotated[dict[str, Any], Depends(get_claims)],
        session: Annotated[AsyncSession, Depends(get_session)], idempotency_key: Annotated[str, Header()],
        response: Response,
    ) -> PaymentShown:  # fmt: skip
        payment = await find_or_create(session, body, claims, idempotency_key, response)
        if payment.status == "CREATED" and channel.base_url:
            code_url = await channel.create(payment)
            payment = (await session.execute(
                select(Payment).where(Payment.id == payment.id).with_for_update().execution_options(populate_existing=True)
            )).scalar_one()  # fmt: skip
            payment.code_url = code_url
            if payment.status == "CREATED":
                move(session, payment, "PENDING", "payment.pending")
            await session.commit()
        return show(payment)

    @made.post("/v1/webhooks/wechat", status_code=204)
    async def callback(request: Request, session: Annotated[AsyncSession, Depends(get_session)]) -> Response:
        raw = await request.body()
        if not channel.verify(request.headers, raw):
            raise HTTPException(401)
        await apply_callback(session, channel, request.headers, raw)
        await session.commit()
        return Response(status_code=204)

    @made.get("/v1/payments/{payment_id}")
    async def get(payment_id: str, session: Annotated[AsyncSession, Depends(get_session)]) -> PaymentShown:
        payment = await session.get(Payment, payment_id)
        if payment is None:
            raise HTTPException(404)
        return show(payment)

    return made


SERVICE = Service(name="payment", tables=TABLES, router=router)

if __name__ == "__main__":
    base.main(SERVICE)
