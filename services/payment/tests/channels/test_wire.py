"""Wire formats without a server: known answers, properties, and other people's libraries as judges."""

import base64
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from defray_kernel.errors import ConfigInvalid
from defray_payment.channels.alipay import keys as alipay_keys
from defray_payment.channels.alipay import signing as alipay_signing
from defray_payment.channels.alipay.channel import AlipayChannel
from defray_payment.channels.alipay.money import fen, yuan
from defray_payment.channels.wechat import keys as wechat_keys
from defray_payment.channels.wechat import signing as wechat_signing
from defray_sandbox.simulators.process import AlipaySimulator, Simulator, WechatSimulator

from .conftest import (
    ALIPAY_ACCOUNT,
    CLOCK,
    WECHAT_ACCOUNT,
    Side,
    alipay_side_keys,
    creation,
    wechat_side_keys,
)

sys.path.insert(0, str(Path(__file__).parents[4] / "tests" / "judges"))

ALPHABET = "aZ09 +&=%/\\\"'<>{}[]:,;?#\r\n\t三件衬衫🎩é`"


def texts(count: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices(ALPHABET, k=dice.randrange(0, 200))) for _ in range(count)]


def alipay_at(simulator: Simulator, session: Any, *, certificates: bool) -> AlipayChannel:  # noqa: ANN401
    return AlipayChannel(
        session=session,
        gateway_url="https://openapi.example/gateway.do",
        account=ALIPAY_ACCOUNT,
        keys=alipay_side_keys(simulator.keys_dir, certificates=certificates),
        notify_url="https://pay.example/v1/webhooks/alipay",
        clock=CLOCK,
        timeout_s=1.0,
    )


def test_fen_and_yuan_are_exact() -> None:
    for minor in [*range(2_000), 10**10, 10**10 - 1, 99_999_999_999]:
        assert fen(yuan(minor)) == minor
    assert [yuan(minor) for minor in (0, 1, 10, 100, 123_456)] == ["0.00", "0.01", "0.10", "1.00", "1234.56"]
    assert [fen(text) for text in ("1", "1.5", "1.50", "0.01")] == [100, 150, 150, 1]
    for text in (
        "",
        "1.",
        ".5",
        "1.005",
        "-1.00",
        "+1.00",
        "1e3",
        "1,000.00",
        " 1.00",
        "1.00\n",
        "\u0661",
        "NaN",
        None,
    ):
        assert fen(text) is None, text
    with pytest.raises(ValueError, match="negative"):
        yuan(-1)


def test_the_scanner_finds_the_very_text_of_a_node(processes: dict[str, Simulator]) -> None:
    keys = alipay_side_keys(processes["alipay"].keys_dir, certificates=False)
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    theirs: Any = load_pem_private_key((processes["alipay"].keys_dir / "alipay_private.pem").read_bytes(), None)
    for text in texts(200, 7):
        spoken = json.dumps({"code": "10000", "msg": text + '} \\" {', "n": [1, {"sign": "x"}]}, ensure_ascii=False)
        node = spoken.replace("/", "\\/")
        signature = base64.b64encode(theirs.sign(node.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()
        for body in (
            f'{{"alipay_trade_query_response":{node},"sign":"{signature}"}}',
            f'{{ "sign" : "{signature}" ,\n "alipay_trade_query_response" : {node} }}\n',
        ):
            told = alipay_signing.read_reply(keys, body.encode())
            assert told is not None
            assert (told.name, told.node, told.verified) == ("alipay_trade_query_response", node, True)
        damaged = body.replace("10000", "10003", 1)
        told = alipay_signing.read_reply(keys, damaged.encode())
        assert told is not None
        assert not told.verified


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "{}",
        "[]",
        '{"a_response":{}',
        '{"a_response":{},"a_response":{}}',
        '{"a_response":{},"b_response":{}}',
        '{"a_response":{}}x',
        '{"a_response":',
        '{"a_response" {}}',
        '{"a_response":"',
        '{"a\\u0062_response":{}}',
        "{" * 10_000,
        '{"x":' * 5_000,
        "\ufeff{}",
    ],
)
def test_replies_that_do_not_read(processes: dict[str, Simulator], body: str) -> None:
    keys = alipay_side_keys(processes["alipay"].keys_dir, certificates=False)
    assert alipay_signing.read_reply(keys, body.encode()) is None


