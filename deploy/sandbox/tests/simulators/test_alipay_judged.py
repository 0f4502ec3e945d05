"""Alipay's own client drives the simulator and judges what it signs; only its connection function is replaced."""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from defray_sandbox.simulators.alipay.keys import certificate_sn
from defray_sandbox.simulators.alipay.notices import CallbackKind
from defray_sandbox.simulators.process import AlipaySimulator
from tests.judges.run import ask

from .alipay_merchant import AlipayMerchant
from .conftest import Shop

# The client judges signatures only: it looks at no time, at no sign_type, and takes SHA-1 (faults of the client).
# A repeated field is lost before it looks, when the form is taken apart.
_JUDGED_GOOD = {
    CallbackKind.GENUINE,
    CallbackKind.BLANK_FIELD,
    CallbackKind.STALE,
    CallbackKind.FUTURE,
    CallbackKind.SHA1,
    CallbackKind.WRONG_SIGN_TYPE,
    CallbackKind.REPEATED_FIELD,
}
_PRODUCTS = {
    "page": {"product_code": "FAST_INSTANT_TRADE_PAY"},
    "wap": {"product_code": "QUICK_WAP_WAY", "quit_url": "https://shop.example/back"},
    "app": {"product_code": "QUICK_MSECURITY_PAY"},
}


def _question(simulator: AlipaySimulator, **more: object) -> dict[str, object]:
    return {"keys_dir": str(simulator.keys_dir), "base_url": simulator.base_url, **more}


def _drive(simulator: AlipaySimulator, *steps: tuple[str, dict[str, object]], generation: int = 1) -> list[Any]:
    notify = {"notify_url": "http://127.0.0.1:9/notify"}
    answers: list[Any] = ask("alipay", "drive", _question(simulator, steps=steps, generation=generation, **notify))
    return answers


def _order(number: str, total: str = "19.99", **more: object) -> dict[str, object]:
    return {"out_trade_no": number, "total_amount": total, "subject": "衬衫 a+b&c=d %🎩", **more}


