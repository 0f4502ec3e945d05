"""The WeChat adapter against the channel's simulator and other people's client: outcomes, faults, callbacks, keys."""

import datetime as dt
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from defray_kernel.clock import SystemClock
from defray_kernel.errors import ConfigInvalid
from defray_kernel.ids import uuid7
from defray_kernel.money import Money
from defray_payment import wiring
from defray_payment.channels.spi import CreatePayment, Kind, Next, Outcome, PaymentView, Trouble
from defray_payment.channels.wechat import keys
from defray_payment.channels.wechat.channel import WechatChannel
from defray_payment.channels.wechat.keys import WechatKeys
from defray_payment.domain.attempt import number_of
from defray_payment.domain.reports import Report
from defray_sandbox.simulators.process import WechatSimulator

from .conftest import wechat

sys.path.insert(0, str(Path(__file__).parents[3] / "tests" / "judges"))

CLOCK = SystemClock()
UNKNOWN_QUERY = (Outcome.UNKNOWN, Next.QUERY)


def creation(number: str | None = None, **changes: object) -> CreatePayment:
    values: dict[str, Any] = {
        "attempt_no": number or number_of(uuid7()),
        "product": "native",
        "amount": Money(minor=1999, currency="CNY"),
        "description": "三件衬衫 & a hat 🎩 + = %",
        "expires_at": CLOCK.now() + dt.timedelta(hours=1),
        "again": False,
    }
    return CreatePayment(**(values | changes))


@pytest_asyncio.fixture
async def channel(simulator: WechatSimulator, our_keys: WechatKeys) -> AsyncIterator[WechatChannel]:
    async with wiring.channel_session() as session:
        yield wechat(simulator, session, our_keys, CLOCK, "http://127.0.0.1:9/v1/webhooks/wechat")


def trouble(said: PaymentView | Trouble) -> Trouble:
    assert isinstance(said, Trouble)
    return said


def view(said: PaymentView | Trouble) -> PaymentView:
    assert isinstance(said, PaymentView), said
    return said


async def test_the_life_of_an_order(channel: WechatChannel, simulator: WechatSimulator) -> None:
    request = creation()
    number = request.attempt_no
    opened = view(await channel.create(request))
    assert opened.report is Report.OPENED
    assert opened.action is not None
    assert opened.action.data["code_url"].startswith("weixin://")
    again = view(await channel.create(creation(number, expires_at=request.expires_at, again=True)))
    assert again.action is not None
    other = trouble(await channel.create(creation(number, amount=Money(minor=1, currency="CNY"), again=True)))
    assert (other.kind, other.outcome, other.next) == (Kind.CONFLICT, *UNKNOWN_QUERY)
    asked = view(await channel.query(number))
    assert (asked.report, asked.native_state, asked.amount_minor) == (Report.OPENED, "NOTPAY", 1999)
    await simulator.control("/control/pay", {"out_trade_no": number})
    paid = view(await channel.query(number))
    assert (paid.report, paid.amount_minor, paid.currency) == (Report.PAID, 1999, "CNY")
    assert (paid.merchant_ref, paid.app_ref) == (channel.account.merchant_ref, channel.account.app_ref)
    assert paid.channel_txn_id
    assert paid.paid_at is not None
    refused = trouble(await channel.close(number))
    assert (refused.kind, refused.outcome, refused.next) == (Kind.CONFLICT, *UNKNOWN_QUERY)


async def test_close_and_what_is_not_there(channel: WechatChannel) -> None:
    request = creation()
    missing = trouble(await channel.query(request.attempt_no))
    assert (missing.kind, missing.outcome) == (Kind.NOT_FOUND, Outcome.NOT_APPLIED)
    assert trouble(await channel.close(request.attempt_no)).kind is Kind.NOT_FOUND
    view(await channel.create(request))
    assert view(await channel.close(request.attempt_no)).report is Report.CLOSED
    assert view(await channel.query(request.attempt_no)).report is Report.CLOSED
    assert trouble(await channel.create(creation(request.attempt_no, again=True))).outcome is Outcome.UNKNOWN


