"""How the WeChat adapter judges callbacks: forgeries, keys in overlap, absurd content, other people's client."""

import base64
import datetime as dt
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from defray_kernel.clock import SystemClock
from defray_kernel.ids import uuid7
from defray_kernel.money import Money
from defray_payment import wiring
from defray_payment.channels.spi import CreatePayment, Next, Notice, Outcome, PaymentView, Trouble, Unverified
from defray_payment.channels.wechat import signing, wire
from defray_payment.channels.wechat.channel import WechatChannel
from defray_payment.channels.wechat.keys import WechatKeys
from defray_payment.domain.attempt import number_of
from defray_payment.domain.refusals import CaseReason
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


async def callbacks(simulator: WechatSimulator, channel: WechatChannel, *kinds: str, **overrides: object) -> list[Any]:
    """Signed callbacks of a paid order as they would be sent, for each kind."""
    request = creation()
    view(await channel.create(request))
    await simulator.control("/control/callbacks", {"never": True})
    await simulator.control("/control/pay", {"out_trade_no": request.attempt_no})
    wish: dict[str, object] = {"out_trade_no": request.attempt_no, "kinds": list(kinds), "dry_run": True}
    if overrides:
        wish["overrides"] = overrides
    return list((await simulator.control("/control/callbacks/send", wish))["callbacks"])


def judge(channel: WechatChannel, heard: dict[str, Any], now: dt.datetime | None = None) -> Notice | Unverified:
    headers = {name.lower(): value for name, value in heard["headers"].items()}
    return channel.verify(headers, heard["body"].encode(), now or CLOCK.real())


