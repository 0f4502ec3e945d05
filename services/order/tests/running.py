"""The order service's public port on a real server, and two shops that call it."""

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_kernel.clock import SystemClock
from defray_kernel.contracts.merchant_v1 import ApiKeyV1, MerchantState
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Limits
from defray_kernel.ids import MerchantId, show, uuid7
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.server import Listener
from defray_kernel.testing.eventually import eventually
from defray_order import wiring
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.commands.place_order import Outcome, PlaceOrder
from defray_order.entrypoints.benefits import BenefitsApi
from defray_order.entrypoints.buyers import BuyersApi
from defray_order.entrypoints.http import OrdersApi
from defray_order.entrypoints.order_export import OrderExport
from defray_order.entrypoints.order_life import OrderLifeApi
from defray_order.entrypoints.order_list import OrderList
from defray_order.entrypoints.payment_token import PaymentTokens
from defray_order.entrypoints.refund_requests import RefundRequestsApi
from defray_order.entrypoints.write_edges import life_edges

ENVELOPE = Envelope({"k1": bytes(range(32))}, "k1")
SCOPES = ["orders:read", "orders:write", "buyers:read", "buyers:erase", "refunds:read", "refunds:write"]
SCOPES += ["benefits:read", "benefits:write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A merchant and its API key."""

    merchant_id: MerchantId
    api_key: str

    def state(self, scopes: list[str], *, suspended: bool = False) -> MerchantState:
        digest = hashlib.sha256(self.api_key.encode()).hexdigest()
        return MerchantState(
            merchant_id=show("mer", self.merchant_id),
            name="Shop",
            status="ACTIVE",
            mode="test",
            currencies=["CNY", "JPY"],
            api_keys=[ApiKeyV1(key_id="key_1", prefix="sk_test_", sha256=digest, scopes=scopes)],
            changed_at=SystemClock().real(),
            suspended=suspended,
        )


def shop(name: str) -> Shop:
    return Shop(merchant_id=MerchantId(uuid7()), api_key=f"sk_test_{name}{uuid7().hex}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply."""

    status: int
    body: Any
    headers: Mapping[str, str]


def order_body(number: str, **changes: object) -> dict[str, Any]:
    """An acceptable order of 3.00 CNY."""
    lines = [
        {"sku": "tea", "title": "Tea 茶", "quantity": 2, "unit_amount_minor": 120},
        {"sku": "cup", "title": "Cup", "quantity": 1, "unit_amount_minor": 90, "discount_minor": 30},
    ]
    return {"merchant_order_no": number, "currency": "CNY", "amount_minor": 300, "items": lines} | changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The running public port and two shops; `reader` has a third key that may not write, `suspended` places nothing."""

    url: str
    http: aiohttp.ClientSession
    database: Database
    tokens: PaymentTokens
    placing: GroupCommit[PlaceOrder, Outcome]
    one: Shop
    other: Shop
    reader: Shop
    suspended: Shop

    async def call(
        self,
        method: str,
        path: str,
        *,
        by: Shop | None = None,
        body: object = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = {"Authorization": f"Bearer {by.api_key}"} if by else {}
        if key is not None:
            sent["Idempotency-Key"] = key
        sent |= headers or {}
        async with self.http.request(method, self.url + path, json=body, headers=sent) as reply:
            return Answer(reply.status, await reply.json(content_type=None), reply.headers)

    async def place(self, body: object, *, key: str | None = None, by: Shop | None = None) -> Answer:
        return await self.call("POST", "/v1/orders", by=by or self.one, body=body, key=key or uuid7().hex)


def token_key() -> bytes:
    """A new private key in PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@asynccontextmanager
async def running(
    database: Database,
    placing: GroupCommit[PlaceOrder, Outcome],
    envelope: Envelope = ENVELOPE,
    *,
    limits: Limits | None = None,
) -> AsyncIterator[Service]:
    """The public port with its group commit, as in the http role."""
    one, other, reader, suspended = shop("one"), shop("other"), shop("reader"), shop("suspended")

    async def load() -> list[MerchantState]:
        states = [one.state(SCOPES), other.state(SCOPES), reader.state(["orders:read"])]
        return [*states, suspended.state(SCOPES, suspended=True)]

    directory = MerchantDirectory(load, SystemClock())
    tokens = PaymentTokens(token_key(), "k1")
    clock = SystemClock()
    vault = BuyerVault(database, envelope)
    asking = wiring.asking_refunds(database, clock, None)
    life = life_edges(database, clock, None)
    apis: list[wiring.Declares] = [
        OrderExport(database),
        OrderList(database=database, envelope=envelope, vault=vault),
        OrdersApi(database, placing, tokens, vault),
        OrderLifeApi(database=database, edges=life),
        BuyersApi(database, vault, clock),
        BenefitsApi(database=database, codes=CouponCodes(database, envelope), clock=clock),
        RefundRequestsApi(database=database, asking=asking),
    ]
    edge = wiring.public(apis, directory, tokens.verifier(clock))
    edge.doors = dataclasses.replace(edge.doors, limits=limits or edge.doors.limits)
    stopping = asyncio.Event()
    listener = Listener(edge.app(), "127.0.0.1", 0)
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as http:
        group.create_task(listener.run(stopping))
        group.create_task(placing.run())
        group.create_task(asking.run())
        for each in life.all:
            group.create_task(each.run())
        group.create_task(directory.run(stopping))
        await eventually(lambda: directory.ready, what="the directory is read")
        url = f"http://127.0.0.1:{listener.port}"
        yield Service(
            url=url,
            http=http,
            database=database,
            tokens=tokens,
            placing=placing,
            one=one,
            other=other,
            reader=reader,
            suspended=suspended,
        )
        stopping.set()
        await placing.stop()
        await asking.stop()
        for each in life.all:
            await each.stop()
