"""The simulator takes nothing that the real channel would not, and says so in the channel's words."""

import json
import time
from typing import Any

import pytest

from defray_sandbox.simulators.process import APPID, MCHID, WechatSimulator

from .conftest import NATIVE, Merchant

_GOODS = {"merchant_goods_id": "1", "quantity": 1, "unit_price": 5}

# Changes to a good body (None leaves the field out), and the pointer of the field that is refused.
_BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"appid": None}, "/appid"),
    ({"mchid": None}, "/mchid"),
    ({"description": None}, "/description"),
    ({"description": ""}, "/description"),
    ({"description": "x" * 128}, "/description"),
    ({"description": 7}, "/description"),
    ({"out_trade_no": None}, "/out_trade_no"),
    ({"out_trade_no": "SHORT"}, "/out_trade_no"),
    ({"out_trade_no": "X" * 33}, "/out_trade_no"),
    ({"out_trade_no": "WITH BLANK"}, "/out_trade_no"),
    ({"out_trade_no": "NUMBER\u0661\u0662"}, "/out_trade_no"),
    ({"out_trade_no": "NEWLINE\n"}, "/out_trade_no"),
    ({"notify_url": None}, "/notify_url"),
    ({"notify_url": "http://merchant.example/notify"}, "/notify_url"),
    ({"notify_url": "https://merchant.example/notify?a=1"}, "/notify_url"),
    ({"notify_url": "https://merchant.example/notify#a"}, "/notify_url"),
    ({"notify_url": "https://user@merchant.example/notify"}, "/notify_url"),
    ({"notify_url": "merchant.example/notify"}, "/notify_url"),
    ({"notify_url": "https://merchant.example/" + "n" * 255}, "/notify_url"),
    ({"amount": None}, "/amount"),
    ({"amount": 1999}, "/amount"),
    ({"amount": {}}, "/amount/total"),
    ({"amount": {"total": 0}}, "/amount/total"),
    ({"amount": {"total": -1}}, "/amount/total"),
    ({"amount": {"total": "1999"}}, "/amount/total"),
    ({"amount": {"total": 19.99}}, "/amount/total"),
    ({"amount": {"total": 1999.0}}, "/amount/total"),
    ({"amount": {"total": True}}, "/amount/total"),
    ({"amount": {"total": 10**10 + 1}}, "/amount/total"),
    ({"amount": {"total": 1, "currency": "USD"}}, "/amount/currency"),
    ({"amount": {"total": 1, "currency": "CNY", "minor": 1}}, "/amount/minor"),
    ({"attach": "x" * 129}, "/attach"),
    ({"time_expire": "2026-11-24"}, "/time_expire"),
    ({"time_expire": "2026-11-24T10:00:00"}, "/time_expire"),
    ({"time_expire": "2020-01-01T00:00:00+08:00"}, "/time_expire"),
    ({"time_expire": "2027-13-01T00:00:00+08:00"}, "/time_expire"),
    ({"time_expire": 1900000000}, "/time_expire"),
    ({"support_fapiao": "yes"}, "/support_fapiao"),
    ({"payer": {"openid": "o"}}, "/payer"),
    ({"colour": "red"}, "/colour"),
    ({"scene_info": {}}, "/scene_info/payer_client_ip"),
    ({"detail": {"goods_detail": [_GOODS, {}]}}, "/detail/goods_detail/1/merchant_goods_id"),
]
_BAD_JSON = [
    b"",
    b"[]",
    b"null",
    b"{",
    b"\xff\xfe",
    b'{"mchid":NaN}',
    b'{"a":' * 5000,
    b"[" * 50_000,
    b'{"mchid":"1900000109","mchid":"1900000109"}',
    b'{"pad":"' + b"x" * 70_000 + b'"}',
]