def test_in_certificate_mode_a_reply_names_a_certificate_of_ours(processes: dict[str, Simulator]) -> None:
    folder = processes["alipay"].keys_dir
    keys = alipay_side_keys(folder, certificates=True)
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    theirs: Any = load_pem_private_key((folder / "alipay_private.pem").read_bytes(), None)
    node = '{"code":"10000"}'
    signature = base64.b64encode(theirs.sign(node.encode(), padding.PKCS1v15(), hashes.SHA256())).decode()
    first, second = keys.alipay
    for named, good in ((f'"{first}"', True), (f'"{second}"', False), ('"00"', False), ("null", False), ("1", False)):
        told = alipay_signing.read_reply(
            keys, f'{{"a_response":{node},"alipay_cert_sn":{named},"sign":"{signature}"}}'.encode()
        )
        assert told is not None
        assert told.verified == good, named


@pytest.mark.parametrize("certificates", [False, True])
async def test_alipays_own_client_makes_the_signatures_that_we_make(
    processes: dict[str, Simulator], certificates: bool
) -> None:
    import run as judges

    channel = alipay_at(processes["alipay"], None, certificates=certificates)
    requests = []
    for product in ("page", "wap", "app"):
        for text in texts(8, 11):
            made: Any = await channel.create(creation(product, description="x" + text.replace("`", "")))
            data = made.action.data
            query = data.get("order_string") or data["url"].partition("?")[2]
            requests.append(dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True)))
    assert len(requests) > 6
    question = {"keys_dir": str(processes["alipay"].keys_dir), "requests": requests}
    verdicts = judges.ask("alipay", "verify-request", question)
    assert [v["accepted"] for v in verdicts] == [True] * len(requests)


@pytest.mark.parametrize("side", ["alipay", "wechat"], indirect=True)
async def test_other_peoples_clients_accept_what_we_accept(side: Side) -> None:
    import run as judges

    request, _ = await side.paid()
    heard = await side.heard(request.attempt_no, "genuine", "tampered", "forged_key", "genuine")
    question = {"keys_dir": str(side.simulator.keys_dir), "callbacks": heard}
    verdicts = judges.ask(side.name, "verify-callback", question)
    ours = [hasattr(side.judge(each), "callback_id") for each in heard]
    assert [v["accepted"] for v in verdicts] == ours == [True, False, False, True]


def test_what_a_page_or_an_app_hands_to_wechat(processes: dict[str, Simulator]) -> None:
    folder = processes["wechat"].keys_dir
    keys = wechat_side_keys(folder, certificates=False)
    told = wechat_signing.sheet(keys, WECHAT_ACCOUNT, prepay_id="wx1", timestamp_s=1700000000, nonce="n1")
    assert set(told) == {"appId", "timeStamp", "nonceStr", "package", "signType", "paySign"}
    assert (told["package"], told["signType"]) == ("prepay_id=wx1", "RSA")
    public = keys.merchant_private.public_key()
    message = f"{WECHAT_ACCOUNT.app_ref}\n1700000000\nn1\nprepay_id=wx1\n"
    public.verify(base64.b64decode(told["paySign"]), message.encode(), padding.PKCS1v15(), hashes.SHA256())
    app = wechat_signing.app_call(keys, WECHAT_ACCOUNT, prepay_id="wx1", timestamp_s=1700000000, nonce="n1")
    assert set(app) == {"appid", "partnerid", "prepayid", "package", "noncestr", "timestamp", "sign"}
    assert app["package"] == "Sign=WXPay"
    message = f"{WECHAT_ACCOUNT.app_ref}\n1700000000\nn1\nwx1\n"
    public.verify(base64.b64decode(app["sign"]), message.encode(), padding.PKCS1v15(), hashes.SHA256())


