"""The load of P6: shoppers who order, pay and wait for the merchant's webhook, and the shop that receives it.

A fixed number of payments is under way at any time. The measured time begins once as many were completed, so that every
stage of the pipe is filled. Says `ready`, after a line `warm`, `over` and, when all payments have ended, `result`.
"""

import argparse
import asyncio
import base64
import collections
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field

import httptools
import uvloop

from tests.bench.driver import say, told
from tests.bench.http_client import Answer, Connection, ConnectionLost, rendered
from tests.bench.report import percentile

_WARM_S_MAX = 30.0
_WEBHOOK_WITHIN_S = 60.0
_NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
_UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True)
class Shop:
    """What the merchant received: webhook ids by order, and who waits for it."""

    secret: bytes
    received: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    repeated: int = 0
    refused: int = 0

    def take(self, headers: dict[bytes, bytes], body: bytes) -> bool:
        """Verify a webhook and wake whoever waits for its order; False when it is not genuine."""
        message_id, timestamp = headers[b"webhook-id"], headers[b"webhook-timestamp"]
        code = base64.b64encode(hmac.digest(self.secret, b".".join((message_id, timestamp, body)), hashlib.sha256))
        if not hmac.compare_digest(headers[b"webhook-signature"], b"v1," + code):
            self.refused += 1
            return False
        order_id = json.loads(body)["data"]["order_id"]
        known = self.received.setdefault(order_id, set())
        self.repeated += message_id.decode() in known
        known.add(message_id.decode())
        waiter = self.waiting.get(order_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        return True

    async def told_of(self, order_id: str) -> None:
        """Wait for the order's webhook. Raises TimeoutError."""
        if order_id in self.received:
            return
        self.waiting[order_id] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(_WEBHOOK_WITHIN_S):
            await self.waiting[order_id]
        del self.waiting[order_id]


class Receiving(asyncio.Protocol):
    """The shop's side of one connection: reads a webhook, answers 204."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        genuine = self._shop.take(self._headers, b"".join(self._body))
        self._headers, self._body = {}, []
        self._transport.write(_NO_CONTENT if genuine else _UNAUTHORIZED)  # type: ignore[attr-defined]


class Pool:
    """Kept connections to one service; whoever needs one waits for a free one."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self._size = url, size
        self._free: asyncio.Queue[Connection] = asyncio.Queue()

    async def open(self) -> None:
        for _ in range(self._size):
            self._free.put_nowait(await Connection.open(self.url))

    async def post(self, path: str, token: str, body: bytes) -> Answer:
        """Post JSON under a fresh idempotency key; once more when the server had closed the idle connection.

        Raises ConnectionLost, OSError when the server is gone.
        """
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": secrets.token_hex(16),
                   "Content-Type": "application/json"}  # fmt: skip
        request = rendered(self.url, "POST", path, headers, body)
        connection = await self._free.get()
        try:
            return await connection.send(request)
        except ConnectionLost:
            connection = await Connection.open(self.url)
            return await connection.send(request)
        finally:
            self._free.put_nowait(connection)


@dataclass(slots=True)
class Tally:
    """What became of the payments; `ended_at` and `took_s` are of completed ones, in order of their end."""

    orders: int = 0
    payments: int = 0
    ended_at: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    trouble: collections.Counter[str] = field(default_factory=collections.Counter)
    stages_s: dict[str, list[float]] = field(default_factory=lambda: {"order": [], "payment": [], "webhook": []})

    def stages_ms(self) -> dict[str, float]:
        """The median time that a payment spent waiting for each answer."""
        return {name: round(percentile(sorted(s), 0.5) * 1e3, 1) for name, s in self.stages_s.items() if s}


async def shop_on(port: int, shop: Shop) -> asyncio.Server:
    """Receive webhooks on a loopback port."""
    return await asyncio.get_running_loop().create_server(lambda: Receiving(shop), "127.0.0.1", port)