class TestCallbacks:
    async def test_genuine_ones_of_both_live_keys(self, channel: WechatChannel, simulator: WechatSimulator) -> None:
        for heard in await callbacks(simulator, channel, "genuine", "second_generation"):
            notice = judge(channel, heard)
            assert isinstance(notice, Notice)
            assert notice.fault is None
            assert notice.view is not None
            assert (notice.view.report, notice.view.amount_minor) == (Report.PAID, 1999)
            assert notice.callback_id.startswith("EV-")

    async def test_a_repeat_sealed_anew_has_the_same_digest(
        self, channel: WechatChannel, simulator: WechatSimulator
    ) -> None:
        first, second = (judge(channel, heard) for heard in await callbacks(simulator, channel, "genuine", "genuine"))
        assert isinstance(first, Notice)
        assert isinstance(second, Notice)
        assert (first.callback_id, first.digest) == (second.callback_id, second.digest)

    async def test_every_forgery_is_refused(self, channel: WechatChannel, simulator: WechatSimulator) -> None:
        kinds = [
            "tampered",
            "probe",
            "forged_key",
            "unknown_serial",
            "stale",
            "future",
            "no_signature",
            "wrong_apiv3_key",
        ]
        heard = await callbacks(simulator, channel, *kinds)
        reasons = {each["kind"]: judge(channel, each) for each in heard}
        assert {kind: told.reason for kind, told in reasons.items() if isinstance(told, Unverified)} == {
            "tampered": "signature",
            "probe": "signature_form",
            "forged_key": "signature",
            "unknown_serial": "unknown_serial",
            "stale": "stale",
            "future": "stale",
            "no_signature": "header_missing",
            "wrong_apiv3_key": "seal",
        }

    async def test_every_flipped_byte_and_missing_header_is_refused_without_io(
        self, channel: WechatChannel, simulator: WechatSimulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (heard,) = await callbacks(simulator, channel, "genuine")
        headers = {name.lower(): value for name, value in heard["headers"].items()}
        body, now = heard["body"].encode(), CLOCK.real()

        def no_io(*_: object, **__: object) -> None:
            raise AssertionError("verify did I/O")

        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", no_io)
            patched.setattr("builtins.open", no_io)
            assert isinstance(channel.verify(headers, body, now), Notice)
            assert isinstance(
                channel.verify({k: v for k, v in headers.items() if k != "wechatpay-signature-type"}, body, now), Notice
            )
            for name in ("timestamp", "nonce", "serial", "signature"):
                left = {k: v for k, v in headers.items() if k != f"wechatpay-{name}"}
                assert isinstance(channel.verify(left, body, now), Unverified)
                value = headers[f"wechatpay-{name}"]
                for position in range(0, len(value), 7):
                    changed = value[:position] + ("A" if value[position] != "A" else "B") + value[position + 1 :]
                    assert isinstance(channel.verify(headers | {f"wechatpay-{name}": changed}, body, now), Unverified)
            for position in range(0, len(body), 3):
                flipped = body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]
                assert isinstance(channel.verify(headers, flipped, now), Unverified)
            reserialised = json.dumps(json.loads(body), indent=1).encode()
            assert isinstance(channel.verify(headers, reserialised, now), Unverified)
            for algorithm in ("none", "WECHATPAY2-SM2-WITH-SM3", "HMAC-SHA256"):
                told = channel.verify(headers | {"wechatpay-signature-type": algorithm}, body, now)
                assert told == Unverified(reason="algorithm")
            for ahead_s in (-302, 302):
                assert channel.verify(headers, body, now + dt.timedelta(seconds=ahead_s)) == Unverified(reason="stale")

    async def test_a_retired_key_is_refused_after_the_overlap(
        self, channel: WechatChannel, simulator: WechatSimulator, our_keys: WechatKeys
    ) -> None:
        from dataclasses import replace

        heard = await callbacks(simulator, channel, "genuine", "second_generation")
        second = heard[1]["headers"]["Wechatpay-Serial"]
        only_new = {serial: key for serial, key in our_keys.platform.items() if serial == second}
        async with wiring.channel_session() as session:
            after = wechat(simulator, session, replace(our_keys, platform=only_new), CLOCK, "http://127.0.0.1:9/n")
        assert judge(after, heard[0]) == Unverified(
            reason="unknown_serial", unknown_key=heard[0]["headers"]["Wechatpay-Serial"]
        )
        assert isinstance(judge(after, heard[1]), Notice)

    async def test_other_peoples_client_accepts_what_we_accept(
        self, channel: WechatChannel, simulator: WechatSimulator
    ) -> None:
        import run as judges

        heard = await callbacks(simulator, channel, "genuine", "tampered", "forged_key")
        question = {"keys_dir": str(simulator.keys_dir), "callbacks": heard}
        verdicts = judges.ask("wechat", "verify-callback", question)
        assert [v["accepted"] for v in verdicts] == [isinstance(judge(channel, each), Notice) for each in heard]

    @pytest.mark.parametrize(
        ("state", "report"),
        [("REFUND", Report.PAID), ("CLOSED", Report.CLOSED), ("BRANDNEW", Report.UNCLEAR), ("success", Report.UNCLEAR)],
    )
    async def test_native_states(
        self, channel: WechatChannel, simulator: WechatSimulator, state: str, report: Report
    ) -> None:
        (heard,) = await callbacks(simulator, channel, "genuine", trade_state=state)
        notice = judge(channel, heard)
        assert isinstance(notice, Notice)
        assert notice.view is not None
        assert (notice.view.report, notice.view.native_state) == (report, state)


async def test_other_peoples_client_accepts_our_signatures(our_keys: WechatKeys, channel_keys: Path) -> None:
    import run as judges

    requests = []
    for method, target, body in [
        ("POST", f"{wire.TRANSACTIONS}/native", '{"description":"三件 & + = %","x":"🎩"}'),
        ("GET", "/v3/pay/transactions/out-trade-no/A1?mchid=1900000109", ""),
        ("POST", "/v3/pay/transactions/out-trade-no/A1/close", '{"mchid":"1900000109"}'),
    ]:
        header = signing.authorization(
            our_keys,
            mchid="1900000109",
            method=method,
            target=target,
            body=body.encode(),
            timestamp_s=int(CLOCK.real().timestamp()),
            nonce="0123456789abcdef0123456789abcdef",
        )
        requests.append({"method": method, "target": target, "body": body, "authorization": header})
    verdicts = judges.ask("wechat", "verify-authorization", {"keys_dir": str(channel_keys), "requests": requests})
    assert [v["accepted"] for v in verdicts] == [True] * 3, verdicts