class TestKeys:
    """A channel that cannot verify cannot be built."""

    def test_alipay(self, processes: dict[str, Simulator], tmp_path: Path) -> None:
        folder = processes["alipay"].keys_dir
        AlipaySimulator.make_keys(tmp_path / "other")

        def read(name: str, where: Path = folder) -> bytes:
            return (where / name).read_bytes()

        good: dict[str, Any] = {
            "app_private": read("app_private.pem"),
            "alipay": {"k1": read("alipay_certificate.pem")},
            "app_certificate": read("app_certificate.pem"),
            "root": read("alipay_root.pem"),
        }
        parsed = alipay_keys.parse(**good)
        assert parsed.app_cert_sn is not None
        assert "_" in (parsed.root_cert_sn or "")
        other = tmp_path / "other"
        for changes in (
            {"alipay": {}},
            {"alipay": {"k1": b"no key"}},
            {"alipay": {"k1": read("alipay_certificate.pem", other)}},
            {"alipay": {"k1": read("app_certificate.pem", other)}},
            {"alipay": {"k1": read("alipay_root.pem")}},
            {"app_certificate": read("app_certificate.pem", other)},
            {"root": read("alipay_root.pem", other)},
            {"root": None},
            {"app_certificate": None},
            {"app_private": read("app_public.pem")},
            {"alipay": {str(n): read("alipay_certificate.pem") for n in range(9)}},
        ):
            with pytest.raises(ConfigInvalid):
                alipay_keys.parse(**(good | changes))  # type: ignore[arg-type]

    def test_wechat(self, processes: dict[str, Simulator], tmp_path: Path) -> None:
        folder = processes["wechat"].keys_dir
        WechatSimulator.make_keys(tmp_path / "other")
        pem = (folder / "platform_certificate.pem").read_bytes()
        good: dict[str, Any] = {
            "merchant_private": (folder / "merchant_private.pem").read_bytes(),
            "merchant_serial": "1",
            "platform": dict.fromkeys([next(iter(wechat_side_keys(folder, certificates=True).platform))], pem),
            "apiv3": b"k" * 32,
        }
        assert wechat_keys.parse(**good).newest in good["platform"]
        for changes in (
            {"platform": {}},
            {"platform": {"ABCDEF": pem}},
            {"platform": {"ABCDEF": b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"}},
            {"apiv3": b"short"},
            {"merchant_private": b""},
            {"platform": {f"K{n}": (folder / "platform_public.pem").read_bytes() for n in range(17)}},
        ):
            with pytest.raises(ConfigInvalid):
                wechat_keys.parse(**(good | changes))  # type: ignore[arg-type]

    def test_the_key_that_replies_are_asked_for(self, processes: dict[str, Simulator]) -> None:
        folder = processes["wechat"].keys_dir
        certified = wechat_side_keys(folder, certificates=True)
        bare = wechat_side_keys(folder, certificates=False)
        assert certified.newest in certified.platform
        assert bare.newest.startswith("PUB_KEY_ID_")
        assert replace(bare, newest="x").platform == bare.platform

    def test_nothing_secret_is_shown(self, processes: dict[str, Simulator]) -> None:
        shown = repr(wechat_side_keys(processes["wechat"].keys_dir, certificates=False))
        shown += repr(alipay_side_keys(processes["alipay"].keys_dir, certificates=True))
        shown += repr(creation("pay"))
        for secret in ("RSAPrivateKey", "AESGCM", "280000000000000001", "oUpF8uMuAJO"):
            assert secret not in shown