async def test_every_wrong_field_is_refused_by_name(merchant: Merchant, simulator: WechatSimulator) -> None:
    for changes, field in _BAD_FIELDS:
        answer = await merchant.call("POST", NATIVE, merchant.order("STRICT01", **changes))
        assert (answer.status, answer.body["code"]) == (400, "PARAM_ERROR"), changes
        assert answer.body["detail"]["field"] == field, changes
        assert answer.verified, changes
    assert (await simulator.control("/control/statistics"))["orders_created"] == 0


async def test_what_is_no_strict_json_is_refused(merchant: Merchant) -> None:
    for raw in _BAD_JSON:
        answer = await merchant.call("POST", NATIVE, raw=raw)
        assert (answer.status, answer.body["code"]) == (400, "PARAM_ERROR"), raw[:20]
    lone = json.dumps(merchant.order("STRICT01", description="\ud800"), ensure_ascii=True).encode()
    answer = await merchant.call("POST", NATIVE, raw=lone)
    assert answer.body["detail"]["field"] == "/description"


async def test_limits_are_inclusive(merchant: Merchant) -> None:
    for number, changes in {
        "SIXSIX": {"description": "x" * 127, "attach": "x" * 128},
        "Az09_-|*" + "x" * 24: {"amount": {"total": 10**10}},
        "ONEFEN": {"amount": {"total": 1}, "attach": ""},
    }.items():
        assert (await merchant.create(number, **changes)).status == 200, number


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"appid": "wx0000000000000000"}, 400, "APPID_MCHID_NOT_MATCH"),
        ({"mchid": "1900000110"}, 400, "MCH_NOT_EXISTS"),
    ],
)
async def test_other_accounts_are_refused(merchant: Merchant, changes: dict[str, Any], status: int, code: str) -> None:
    answer = await merchant.call("POST", NATIVE, merchant.order("STRICT01") | changes)
    assert (answer.status, answer.body["code"]) == (status, code)


async def test_wrong_authorization_is_401_and_unsigned(merchant: Merchant, simulator: WechatSimulator) -> None:
    body = json.dumps(merchant.order("STRICT01")).encode()

    def header(method: str = "POST", target: str = NATIVE, signed: bytes = body, **changes: str) -> str:
        return merchant.authorization(method, target, signed, **changes)

    now = int(time.time())
    wrong: dict[str, str | None] = {
        "absent": None,
        "empty": "",
        "scheme": header().replace("WECHATPAY2", "WECHATPAY3", 1),
        "method": header(method="GET"),
        "target": header(target=NATIVE + "?a=1"),
        "body": header(signed=body + b" "),
        "mchid": header(mchid="1900000110"),
        "serial": header(serial_no="7777"),
        "nonce changed": header(nonce_str="0" * 32),
        "nonce short": header(nonce_str="0"),
        "timestamp changed": header(timestamp=str(now - 7)),
        "stale": header(signed_timestamp=str(now - 302)),
        "future": header(signed_timestamp=str(now + 303)),
        "signature": header(signature="AAAA"),
        "not base64": header(signature="*"),
        "field twice": header() + ',mchid="1900000109"',
        "field more": header() + ',extra="1"',
        "field less": header().replace('mchid="1900000109",', ""),
        "no quotes": header().replace('"', ""),
        "endless": header() + "x" * 3000,
    }
    for name, authorization in wrong.items():
        answer = await merchant.call("POST", NATIVE, raw=body, Authorization=authorization)
        assert (answer.status, answer.body["code"]) == (401, "SIGN_ERROR"), name
        assert "Wechatpay-Signature" not in answer.headers, name
    assert (await merchant.call("POST", NATIVE, raw=body, Authorization=header())).status == 200
    assert (await simulator.control("/control/statistics"))["orders_created"] == 1


