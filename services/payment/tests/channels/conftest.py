"""Each adapter in each key mode beside its simulator, behind one face, so that one suite judges them all."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509

from defray_kernel.clock import SystemClock
from defray_kernel.crypto import Envelope
from defray_kernel.ids import uuid7
from defray_kernel.money import Money
from defray_payment import wiring
from defray_payment.channels.alipay import keys as alipay_keys
from defray_payment.channels.alipay.channel import AlipayChannel
from defray_payment.channels.build import Builder, Secrets
from defray_payment.channels.spi import (
    CreatePayment,
    NextAction,
    Notice,
    Payer,
    PaymentView,
    RefundCall,
    RefundView,
    Trouble,
    Unverified,
)
from defray_payment.channels.wechat import keys as wechat_keys
from defray_payment.channels.wechat.channel import WechatChannel
from defray_payment.commands import manage_accounts
from defray_payment.commands.manage_accounts import AddAccount
from defray_payment.domain.attempt import number_of
from defray_payment.domain.reports import ChannelAccount
from defray_payment.entrypoints.account_refresh import AccountRefresh
from defray_payment.entrypoints.accounts import AccountDesk
from defray_sandbox.simulators.process import (
    ALIPAY_APP_ID,
    ALIPAY_SELLER_ID,
    APPID,
    MCHID,
    AlipaySimulator,
    Simulator,
    WechatSimulator,
)

from ..conftest import TIMEOUT_S as SERVICE_TIMEOUT_S  # noqa: TID252 - the tests of one service
from ..conftest import Answer, Service  # noqa: TID252

CLOCK = SystemClock()
TIMEOUT_S = 1.0
PRICE = Money(minor=1999, currency="CNY")
MODES = ("wechat", "wechat_certificates", "alipay", "alipay_certificates")
WECHAT_ACCOUNT = ChannelAccount(merchant_ref=MCHID, app_ref=APPID)
ALIPAY_ACCOUNT = ChannelAccount(merchant_ref=ALIPAY_SELLER_ID, app_ref=ALIPAY_APP_ID)
# What the simulators call the operations whose names differ.
OPERATIONS = {
    "wechat": {"cancel": "reverse", "query_refund": "refund_query"},
    "alipay": {"query_refund": "refund_query"},
}


def payer(product: str) -> Payer:
    """A payer who tells everything that any product asks for, in the channel's own form."""
    codes = {"codepay": "130000000000000001", "pay": "280000000000000001"}
    payer_id = "2088000000000042" if product == "create" else "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
    return Payer(payer_id=payer_id, auth_code=codes.get(product, "13"), client_ip="203.0.113.7")


