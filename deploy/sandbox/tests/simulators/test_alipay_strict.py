"""The simulated gateway takes nothing that the real one would not, and says so in the channel's words."""

import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest

from defray_sandbox.simulators.alipay.amounts import to_fen, to_text
from defray_sandbox.simulators.process import AlipaySimulator

from .alipay_merchant import AlipayMerchant, beijing_text

# Changes to a good biz_content (None leaves the field out), and the pointer of the field that is refused.
_BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"out_trade_no": None}, "/out_trade_no"),
    ({"out_trade_no": "WITH-HYPHEN"}, "/out_trade_no"),
    ({"out_trade_no": "X" * 65}, "/out_trade_no"),
    ({"out_trade_no": 7}, "/out_trade_no"),
    ({"subject": None}, "/subject"),
    ({"subject": "x" * 257}, "/subject"),
    ({"total_amount": None}, "/total_amount"),
    ({"total_amount": 19.99}, "/total_amount"),
    ({"total_amount": 19}, "/total_amount"),
    ({"total_amount": "0.00"}, "/total_amount"),
    ({"total_amount": "19.9"}, "/total_amount"),
    ({"total_amount": "19"}, "/total_amount"),
    ({"total_amount": "19.990"}, "/total_amount"),
    ({"total_amount": "019.99"}, "/total_amount"),
    ({"total_amount": "-1.00"}, "/total_amount"),
    ({"total_amount": "+1.00"}, "/total_amount"),
    ({"total_amount": "1,000.00"}, "/total_amount"),
    ({"total_amount": "1e2"}, "/total_amount"),
    ({"total_amount": " 1.00"}, "/total_amount"),
    ({"total_amount": "1.00\n"}, "/total_amount"),
    ({"total_amount": "\u0661.00"}, "/total_amount"),
    ({"total_amount": "100000000.01"}, "/total_amount"),
    ({"time_expire": "2026-11-24T10:00:00"}, "/time_expire"),
    ({"time_expire": "2020-01-01 00:00:00"}, "/time_expire"),
    ({"time_expire": "2027-13-01 00:00:00"}, "/time_expire"),
    ({"timeout_express": "16d"}, "/timeout_express"),
    ({"timeout_express": "0m"}, "/timeout_express"),
    ({"timeout_express": "90"}, "/timeout_express"),
    ({"seller_id": "2088000000000002"}, "/seller_id"),
    ({"product_code": "QUICK_WAP_WAY"}, "/product_code"),
    ({"auth_code": "28763443825664394"}, "/auth_code"),
    ({"colour": "red"}, "/colour"),
]
_BAD_JSON = ["", "[]", "null", "{", '{"a":NaN}', '{"out_trade_no":"A","out_trade_no":"A"}', "[" * 50_000]

# Changes to good common parameters before they are signed, and the refusal; unsigned ones come in an error_response.
_BAD_PARAMETERS: list[tuple[dict[str, str | None], str, str, bool]] = [
    ({"app_id": None}, "40001", "isv.missing-app-id", False),
    ({"app_id": "2021000000000002"}, "40002", "isv.invalid-app-id", False),
    ({"method": None}, "40001", "isv.missing-method", False),
    ({"method": "alipay.trade.guess"}, "40002", "isv.invalid-method", False),
    ({"method": "alipay.trade.app.pay"}, "40002", "isv.invalid-method", False),
    ({"sign_type": None}, "40001", "isv.missing-signature-type", True),
    ({"sign_type": "RSA"}, "40002", "isv.invalid-signature-type", True),
    ({"sign": None}, "40001", "isv.missing-signature", True),
    ({"sign": "AAAA"}, "40002", "isv.invalid-signature", True),
    ({"sign": "*"}, "40002", "isv.invalid-signature", True),
    ({"charset": None}, "40001", "isv.missing-charset", True),
    ({"charset": "gbk"}, "40002", "isv.invalid-charset", True),
    ({"version": None}, "40001", "isv.missing-version", True),
    ({"version": "2.0"}, "40002", "isv.invalid-version", True),
    ({"format": "XML"}, "40002", "isv.invalid-format", True),
    ({"timestamp": None}, "40001", "isv.missing-timestamp", True),
    ({"timestamp": "2026-11-24T10:00:00"}, "40002", "isv.invalid-timestamp", True),
    ({"app_auth_token": "other"}, "20001", "aop.invalid-app-auth-token", True),
    ({"notify_url": "ftp://merchant.example/"}, "40002", "isv.invalid-parameter", True),
    ({"notify_url": "/relative"}, "40002", "isv.invalid-parameter", True),
    ({"return_url": "https://user@merchant.example/"}, "40002", "isv.invalid-parameter", True),
    ({"prod_code": "x"}, "40002", "isv.invalid-parameter", True),
]


def test_amounts_are_exact_both_ways() -> None:
    for fen in (1, 9, 10, 99, 100, 101, 1999, 10**10):
        assert to_fen(to_text(fen)) == fen
    assert [to_text(fen) for fen in (0, 5, 123, -5)] == ["0.00", "0.05", "1.23", "-0.05"]