async def test_the_clients_whole_way_of_a_code(alipay: AlipaySimulator) -> None:
    one = {"out_trade_no": "DRIVE_1"}
    made, other, again, unknown, unopened = _drive(
        alipay,
        ("precreate", _order("DRIVE_1")),
        ("precreate", _order("DRIVE_1", "20.00")),
        ("precreate", _order("DRIVE_1")),
        ("query", {"out_trade_no": "UNKNOWN"}),
        ("close", one),
    )
    assert made["qr_code"] == again["qr_code"]
    assert made["qr_code"].startswith("https://qr.alipay.com/")
    assert other["sub_code"] == "ACQ.CONTEXT_INCONSISTENT"
    assert unknown["sub_code"] == unopened["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    opened = await alipay.control("/control/open", {"link": made["qr_code"]})
    waiting, closed, twice, late = _drive(
        alipay, ("query", one), ("close", one), ("close", one), ("precreate", _order("DRIVE_1"))
    )
    assert (waiting["trade_status"], waiting["total_amount"]) == ("WAIT_BUYER_PAY", "19.99")
    assert closed["trade_no"] == opened["trade_no"]
    assert twice["sub_code"] == "ACQ.TRADE_STATUS_ERROR"
    assert late["sub_code"] == "ACQ.TRADE_HAS_CLOSE"


async def test_the_client_pays_refunds_and_asks_in_both_generations(alipay: AlipaySimulator) -> None:
    one = {"out_trade_no": "PAID_1"}
    _drive(alipay, ("precreate", _order("PAID_1")))
    await alipay.control("/control/pay", one)
    refund = one | {"refund_amount": "5.00", "out_request_no": "R_1"}
    paid, part, repeated, other, asked, rest, too_much, none = _drive(
        alipay,
        ("query", one),
        ("refund", refund),
        ("refund", refund),
        ("refund", refund | {"refund_amount": "5.01"}),
        ("refund_query", one | {"out_request_no": "R_1"}),
        ("refund", one | {"refund_amount": "14.99", "out_request_no": "R_2"}),
        ("refund", one | {"refund_amount": "0.01", "out_request_no": "R_3"}),
        ("refund_query", one | {"out_request_no": "R_3"}),
    )
    assert paid["trade_status"] == "TRADE_SUCCESS"
    assert (part["fund_change"], part["refund_fee"]) == ("Y", "5.00")
    assert (repeated["fund_change"], repeated["refund_fee"]) == ("N", "5.00")
    assert other["sub_code"] == "ACQ.DISCORDANT_REPEAT_REQUEST"
    assert (asked["refund_status"], asked["refund_amount"]) == ("REFUND_SUCCESS", "5.00")
    assert (rest["fund_change"], rest["refund_fee"]) == ("Y", "19.99")
    assert too_much["sub_code"] == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    assert none == {"code": "10000", "msg": "Success"}
    assert await alipay.control("/books") == {
        "captures": {"CNY": {"count": 1, "amount_minor": 1999}},
        "refunds": {"CNY": {"count": 2, "amount_minor": 1999}},
    }
    await alipay.control("/control/keys", {"generation": 2})
    assert "verify failed" in _drive(alipay, ("query", one))[0]["error"]
    assert _drive(alipay, ("query", one), generation=2)[0]["trade_status"] == "TRADE_CLOSED"


async def test_the_clients_codes_creates_and_cancels(alipay: AlipaySimulator) -> None:
    scan = {"auth_code": "28763443825664394", "scene": "bar_code"}
    await alipay.control("/control/payers", {"orders": "SLOW*", "payer": "types_password"})
    await alipay.control("/control/payers", {"orders": "POOR*", "payer": "is_declined"})
    paid, slow, poor, created, cancelled, again, unknown = _drive(
        alipay,
        ("pay", _order("FAST_1", **scan)),
        ("pay", _order("SLOW_1", **scan)),
        ("pay", _order("POOR_1", **scan)),
        ("create", _order("CREATED_1", buyer_id="2088102146225135")),
        ("cancel", {"out_trade_no": "FAST_1"}),
        ("cancel", {"out_trade_no": "FAST_1"}),
        ("cancel", {"out_trade_no": "POOR_1"}),
    )
    assert (paid["code"], paid["total_amount"]) == ("10000", "19.99")
    assert (slow["code"], poor["sub_code"]) == ("10003", "ACQ.BUYER_BALANCE_NOT_ENOUGH")
    assert created["trade_no"]
    assert cancelled == again
    assert (cancelled["action"], cancelled["retry_flag"]) == ("refund", "N")
    assert unknown == {"code": "10000", "msg": "Success", "out_trade_no": "POOR_1", "retry_flag": "N"}
    await alipay.control("/control/pay", {"out_trade_no": "SLOW_1"})
    assert _drive(alipay, ("query", {"out_trade_no": "SLOW_1"}))[0]["trade_status"] == "TRADE_SUCCESS"


@pytest.mark.parametrize("method", sorted(_PRODUCTS))
async def test_a_trade_comes_to_be_when_the_payer_opens_the_clients_link(method: str, alipay: AlipaySimulator) -> None:
    number = f"LINK_{method}"
    order = _order(number, time_expire="2099-01-01 00:00:00", **_PRODUCTS[method])
    link = ask("alipay", "link", _question(alipay, method=method, arguments=order))
    assert _drive(alipay, ("query", {"out_trade_no": number}))[0]["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    tampered = link.replace("19.99", "19.98")
    assert tampered != link
    with pytest.raises(Exception, match=r"409.*invalid-signature"):
        await alipay.control("/control/open", {"link": tampered})
    assert (await alipay.control("/control/open", {"link": link}))["state"] == "WAIT_BUYER_PAY"
    await alipay.control("/control/pay", {"link": link})
    assert _drive(alipay, ("query", {"out_trade_no": number}))[0]["trade_status"] == "TRADE_SUCCESS"


async def test_every_kind_of_notification_is_judged_as_meant(
    alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop
) -> None:
    await seller.call("precreate", seller.order("JUDGED", body="附加 + & ="), notify_url=taker.url)
    paid = await alipay.control("/control/pay", {"out_trade_no": "JUDGED", "wait": True})
    assert paid["callbacks"] == [{"kind": "genuine", "status": 200}]
    taker.taken.clear()
    kinds = list(CallbackKind)
    await alipay.control("/control/callbacks/send", {"out_trade_no": "JUDGED", "kinds": kinds})
    for generation in (1, 2):
        question = _question(alipay, generation=generation, callbacks=taker.as_question())
        verdicts = dict(zip(kinds, ask("alipay", "verify-callback", question), strict=True))
        good = _JUDGED_GOOD if generation == 1 else {CallbackKind.SECOND_GENERATION}
        assert {kind for kind, verdict in verdicts.items() if verdict["accepted"]} == good
    assert len({form["notify_id"] for form in taker.forms()}) == 1
    told = taker.forms()[0]
    assert (told["trade_status"], told["total_amount"], told["body"]) == ("TRADE_SUCCESS", "19.99", "附加 + & =")
    assert "refund_fee" not in told


async def test_requests_of_the_client_and_ours_are_signed_alike(seller: AlipayMerchant) -> None:
    texts = ["汉字", "a+b&c=d%20", "🎩 ", '"\\/', "  blanks  ", "line\r\nbreak", "x" * 256]
    requests = [seller.parameters("precreate", seller.order("AUTH_1", subject=text)) for text in texts]
    forged = requests[0] | {"timestamp": "2020-01-01 00:00:00"}
    verdicts = ask("alipay", "verify-request", _question(seller.simulator, requests=[*requests, forged]))
    assert [verdict["accepted"] for verdict in verdicts] == [True] * len(texts) + [False]


async def test_certificate_mode_names_the_certificate_whose_key_signed(
    alipay: AlipaySimulator, seller: AlipayMerchant
) -> None:
    seller.certificate_mode = True
    for generation, suffix in ((1, ""), (2, "_2")):
        await alipay.control("/control/keys", {"generation": generation})
        answer = await seller.call("precreate", seller.order(f"CERT_{generation}"))
        certificate = x509.load_pem_x509_certificate((seller.keys_dir / f"alipay_certificate{suffix}.pem").read_bytes())
        assert answer.certificate_sn == certificate_sn(certificate)
        public = certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        start = answer.text.index(":") + 1
        texts = [[answer.text[start : answer.text.index(',"alipay_cert_sn"')], answer.text.rsplit('"', 2)[1]]]
        assert ask("alipay", "verify-text", {"public_pem": public.decode(), "texts": texts}) == [True]
    wanted = {"alipay_cert_sn": answer.certificate_sn}
    method = "alipay.open.app.alipaycert.download"
    assert (await seller.call("", wanted, method=method)).node["alipay_cert_content"]
    refused = await seller.call("", {"alipay_cert_sn": "0" * 32}, method=method)
    assert refused.sub_code == "isv.invalid-alipay-cert-sn"
    assert (await seller.call("query", {"out_trade_no": "A"}, app_cert_sn="0" * 32)).sub_code == "isv.invalid-signature"


def test_the_judges_lock_names_no_index_and_pins_the_judge() -> None:
    lock = Path(__file__).parents[4] / "tests" / "judges" / "alipay" / "requirements.lock"
    text = lock.read_text(encoding="utf-8")
    assert "alipay-sdk-python==3.7.1411" in text
    assert "://" not in text