def creation(product: str, number: str | None = None, **changes: object) -> CreatePayment:
    values: dict[str, Any] = {
        "attempt_no": number_of(uuid7()) if number is None else number,
        "product": product,
        "amount": PRICE,
        "description": "三件衬衫 & a hat 🎩 + = %",
        "expires_at": CLOCK.now() + dt.timedelta(hours=1),
        "again": False,
        "payer": payer(product),
        "return_url": "https://pay.example/v1/return/1",
    }
    return CreatePayment(**(values | changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One adapter and its simulator's levers."""

    mode: str
    channel: WechatChannel | AlipayChannel
    simulator: Simulator
    session: aiohttp.ClientSession

    @property
    def name(self) -> str:
        return self.channel.capabilities.channel

    @property
    def plain(self) -> str:
        """The product that a QR code is shown for."""
        return "native" if self.name == "wechat" else "precreate"

    @property
    def scanned(self) -> str:
        """The product that scans the payer's code."""
        return "codepay" if self.name == "wechat" else "pay"

    def operation(self, name: str) -> str:
        """What the simulator calls one of our operations, or one of its products."""
        return OPERATIONS[self.name].get(name, name)

    async def lever(self, path: str, body: dict[str, object] | None = None) -> Any:  # noqa: ANN401 - any JSON
        return await self.simulator.control(path, body)

    async def fault(self, operation: str, action: str, *, moment: str = "after_apply", **more: object) -> None:
        body = {"operation": self.operation(operation), "action": action, "moment": moment, "count": 1}
        await self.lever("/control/faults", body | more)

    async def opened(self, product: str | None = None, **changes: object) -> tuple[CreatePayment, PaymentView]:
        request = creation(product or self.plain, **changes)
        return request, view(await self.channel.create(request))

    def door(self, number: str, action: NextAction | None) -> dict[str, object]:
        """How the payer finds the order: by what the action says, where the channel does not know it yet."""
        link = (action.data.get("url") or action.data.get("order_string")) if action is not None else None
        return {"link": link} if self.name == "alipay" and link else {"out_trade_no": number}

    async def pay(self, number: str, action: NextAction | None = None, **wish: object) -> Any:  # noqa: ANN401
        return await self.lever("/control/pay", self.door(number, action) | wish)

    async def paid(self, product: str | None = None, **changes: object) -> tuple[CreatePayment, PaymentView]:
        """An order that is paid, and what a query says of it."""
        request, made = await self.opened(product, **changes)
        await self.pay(request.attempt_no, made.action)
        return request, view(await self.channel.query(request.attempt_no))

    async def heard(self, number: str, *kinds: str, refund_no: str | None = None, **overrides: object) -> list[Any]:
        """Callbacks as the channel would send them: signed and not sent."""
        wish: dict[str, object] = {"out_trade_no": number, "kinds": list(kinds or ("genuine",)), "dry_run": True}
        if refund_no is not None and self.name == "wechat":
            wish = {"out_refund_no": refund_no} | {name: wish[name] for name in ("kinds", "dry_run")}
        elif refund_no is not None:
            wish["out_request_no"] = refund_no
        if overrides:
            wish["overrides"] = overrides
        return list((await self.lever("/control/callbacks/send", wish))["callbacks"])

    def judge(self, heard: Mapping[str, Any], now: dt.datetime | None = None) -> Notice | Unverified:
        headers = {name.lower(): value for name, value in heard["headers"].items()}
        return self.channel.verify(headers, heard["body"].encode(), now or CLOCK.real())

    def refund_call(self, request: CreatePayment, paid: PaymentView, minor: int, **changes: object) -> RefundCall:
        values: dict[str, Any] = {
            "refund_no": number_of(uuid7()),
            "attempt_no": request.attempt_no,
            "channel_txn_id": paid.channel_txn_id,
            "total": request.amount,
            "amount": Money(minor=minor, currency="CNY"),
            "reason": "returned",
            "again": False,
        }
        return RefundCall(**(values | changes))


def view(said: PaymentView | Trouble) -> PaymentView:
    assert isinstance(said, PaymentView), said
    return said


def refund_view(said: RefundView | Trouble) -> RefundView:
    assert isinstance(said, RefundView), said
    return said


def trouble(said: PaymentView | RefundView | Trouble) -> Trouble:
    assert isinstance(said, Trouble), said
    return said


def wechat_side_keys(folder: Path, *, certificates: bool, only: int | None = None) -> wechat_keys.WechatKeys:
    """Our side's keys; `only` leaves one generation."""
    platform: dict[str, bytes] = {}
    for number, suffix in enumerate(("", "_2"), 1):
        if only not in {None, number}:
            continue
        if certificates:
            pem = (folder / f"platform_certificate{suffix}.pem").read_bytes()
            platform[f"{x509.load_pem_x509_certificate(pem).serial_number:X}"] = pem
        else:
            serial = (folder / f"platform_serial{suffix}.txt").read_text("ascii")
            platform[serial] = (folder / f"platform_public{suffix}.pem").read_bytes()
    return wechat_keys.parse(
        merchant_private=(folder / "merchant_private.pem").read_bytes(),
        merchant_serial=(folder / "merchant_serial.txt").read_text("ascii"),
        platform=platform,
        apiv3=(folder / "apiv3_key.txt").read_bytes().strip(),
    )


def alipay_side_keys(folder: Path, *, certificates: bool, only: int | None = None) -> alipay_keys.AlipayKeys:
    """Our side's keys; `only` leaves one generation."""
    kind = "certificate" if certificates else "public"
    return alipay_keys.parse(
        app_private=(folder / "app_private.pem").read_bytes(),
        alipay={
            f"k{number}": (folder / f"alipay_{kind}{suffix}.pem").read_bytes()
            for number, suffix in enumerate(("", "_2"), 1)
            if only in {None, number}
        },
        app_certificate=(folder / "app_certificate.pem").read_bytes() if certificates else None,
        root=(folder / "alipay_root.pem").read_bytes() if certificates else None,
    )


def channel_of(
    mode: str, simulator: Simulator, session: aiohttp.ClientSession, *, only: int | None = None
) -> WechatChannel | AlipayChannel:
    certificates = mode.endswith("certificates")
    if mode.startswith("wechat"):
        return WechatChannel(
            session=session,
            base_url=simulator.base_url,
            account=WECHAT_ACCOUNT,
            keys=wechat_side_keys(simulator.keys_dir, certificates=certificates, only=only),
            notify_url="http://127.0.0.1:9/v1/webhooks/wechat",
            clock=CLOCK,
            timeout_s=TIMEOUT_S,
        )
    return AlipayChannel(
        session=session,
        gateway_url=f"{simulator.base_url}/gateway.do",
        account=ALIPAY_ACCOUNT,
        keys=alipay_side_keys(simulator.keys_dir, certificates=certificates, only=only),
        notify_url="http://127.0.0.1:9/v1/webhooks/alipay",
        clock=CLOCK,
        timeout_s=TIMEOUT_S,
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sides")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def processes(folders: Path) -> AsyncIterator[dict[str, Simulator]]:
    """Both channels as processes of their own, one for all tests; refunds need no pause between them."""
    arguments = ["--retry-scale", "0.001", "--refund-gap-s", "0"]
    async with (
        WechatSimulator(folders / "wechat", arguments) as wechat,
        AlipaySimulator(folders / "alipay", arguments) as alipay,
    ):
        yield {"wechat": wechat, "alipay": alipay}


@pytest_asyncio.fixture(params=MODES)
async def side(request: pytest.FixtureRequest, processes: dict[str, Simulator]) -> AsyncIterator[Side]:
    """One adapter in one key mode; everything that an earlier test did is forgotten."""
    running = processes[request.param.split("_")[0]]
    ports = [urlsplit(url).port or 0 for url in (running.base_url, running.control_url)]
    levers = type(running)(running.folder, ports=(ports[0], ports[1]))
    await levers.control("/control/reset", {})
    if request.param.startswith("wechat"):
        percent = 0 if request.param.endswith("certificates") else 100
        wish: dict[str, object] = {"public_key_percent": percent, "callback_generation": 1}
        await levers.control("/control/keys", wish | {"certificate_generation": 1, "certificates_published": 2})
    else:
        await levers.control("/control/keys", {"generation": 1})
    async with wiring.channel_session() as session:
        yield Side(
            mode=request.param, channel=channel_of(request.param, levers, session), simulator=levers, session=session
        )
    await levers.__aexit__()


class Lab:
    """The running service, both channels, and an operator's desk."""

    def __init__(self, service: Service, wechat: Simulator, alipay: Simulator, refresh: AccountRefresh) -> None:
        self.service, self.wechat, self.alipay, self.refresh = service, wechat, alipay, refresh
        self.envelope = refresh.envelope
        self.desk = AccountDesk(
            database=service.database, clock=service.clock, envelope=refresh.envelope, tls_only=False
        )

    def alipay_wish(self, *, only: int | None = None, **changes: Any) -> AddAccount:  # noqa: ANN401
        folder = self.alipay.keys_dir
        keys = {
            f"k{n}": (folder / f"alipay_public{suffix}.pem").read_text()
            for n, suffix in enumerate(("", "_2"), 1)
            if only in {None, n}
        }
        values: dict[str, Any] = {
            "channel": "alipay",
            "merchant_id": None,
            "merchant_ref": ALIPAY_SELLER_ID,
            "app_ref": ALIPAY_APP_ID,
            "base_url": f"{self.alipay.base_url}/gateway.do",
            "secrets": Secrets(private_key=(folder / "app_private.pem").read_text(), verify_keys=keys),
            "actor": "ann",
        }
        return AddAccount(**(values | changes))

    def wechat_wish(self, **changes: Any) -> AddAccount:  # noqa: ANN401
        folder = self.wechat.keys_dir
        serials = {suffix: (folder / f"platform_serial{suffix}.txt").read_text() for suffix in ("", "_2")}
        values: dict[str, Any] = {
            "channel": "wechat",
            "merchant_id": None,
            "merchant_ref": MCHID,
            "app_ref": APPID,
            "base_url": self.wechat.base_url,
            "secrets": Secrets(
                private_key=(folder / "merchant_private.pem").read_text(),
                verify_keys={
                    serial: (folder / f"platform_public{suffix}.pem").read_text() for suffix, serial in serials.items()
                },
                serial=(folder / "merchant_serial.txt").read_text(),
                seal_key=(folder / "apiv3_key.txt").read_text(),
            ),
            "actor": "ann",
        }
        return AddAccount(**(values | changes))

    async def add(self, wish: AddAccount) -> Any:  # noqa: ANN401 - an id or a refusal
        async with self.service.database.transaction() as tx:
            added = await manage_accounts.add(wish, tx, self.service.clock, envelope=self.envelope, tls_only=False)
        await self.refresh.refresh()
        return added

    async def pay(self, channel: str, product: str, **more: object) -> Answer:
        return await self.service.pay(self.service.order(), channel=channel, product=product, **more)


async def _levers(running: Simulator) -> Simulator:
    ports = [urlsplit(url).port or 0 for url in (running.base_url, running.control_url)]
    levers = type(running)(running.folder, ports=(ports[0], ports[1]))
    await levers.control("/control/reset", {})
    generation: dict[str, object] = {"callback_generation": 1, "certificate_generation": 1, "public_key_percent": 100}
    await levers.control("/control/keys", generation if isinstance(running, WechatSimulator) else {"generation": 1})
    return levers


@pytest_asyncio.fixture
async def lab(service: Service, processes: dict[str, Simulator], envelope: Envelope) -> AsyncIterator[Lab]:
    wechat, alipay = await _levers(processes["wechat"]), await _levers(processes["alipay"])
    assert isinstance(alipay, AlipaySimulator)
    async with wiring.channel_session() as session:
        builder = Builder(
            session=session,
            notify_base_url=service.url,
            clock=service.clock,
            timeout_s=SERVICE_TIMEOUT_S,
            tls_only=False,
        )
        service.channels.replace([])
        yield Lab(
            service,
            wechat,
            alipay,
            AccountRefresh(database=service.database, envelope=envelope, builder=builder, channels=service.channels),
        )
    for levers in (wechat, alipay):
        await levers.__aexit__()