async def test_every_wrong_field_is_refused_by_name(seller: AlipayMerchant, alipay: AlipaySimulator) -> None:
    for changes, field in _BAD_FIELDS:
        answer = await seller.call("precreate", seller.order("STRICT_1", **changes))
        assert (answer.code, answer.sub_code) == ("40004", "ACQ.INVALID_PARAMETER"), changes
        assert field in str(answer.node["sub_msg"]), changes
        assert answer.verified, changes
    for raw in _BAD_JSON:
        answer = await seller.call("precreate", raw)
        assert (answer.code, answer.sub_code) == ("40004", "ACQ.INVALID_PARAMETER"), raw[:20]
    assert (await alipay.control("/control/statistics"))["codes_made"] == 0


async def test_every_wrong_parameter_is_refused(seller: AlipayMerchant, alipay: AlipaySimulator) -> None:
    for changes, code, sub_code, signed in _BAD_PARAMETERS:
        answer = await seller.call("precreate", seller.order("STRICT_1"), **changes)
        assert (answer.code, answer.sub_code) == (code, sub_code), changes
        assert answer.verified is signed, changes
        assert (answer.name == "error_response") is not signed, changes
    now = time.time()
    for off_s, good in ((-500, True), (-700, False), (700, False), (-8 * 3600, False)):
        answer = await seller.call("query", {"out_trade_no": "A"}, timestamp=beijing_text(now + off_s))
        assert (answer.sub_code == "ACQ.TRADE_NOT_EXIST") is good, off_s
    assert (await alipay.control("/control/statistics"))["codes_made"] == 0


async def test_forms_are_read_strictly(seller: AlipayMerchant) -> None:
    parameters = seller.parameters("query", {"out_trade_no": "A"})
    good = urlencode(parameters)
    assert (await seller.post("", good)).sub_code == "ACQ.TRADE_NOT_EXIST"
    assert (await seller.post(good, "")).sub_code == "ACQ.TRADE_NOT_EXIST"
    for query, body in (
        ("", f"{good}&method=alipay.trade.close"),
        ("method=alipay.trade.query", good),
        ("", f"{good}&%FF=1"),
        ("", f"{good}&novalue"),
    ):
        answer = await seller.post(query, body)
        assert (answer.name, answer.sub_code) == ("error_response", "isv.invalid-parameter"), (query, body)
    assert (await seller.post("", good, "application/json")).sub_code == "isv.invalid-parameter"
    # A signature over other parameters does not hold for these.
    swapped = urlencode(parameters | {"biz_content": json.dumps({"out_trade_no": "B"})})
    assert (await seller.post("", swapped)).sub_code == "isv.invalid-signature"


async def test_a_blank_parameter_is_not_signed(seller: AlipayMerchant) -> None:
    answer = await seller.call("query", {"out_trade_no": "A"}, notify_url="")
    assert answer.sub_code == "ACQ.TRADE_NOT_EXIST"


async def test_other_bodies_are_checked(seller: AlipayMerchant) -> None:
    for method, content, field in (
        ("query", {}, "/out_trade_no"),
        ("query", {"trade_no": "A"}, "/trade_no"),
        ("close", {"out_trade_no": "A", "reason": "b"}, "/reason"),
        ("cancel", {"out_trade_no": ""}, "/out_trade_no"),
        ("refund", {"out_trade_no": "A"}, "/refund_amount"),
        ("refund", {"out_trade_no": "A", "refund_amount": 1}, "/refund_amount"),
        ("refund", {"refund_amount": "1.00"}, "/out_trade_no"),
        ("fastpay.refund.query", {"out_trade_no": "A"}, "/out_request_no"),
        ("pay", seller.order("A_1", scene="bar_code"), "/auth_code"),
        ("pay", seller.order("A_1", scene="bar_code", auth_code="18763443825664394"), "/auth_code"),
        ("create", seller.order("A_1"), "/buyer_id"),
    ):
        answer = await seller.call(method, content)
        assert answer.sub_code == "ACQ.INVALID_PARAMETER", (method, content)
        assert field in str(answer.node["sub_msg"]), (method, content)


async def test_a_browser_opens_the_cashier(seller: AlipayMerchant, alipay: AlipaySimulator) -> None:
    order = seller.order("PAGE_1", product_code="FAST_INSTANT_TRADE_PAY")
    link = seller.link("page.pay", order, return_url="https://shop.example/back?a=1")
    async with seller.session.get(link) as page:
        assert (page.status, page.content_type) == (200, "text/html")
        assert "cashier" in await page.text()
    paid = await alipay.control("/control/pay", {"out_trade_no": "PAGE_1"})
    assert paid["return_url"].startswith("https://shop.example/back?a=1&")
    assert (await seller.call("query", {"trade_no": paid["trade_no"]})).node["trade_status"] == "TRADE_SUCCESS"
    with pytest.raises(Exception, match=r"409.*TRADE_HAS_SUCCESS"):
        await alipay.control("/control/open", {"link": link})
    other = seller.link("page.pay", order | {"total_amount": "0.01"})
    with pytest.raises(Exception, match=r"409.*CONTEXT_INCONSISTENT"):
        await alipay.control("/control/open", {"link": other})