class TestWire:
    def test_the_known_answer_of_the_official_sdk(self, our_keys: WechatKeys) -> None:
        from dataclasses import replace

        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        known = replace(our_keys, apiv3=AESGCM(b"a7cde1ZJB1kG2e7VfTs3jQzaWizur8Gb"))
        sealed = "ulwSiIajGClcvcOYvOQ7+l+0PAbzzwI="
        opened = signing.unseal(known, nonce="uluk4a9R25RW", ciphertext=sealed, associated_data="associatedData")
        assert opened == b"message"
        damaged = base64.b64encode(base64.b64decode(sealed)[:-1] + b"x").decode()
        for ciphertext in (damaged, "", "!", "AAAA"):
            assert signing.unseal(known, nonce="uluk4a9R25RW", ciphertext=ciphertext, associated_data="") is None
        assert signing.unseal(known, nonce="", ciphertext=sealed, associated_data="associatedData") is None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"null",
            b"{}",
            b"\xff\xfe",
            b'{"out_trade_no": 7}',
            b'{"out_trade_no": "A1B2C3", "amount": {"total": "1999"}}',
            b'{"out_trade_no": "A1B2C3", "amount": {"total": 1999.5}}',
            b'{"out_trade_no": "A1B2C3", "amount": {"total": NaN}}',
            b'{"out_trade_no": "A1\\u0000B2C3"}',
            b'{"out_trade_no": "short"}',
            b'{"out_trade_no": "A1B2C3", "trade_state": 1}',
            b'{"out_trade_no": "A1B2C3\xed\xa0\x80"}',
        ],
    )
    def test_what_does_not_read_is_no_view(self, body: bytes) -> None:
        assert wire.read_transaction(body) is None
        told = wire.read_notice(wire.Callback(id="EV-1", event_type="TRANSACTION.SUCCESS", resource=None), body)  # type: ignore[arg-type]
        assert (told.view, told.fault) == (None, CaseReason.UNREADABLE_NOTICE)

    def test_absurd_values_are_kept_out_of_the_database_and_prove_nothing(self) -> None:
        body = {
            "out_trade_no": "A1B2C3",
            "trade_state": "PAID\u0000" + "x" * 100,
            "mchid": "m" * 500,
            "appid": "wx\u0000",
            "transaction_id": "T" * 65,
            "success_time": "yesterday",
            "amount": {"total": 10**30, "currency": "C N Y"},
        }
        told = wire.read_transaction(json.dumps(body).encode())
        assert told is None or (told.report, told.amount_minor) == (Report.UNCLEAR, None)
        body["amount"] = {"total": 10**17, "currency": "C N Y"}
        told = wire.read_transaction(json.dumps(body).encode())
        assert told is not None
        assert (told.report, told.native_state, told.merchant_ref, told.app_ref) == (Report.UNCLEAR, "?", "?", "?")
        assert (told.channel_txn_id, told.paid_at, told.amount_minor, told.currency) == (None, None, None, "?")

    @pytest.mark.parametrize("text", ["", "0001-01-01T00:00:00+08:00", "9999-12-31T23:59:59-08:00", "2026-11-24", "x"])
    def test_a_time_that_is_none_is_not_told(self, text: str) -> None:
        body = {"out_trade_no": "A1B2C3", "trade_state": "SUCCESS", "success_time": text}
        told = wire.read_transaction(json.dumps(body).encode())
        assert told is not None
        assert told.paid_at is None

    def test_other_notices_are_genuine_and_not_applied(self) -> None:
        told = wire.read_notice(
            wire.Callback(id="\u0000" * 200, event_type="MCHTRANSFER.BILL.FINISHED", resource=None), b"{}"
        )  # type: ignore[arg-type]
        assert (told.view, told.fault) == (None, CaseReason.UNSUPPORTED_NOTICE)
        assert told.callback_id.startswith("sha256:")
        assert len(told.callback_id) <= 80