async def test_headers_are_checked(merchant: Merchant) -> None:
    body = merchant.order("STRICT01")
    for field, value, status, code in (
        ("Content_Type", "text/plain", 400, "PARAM_ERROR"),
        ("Content_Type", None, 400, "PARAM_ERROR"),
        ("Accept", "text/html", 400, "PARAM_ERROR"),
        ("User_Agent", None, 400, "PARAM_ERROR"),
        ("Wechatpay_Serial", None, 400, "PARAM_ERROR"),
        ("Wechatpay_Serial", "PUB_KEY_ID_0", 404, "RESOURCE_NOT_EXISTS"),
    ):
        answer = await merchant.call("POST", NATIVE, body, **{field: value})
        assert (answer.status, answer.body["code"]) == (status, code), (field, value)
        assert answer.body["detail"]["field"] == field.replace("_", "-")
    assert (await merchant.call("POST", NATIVE, body, Content_Type="application/json; charset=utf-8")).status == 200


async def test_queries_and_closes_are_checked(merchant: Merchant) -> None:
    order = "/v3/pay/transactions/out-trade-no/"
    for method, target, body, status, code in (
        ("GET", f"{order}STRICT01", None, 400, "PARAM_ERROR"),
        ("GET", f"{order}STRICT01?mchid=1", None, 400, "MCH_NOT_EXISTS"),
        ("GET", f"{order}STRICT01?mchid={MCHID}&mchid={MCHID}", None, 400, "PARAM_ERROR"),
        ("GET", f"{order}STRICT01?mchid={MCHID}&a=1", None, 400, "PARAM_ERROR"),
        ("GET", f"{order}STRICT01?mchid={MCHID}", {}, 400, "PARAM_ERROR"),
        ("GET", f"{order}NO?mchid={MCHID}", None, 400, "PARAM_ERROR"),
        ("GET", f"{order}STRICT01?mchid={MCHID}", None, 404, "ORDER_NOT_EXIST"),
        ("GET", f"/v3/pay/transactions/id/4200?mchid={MCHID}", None, 404, "ORDER_NOT_EXIST"),
        ("POST", f"{order}STRICT01/close", None, 400, "PARAM_ERROR"),
        ("POST", f"{order}STRICT01/close", {"mchid": "1"}, 400, "MCH_NOT_EXISTS"),
        ("POST", f"{order}STRICT01/close", {"mchid": MCHID, "appid": APPID}, 400, "PARAM_ERROR"),
        ("POST", f"{order}STRICT01/close", {"mchid": MCHID}, 404, "ORDER_NOT_EXIST"),
    ):
        answer = await merchant.call(method, target, body)
        assert (answer.status, answer.body["code"]) == (status, code), target


async def test_the_close_is_signed_over_an_empty_body(merchant: Merchant) -> None:
    await merchant.create("STRICT01")
    answer = await merchant.close("STRICT01")
    assert (answer.status, answer.body, answer.verified) == (204, {}, True)


async def test_orders_end_in_business_time(merchant: Merchant, simulator: WechatSimulator) -> None:
    in_ten_minutes = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 600))
    await merchant.create("ENDING", time_expire=in_ten_minutes)
    await merchant.create("ENDLESS")
    # The end of payment is taken on the first request only, so a repeat with another one is still the same order.
    assert (await merchant.create("ENDING")).status == 200
    await simulator.control("/control/clock", {"offset_s": 700})
    for body in ({"out_trade_no": "ENDING"}, {"out_trade_no": "ENDING", "wait": True}):
        with pytest.raises(Exception, match=r"409.*cannot be paid"):
            await simulator.control("/control/pay", body)
    assert (await merchant.query("ENDING")).body["trade_state"] == "NOTPAY"
    assert (await simulator.control("/control/clock", {"offset_s": 5})) == {"offset_s": 700}
    assert (await merchant.query("ENDLESS")).body["trade_state"] == "NOTPAY"
    await simulator.control("/control/clock", {"offset_s": 8 * 86400})
    assert (await merchant.query("ENDLESS")).body["trade_state"] == "CLOSED"
    assert (await merchant.create("ENDLESS")).body["code"] == "ORDER_CLOSED"
