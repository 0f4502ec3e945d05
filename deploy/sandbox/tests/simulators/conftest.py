"""A simulator process for each test, a merchant who signs for himself, and a shop that takes callbacks."""

import asyncio
import base64
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import pytest
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from defray_sandbox.simulators.alipay import keys as alipay_keys
from defray_sandbox.simulators.process import APPID, MCHID, AlipaySimulator, WechatSimulator
from defray_sandbox.simulators.wechat.keys import generate

from .alipay_merchant import AlipayMerchant

NATIVE = "/v3/pay/transactions/native"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the channel answered; `verified` tells whether its signature holds."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    verified: bool


class Merchant:
    """Sends requests signed as the protocol says; written here anew, so that it can also get them wrong."""

    def __init__(self, simulator: WechatSimulator, session: aiohttp.ClientSession) -> None:
        self._simulator = simulator
        self._session = session
        keys = simulator.keys_dir
        private = serialization.load_pem_private_key((keys / "merchant_private.pem").read_bytes(), None)
        public = serialization.load_pem_public_key((keys / "platform_public.pem").read_bytes())
        assert isinstance(private, RSAPrivateKey)
        assert isinstance(public, RSAPublicKey)
        self._private, self._public = private, public
        self._serial = (keys / "merchant_serial.txt").read_text(encoding="ascii")
        self.platform_serial = (keys / "platform_serial.txt").read_text(encoding="ascii")

    def order(self, number: str, url: str = "http://127.0.0.1:9/notify", **changes: object) -> dict[str, object]:
        """The body of a create request; a change to None leaves a field out."""
        body: dict[str, object] = {
            "appid": APPID,
            "mchid": MCHID,
            "description": "三件衬衫 & a hat",
            "out_trade_no": number,
            "notify_url": url,
            "amount": {"total": 1999, "currency": "CNY"},
        }
        body |= changes
        return {name: value for name, value in body.items() if value is not None}

    def authorization(self, method: str, target: str, body: bytes, **changes: str) -> str:
        """The Authorization header; changes replace its fields after signing."""
        fields = {
            "mchid": MCHID,
            "nonce_str": secrets.token_hex(16),
            "timestamp": changes.pop("signed_timestamp", str(int(time.time()))),
            "serial_no": self._serial,
        }
        message = f"{method}\n{target}\n{fields['timestamp']}\n{fields['nonce_str']}\n".encode() + body + b"\n"
        fields["signature"] = base64.b64encode(self._private.sign(message, PKCS1v15(), SHA256())).decode()
        fields |= changes
        return "WECHATPAY2-SHA256-RSA2048 " + ",".join(f'{name}="{value}"' for name, value in fields.items())

    async def call(
        self, method: str, target: str, body: object = None, *, raw: bytes | None = None, **headers: str | None
    ) -> Answer:
        """Send a signed request; a header given as None is left out, underscores stand for hyphens."""
        sent = raw if raw is not None else b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        all_headers: dict[str, str | None] = {
            "Authorization": self.authorization(method, target, sent),
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "test",
            "Wechatpay-Serial": self.platform_serial,
        }
        all_headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        left_out = [name for name, value in all_headers.items() if value is None]
        kept = {name: value for name, value in all_headers.items() if value is not None}
        url = self._simulator.base_url + target
        async with self._session.request(
            method, url, data=sent or None, headers=kept, skip_auto_headers=left_out
        ) as answer:
            content = await answer.read()
            body_read = json.loads(content) if content and answer.content_type == "application/json" else {}
            return Answer(
                status=answer.status,
                body=body_read,
                headers=dict(answer.headers),
                verified=self._verified(answer.headers.get("Wechatpay-Signature"), answer.headers, content),
            )

    async def create(self, number: str, url: str = "http://127.0.0.1:9/notify", **changes: object) -> Answer:
        """Create an order."""
        return await self.call("POST", NATIVE, self.order(number, url, **changes))

    async def query(self, number: str) -> Answer:
        """Ask for an order."""
        return await self.call("GET", f"/v3/pay/transactions/out-trade-no/{number}?mchid={MCHID}")

    async def close(self, number: str) -> Answer:
        """Close an order."""
        return await self.call("POST", f"/v3/pay/transactions/out-trade-no/{number}/close", {"mchid": MCHID})

    def _verified(self, signature: str | None, headers: Mapping[str, str], content: bytes) -> bool:
        if signature is None:
            return False
        message = f"{headers['Wechatpay-Timestamp']}\n{headers['Wechatpay-Nonce']}\n".encode() + content + b"\n"
        try:
            self._public.verify(base64.b64decode(signature), message, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


@dataclass(slots=True)
class Shop:
    """Takes callbacks and remembers them; `answers` are its next statuses, 204 after them, `body` what it says."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    body: bytes = b""
    taken: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    at_once_max: int = 0
    _at_once: int = 0
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        """Handle one callback."""
        body = await request.read()
        self._at_once += 1
        self.at_once_max = max(self.at_once_max, self._at_once)
        await asyncio.sleep(self.pause_s)
        self._at_once -= 1
        self.taken.append((dict(request.headers), body))
        self._came.set()
        if self.answers:
            return web.Response(status=self.answers.pop(0))
        return web.Response(status=200 if self.body else 204, body=self.body)

    async def wait_for(self, count: int) -> None:
        """Wait until so many callbacks came, at most ten seconds."""
        try:
            async with asyncio.timeout(10):
                while len(self.taken) < count:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            pytest.fail(f"{len(self.taken)} callbacks came, {count} were expected")

    def as_question(self) -> list[dict[str, object]]:
        """What came, as the judge reads it."""
        return [{"headers": headers, "body": body.decode()} for headers, body in self.taken]

    def forms(self) -> list[dict[str, str]]:
        """What came as forms."""
        return [dict(parse_qsl(body.decode(), keep_blank_values=True)) for _, body in self.taken]


async def notified(simulator: WechatSimulator, subject: str) -> None:
    """Wait until the channel has noted the shop's success answer for `orders/…` or `refunds/…`: the shop sent it earlier."""
    async with asyncio.timeout(10):
        while not (await simulator.control(f"/control/{subject}"))["notified"]:
            await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def channel_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of both sides, made once."""
    folder = tmp_path_factory.mktemp("channel") / "keys"
    generate(folder)
    return folder


@pytest.fixture
def new_simulator(tmp_path: Path, channel_keys: Path) -> Callable[..., WechatSimulator]:
    """A simulator that is not started, with these further arguments."""

    def make(*arguments: str) -> WechatSimulator:
        shutil.copytree(channel_keys, tmp_path / "keys")
        return WechatSimulator(tmp_path, arguments)

    return make


@pytest.fixture
async def simulator(new_simulator: Callable[..., WechatSimulator]) -> AsyncIterator[WechatSimulator]:
    """A running simulator whose repeats come a thousand times as fast."""
    async with new_simulator("--retry-scale", "0.001") as running:
        yield running


@pytest.fixture
async def merchant(simulator: WechatSimulator) -> AsyncIterator[Merchant]:
    """The merchant that the channel knows."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield Merchant(simulator, session)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """A server for callbacks."""
    shop = Shop()
    app = web.Application()
    app.router.add_post("/notify", shop.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}/notify"
    yield shop
    await runner.cleanup()


@pytest.fixture(scope="session")
def alipay_channel_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates of both sides, made once."""
    folder = tmp_path_factory.mktemp("alipay") / "keys"
    alipay_keys.generate(folder)
    return folder


@pytest.fixture
def new_alipay(tmp_path: Path, alipay_channel_keys: Path) -> Callable[..., AlipaySimulator]:
    """A simulator that is not started, with these further arguments."""

    def make(*arguments: str) -> AlipaySimulator:
        shutil.copytree(alipay_channel_keys, tmp_path / "keys")
        return AlipaySimulator(tmp_path, arguments)

    return make


@pytest.fixture
async def alipay(new_alipay: Callable[..., AlipaySimulator]) -> AsyncIterator[AlipaySimulator]:
    """A running simulator whose repeats come ten thousand times as fast."""
    async with new_alipay("--retry-scale", "0.0001", "--refund-gap-s", "0") as running:
        yield running


@pytest.fixture
async def seller(alipay: AlipaySimulator) -> AsyncIterator[AlipayMerchant]:
    """The merchant that the channel knows."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield AlipayMerchant(alipay, session)


@pytest.fixture
def taker(shop: Shop) -> Shop:
    """A server that acknowledges as this channel wants it."""
    shop.body = b"success"
    return shop