async def test_a_definite_refusal_of_a_first_request_only(channel: WechatChannel) -> None:
    first = trouble(await channel.create(creation("P0")))
    assert (first.kind, first.outcome, first.next) == (Kind.INVALID, Outcome.NOT_APPLIED, Next.FAIL)
    again = trouble(await channel.create(creation("P0", again=True)))
    assert (again.outcome, again.next) == UNKNOWN_QUERY


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("delay", Kind.TIMEOUT),
        ("drop", Kind.TIMEOUT),
        ("truncated", Kind.TIMEOUT),
        ("500", Kind.UNAVAILABLE),
        ("502", Kind.UNAVAILABLE),
        ("garbage", None),
        ("unsigned", Kind.UNVERIFIED),
        ("wrong_key", Kind.UNVERIFIED),
    ],
)
async def test_a_lost_answer_is_unknown_and_a_query_tells_the_truth(
    channel: WechatChannel, simulator: WechatSimulator, moment: str, action: str, kind: Kind | None
) -> None:
    request = creation()
    fault: dict[str, object] = {"action": action, "operation": "native", "moment": moment, "count": 1}
    if action == "delay":
        fault["delay_s"] = 1.4
    try:
        await simulator.control("/control/faults", fault)
    except Exception:  # noqa: BLE001 - a fault that this moment cannot have
        pytest.fail(f"the simulator offers no {action} {moment}")
    said = await channel.create(request)
    if isinstance(said, PaymentView):
        pytest.fail(f"{action} {moment} was no fault")
    assert (said.outcome, said.next) == UNKNOWN_QUERY
    assert kind is None or said.kind is kind
    asked = await channel.query(request.attempt_no)
    if isinstance(asked, Trouble):
        assert asked.kind is Kind.NOT_FOUND
    else:
        assert asked.report is Report.OPENED
    await simulator.control("/control/faults/clear", {})
    assert view(await channel.create(creation(request.attempt_no, expires_at=request.expires_at, again=True)))
    statistics = await simulator.control(f"/control/orders/{request.attempt_no}")
    assert statistics["total"] == 1999


async def test_a_limit_is_not_applied_and_says_how_long(channel: WechatChannel, simulator: WechatSimulator) -> None:
    fault = {"action": "429", "operation": "native", "moment": "before_apply", "count": 1, "retry_after_s": 7}
    await simulator.control("/control/faults", fault)
    said = trouble(await channel.create(creation()))
    assert (said.kind, said.outcome, said.next) == (Kind.RATE_LIMITED, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER)
    assert said.retry_after_s == 7


async def test_nobody_listens(our_keys: WechatKeys) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with wiring.channel_session() as session:
        lonely = WechatChannel(
            session=session,
            base_url=f"http://127.0.0.1:{port}",
            account=wire_account(),
            keys=our_keys,
            notify_url="http://127.0.0.1:9/n",
            clock=CLOCK,
            timeout_s=1,
        )
        said = trouble(await lonely.create(creation()))
    assert (said.kind, said.outcome, said.next) == (Kind.UNREACHED, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER)


def wire_account() -> Any:  # noqa: ANN401
    from .given import ACCOUNT

    return ACCOUNT


async def test_a_wrong_key_of_ours_is_an_alarm_and_nothing_else(
    simulator: WechatSimulator, our_keys: WechatKeys
) -> None:
    from dataclasses import replace

    async with wiring.channel_session() as session:
        stranger = wechat(simulator, session, replace(our_keys, merchant_serial="77"), CLOCK, "http://127.0.0.1:9/n")
        said = trouble(await stranger.create(creation()))
    assert (said.kind, said.outcome, said.next) == (Kind.AUTH, Outcome.NOT_APPLIED, Next.ALERT)


@pytest.mark.parametrize("kind", list(Kind))
def test_an_unknown_outcome_settled_as_failed_cannot_be_made(kind: Kind) -> None:
    with pytest.raises(ValueError, match="never"):
        Trouble(kind=kind, outcome=Outcome.UNKNOWN, next=Next.FAIL)


@pytest.mark.parametrize("missing", ["platform", "apiv3_short", "no_file", "not_a_key"])
def test_a_channel_that_cannot_verify_does_not_start(channel_keys: Path, tmp_path: Path, missing: str) -> None:
    platform, apiv3 = tmp_path / "platform", channel_keys / "apiv3_key.txt"
    platform.mkdir()
    if missing != "platform":
        content = b"no key" if missing == "not_a_key" else (channel_keys / "platform_public.pem").read_bytes()
        (platform / "PUB_KEY_ID_1.pem").write_bytes(content)
    if missing == "apiv3_short":
        apiv3 = tmp_path / "apiv3"
        apiv3.write_text("short")
    if missing == "no_file":
        apiv3 = tmp_path / "absent"
    with pytest.raises(ConfigInvalid):
        keys.load(
            merchant_private_file=channel_keys / "merchant_private.pem",
            merchant_serial="77",
            platform_dir=platform,
            apiv3_key_file=apiv3,
        )


async def test_a_reply_without_end_is_cut(our_keys: WechatKeys) -> None:
    from aiohttp import web

    async def flood(_: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(_)
        for _unused in range(200):
            await response.write(b"x" * 65536)
        return response

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", flood)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with wiring.channel_session() as session:
        flooded = WechatChannel(
            session=session,
            base_url=f"http://127.0.0.1:{runner.addresses[0][1]}",
            account=wire_account(),
            keys=our_keys,
            notify_url="http://127.0.0.1:9/n",
            clock=CLOCK,
            timeout_s=5,
        )
        said = trouble(await flooded.query("A" * 26))
    await runner.cleanup()
    assert (said.kind, said.outcome, said.next) == (Kind.PROTOCOL, *UNKNOWN_QUERY)
