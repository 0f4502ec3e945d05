"""A merchant's shop that receives webhooks: it verifies Standard Webhooks signatures and remembers what it got.

`python -m defray_sandbox.demo_shop --port P --control-port C`. It shares no code with the notifier, as a merchant would
not. One process plays every shop: webhooks go to `/hooks/<shop>` on the public port.
"""

import argparse
import asyncio
import base64
import collections
import hashlib
import hmac
import json
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field

from aiohttp import web

_TOLERANCE_S = 300
_REMEMBERED_MAX = 10_000
_BODY_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One webhook as it came; `refused` says why it was not believed, and is empty when it was."""

    webhook_id: str
    type: str
    data: object
    refused: str
    at: float


@dataclass(slots=True, kw_only=True)
class Shop:
    """What one shop knows: its secret, what it received (the newest 10,000), and how it is told to answer."""

    secret: bytes = b""
    received: collections.deque[Received] = field(default_factory=lambda: collections.deque(maxlen=_REMEMBERED_MAX))
    answers: collections.deque[int] = field(default_factory=collections.deque)
    total: int = 0
    refused: int = 0


def refusal(secret: bytes, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """Check a delivery against Standard Webhooks 1.0.0 (symmetric, `v1`); return why it fails, or nothing."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not timestamp.isascii() or not timestamp.isdigit():
        return "webhook-id or webhook-timestamp is missing"
    if abs(now_s - int(timestamp)) > _TOLERANCE_S:
        return "timestamp is more than five minutes off"
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256))
    given = (part.partition(",") for part in headers.get("webhook-signature", "").split(" "))
    if not any(version == "v1" and hmac.compare_digest(code.encode(), expected) for version, _, code in given):
        return "no signature fits"
    return ""


class Shops:
    """Handlers of both ports."""

    def __init__(self) -> None:
        self._shops: dict[str, Shop] = {}

    def public_routes(self) -> list[web.RouteDef]:
        """What the notifier may reach."""
        return [web.post("/hooks/{shop}", self._hook)]

    def control_routes(self) -> list[web.RouteDef]:
        """What the sandbox asks and sets."""
        return [
            web.get("/health", self._health),
            web.post("/shops/{shop}", self._configure),
            web.get("/received", self._received),
        ]

    async def _hook(self, request: web.Request) -> web.Response:
        shop = self._shops.get(request.match_info["shop"])
        if shop is None or not shop.secret:
            return web.Response(status=404)
        body = await request.read()
        now_s = time.time()
        why = refusal(shop.secret, request.headers, body, now_s)
        status = shop.answers.popleft() if shop.answers else 204
        if status >= 300 and not why:
            why = f"told to answer {status}"
        try:
            content = json.loads(body)
        except ValueError:
            content, why = {}, why or "not JSON"
        shop.total += 1
        shop.refused += bool(why)
        message_id = request.headers.get("webhook-id", "")
        kind = str(content.get("type", ""))
        shop.received.append(
            Received(webhook_id=message_id, type=kind, data=content.get("data"), refused=why, at=now_s)
        )
        return web.Response(status=status if status >= 300 else (401 if why else 204))

    async def _configure(self, request: web.Request) -> web.Response:
        """`secret` (whsec_…) is what deliveries are verified with; `answers` are status codes for the next ones."""
        given = await request.json()
        shop = self._shops.setdefault(request.match_info["shop"], Shop())
        if "secret" in given:
            shop.secret = base64.b64decode(given["secret"].removeprefix("whsec_"), validate=True)
        shop.answers.extend(int(status) for status in given.get("answers", [])[:_REMEMBERED_MAX])
        return web.json_response({})

    async def _received(self, _: web.Request) -> web.Response:
        shops = {
            name: {"total": shop.total, "refused": shop.refused, "received": [asdict(each) for each in shop.received]}
            for name, shop in self._shops.items()
        }
        return web.json_response(shops)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"shops": sorted(self._shops)})


async def serve(port: int, control_port: int) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    shops = Shops()
    async with AsyncExitStack() as stack:
        for at, routes in ((port, shops.public_routes()), (control_port, shops.control_routes())):
            app = web.Application(client_max_size=_BODY_BYTES_MAX)
            app.add_routes(routes)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", at).start()
        await stop.wait()


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m defray_sandbox.demo_shop", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="where webhooks come in")
    parser.add_argument("--control-port", type=int, required=True, help="where the sandbox asks what came")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.control_port))


if __name__ == "__main__":
    main()