async def one_payment(orders: Pool, payments: Pool, api_key: str, shop: Shop, tally: Tally) -> None:
    """Order, pay, and wait for the webhook."""
    began = time.monotonic()
    unit = 100 + secrets.randbelow(90_000)
    body = {
        "merchant_order_no": secrets.token_hex(12), "currency": "CNY", "amount_minor": 2 * unit + 500,
        "items": [
            {"sku": "book-1", "title": "A lamp at noon", "quantity": 2, "unit_amount_minor": unit},
            {"sku": "card-7", "title": "Gift card", "quantity": 1, "unit_amount_minor": 500},
        ],
    }  # fmt: skip
    try:
        placed = await orders.post("/v1/orders", api_key, json.dumps(body).encode())
        if placed.status != 201:
            tally.trouble[f"order {placed.status}"] += 1
            await asyncio.sleep(0.2)
            return
        tally.orders += 1
        tally.stages_s["order"].append((ordered := time.monotonic()) - began)
        order = json.loads(placed.body)
        paying = await payments.post("/v1/payments", order["payment_token"], b'{"channel":"wechat","product":"native"}')
        if paying.status not in {201, 202}:
            tally.trouble[f"payment {paying.status}"] += 1
            await asyncio.sleep(0.2)
            return
        tally.payments += 1
        tally.stages_s["payment"].append((paid := time.monotonic()) - ordered)
        await shop.told_of(order["order_id"])
    except (ConnectionLost, ConnectionError):
        tally.trouble["connection lost"] += 1
        await asyncio.sleep(0.2)
        return
    except TimeoutError:
        tally.trouble["no webhook"] += 1
        return
    now = time.monotonic()
    tally.stages_s["webhook"].append(now - paid)
    tally.ended_at.append(now)
    tally.took_s.append(now - began)


async def run(options: argparse.Namespace) -> None:
    """Receive and shop until the time is over and everything under way has ended."""
    shop = Shop(secret=base64.b64decode(options.secret.removeprefix("whsec_")))
    server = await shop_on(options.port, shop)
    say("ready")
    await told()
    orders, payments, tally = (
        Pool(options.orders, options.under_way),
        Pool(options.payments, options.under_way),
        Tally(),
    )
    await asyncio.gather(orders.open(), payments.open())
    over = asyncio.Event()

    async def shopper() -> None:
        while not over.is_set():
            await one_payment(orders, payments, options.api_key, shop, tally)

    begins = ends = 0.0
    async with asyncio.TaskGroup() as group:
        for _ in range(options.under_way):
            group.create_task(shopper())
        started = time.monotonic()
        while len(tally.ended_at) < options.under_way and time.monotonic() - started < _WARM_S_MAX:
            await asyncio.sleep(0.02)
        await asyncio.sleep(options.warm)
        begins = time.monotonic()
        say("warm")
        await asyncio.sleep(options.seconds)
        ends = time.monotonic()
        say("over")
        over.set()
    took = sorted(took for at, took in zip(tally.ended_at, tally.took_s, strict=True) if begins <= at <= ends)
    say("result", {
        "measured": len(took), "rate": len(took) / (ends - begins), "orders": tally.orders, "payments": tally.payments,
        "completed": len(tally.ended_at), "trouble": tally.trouble,
        "doubled": sum(len(ids) > 1 for ids in shop.received.values()), "repeated": shop.repeated,
        "refused": shop.refused, "told": len(shop.received), "stages_ms": tally.stages_ms(),
        "p50_ms": percentile(took, 0.5) * 1e3 if took else None, "p99_ms": percentile(took, 0.99) * 1e3 if took else None,
    })  # fmt: skip
    # Late repeats are answered until the bench has looked at everything.
    await told()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", required=True, help="address of the order service")
    parser.add_argument("--payments", required=True, help="address of the payment service")
    parser.add_argument("--port", type=int, required=True, help="where webhooks come in")
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--secret", required=True, help="whsec_…")
    parser.add_argument("--under-way", type=int, required=True)
    parser.add_argument("--warm", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    uvloop.run(run(parser.parse_args()))
