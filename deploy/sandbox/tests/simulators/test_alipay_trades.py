"""Trades, refunds and notifications of the simulated gateway: what is told, when, how often, and what outlives a crash."""

import stat
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from defray_sandbox.simulators.alipay.keys import generate
from defray_sandbox.simulators.alipay.messages import SCHEDULE_S
from defray_sandbox.simulators.process import AlipaySimulator, SimulatorFailedError

from .alipay_merchant import AlipayMerchant
from .conftest import Shop

_APP = {"product_code": "QUICK_MSECURITY_PAY"}


async def _pay(alipay: AlipaySimulator, seller: AlipayMerchant, shop: Shop, number: str, **more: object) -> list[int]:
    """Pay through a QR code; returns what the shop answered."""
    made = await seller.call("precreate", seller.order(number), notify_url=shop.url)
    assert made.code == "10000"
    paid = await alipay.control("/control/pay", {"out_trade_no": number, "wait": True, **more})
    return [callback["status"] for callback in paid["callbacks"]]


async def _open_app(alipay: AlipaySimulator, seller: AlipayMerchant, shop: Shop, number: str, **more: str) -> None:
    link = seller.link("app.pay", seller.order(number, **_APP, **more), notify_url=shop.url).partition("?")[2]
    await alipay.control("/control/open", {"link": link})


def test_the_schedule_is_the_channels() -> None:
    assert SCHEDULE_S == (240, 600, 600, 3600, 7200, 21600, 54000)


async def test_only_the_exact_word_acknowledges(alipay: AlipaySimulator, seller: AlipayMerchant, shop: Shop) -> None:
    shop.body = b"SUCCESS"
    assert await _pay(alipay, seller, shop, "WORD_1") == [200]
    for said in (b'"success"', b"success\n", b" success", b"ok"):
        before = len(shop.taken)
        shop.body = said
        await shop.wait_for(before + 1)
    shop.body = b"success"
    await shop.wait_for(len(shop.taken) + 1)
    forms = shop.forms()
    assert len({form["notify_id"] for form in forms}) == 1
    statistics = await alipay.control("/control/statistics")
    assert (statistics["orders_notified"], statistics["callbacks"]["callbacks_taken"]) == (1, 1)


async def test_money_can_arrive_after_the_close(alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop) -> None:
    await _open_app(alipay, seller, taker, "LATE_1")
    assert (await seller.call("close", {"out_trade_no": "LATE_1"})).code == "10000"
    with pytest.raises(Exception, match="409"):
        await alipay.control("/control/pay", {"out_trade_no": "LATE_1"})
    await alipay.control("/control/pay", {"out_trade_no": "LATE_1", "late": True, "wait": True})
    assert (await seller.call("query", {"out_trade_no": "LATE_1"})).node["trade_status"] == "TRADE_SUCCESS"
    with pytest.raises(Exception, match="409"):
        await alipay.control("/control/pay", {"out_trade_no": "LATE_1", "late": True})
    assert (await alipay.control("/books"))["captures"]["CNY"]["count"] == 1


async def test_refund_notices_are_told_from_payments(
    alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop
) -> None:
    await _pay(alipay, seller, taker, "NOTICE_1")
    for number, amount in (("R_1", "5.00"), ("R_2", "14.99")):
        refund = {"out_trade_no": "NOTICE_1", "refund_amount": amount, "out_request_no": number}
        assert (await seller.call("refund", refund)).node["fund_change"] == "Y"
    await taker.wait_for(3)
    told = sorted(taker.forms(), key=lambda form: form.get("refund_fee", ""))
    seen = [(form["trade_status"], form.get("refund_fee"), form.get("out_biz_no")) for form in told]
    assert seen == [
        ("TRADE_SUCCESS", None, None),
        ("TRADE_CLOSED", "19.99", "R_2"),
        ("TRADE_SUCCESS", "5.00", "R_1"),
    ]
    assert all(("gmt_refund" in form) == ("refund_fee" in form) for form in told)
    assert len({form["notify_id"] for form in told}) == 3


async def test_who_is_told_of_a_close(alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop) -> None:
    await seller.call("precreate", seller.order("SILENT_1"), notify_url=taker.url)
    await alipay.control("/control/open", {"out_trade_no": "SILENT_1"})
    assert (await seller.call("close", {"out_trade_no": "SILENT_1"})).code == "10000"
    await _open_app(alipay, seller, taker, "CLOSED_1")
    assert (await seller.call("close", {"out_trade_no": "CLOSED_1"})).code == "10000"
    await _open_app(alipay, seller, taker, "EXPIRED_1", timeout_express="5m")
    await taker.wait_for(1)
    await alipay.control("/control/clock", {"offset_s": 400})
    await taker.wait_for(2)
    told = [(form["out_trade_no"], form["trade_status"], "refund_fee" in form) for form in taker.forms()]
    assert told == [("CLOSED_1", "TRADE_CLOSED", False), ("EXPIRED_1", "TRADE_CLOSED", False)]
    with pytest.raises(SimulatorFailedError, match=r"409.*TRADE_CLOSED"):
        await alipay.control("/control/pay", {"out_trade_no": "EXPIRED_1"})
    await _open_app(alipay, seller, taker, "FINISHED_1")
    await alipay.control("/control/pay", {"out_trade_no": "FINISHED_1", "wait": True})
    await alipay.control("/control/finish", {"out_trade_no": "FINISHED_1"})
    await taker.wait_for(4)
    assert taker.forms()[-1]["trade_status"] == "TRADE_FINISHED"
    refund = {"out_trade_no": "FINISHED_1", "refund_amount": "1.00", "out_request_no": "R_1"}
    assert (await seller.call("refund", refund)).sub_code == "ACQ.TRADE_HAS_FINISHED"


async def test_an_unopened_code_dies_only_with_its_time(alipay: AlipaySimulator, seller: AlipayMerchant) -> None:
    await seller.call("precreate", seller.order("CODE_1", timeout_express="10m"))
    for method in ("close", "query"):
        assert (await seller.call(method, {"out_trade_no": "CODE_1"})).sub_code == "ACQ.TRADE_NOT_EXIST"
    # Nothing at the channel was closed: the payer may still open it.
    assert (await alipay.control("/control/open", {"out_trade_no": "CODE_1"}))["state"] == "WAIT_BUYER_PAY"
    await seller.call("precreate", seller.order("CODE_2", timeout_express="10m"))
    await alipay.control("/control/clock", {"offset_s": 601})
    with pytest.raises(SimulatorFailedError, match="409"):
        await alipay.control("/control/open", {"out_trade_no": "CODE_2"})


async def test_refunds_that_take_their_time(alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop) -> None:
    await _pay(alipay, seller, taker, "TIME_1")
    day_s = 86_400
    await alipay.control("/control/refunds", {"orders": "LATE*", "outcome": "success", "after_s": day_s})
    await alipay.control("/control/refunds", {"orders": "FAIL*", "outcome": "closed", "after_s": 3 * day_s})
    await alipay.control("/control/refunds", {"orders": "HELD*", "outcome": "pending"})
    for number in ("LATE_1", "FAIL_1", "HELD_1"):
        refund = {"out_trade_no": "TIME_1", "refund_amount": "6.00", "out_request_no": number}
        first, second = await seller.call("refund", refund), await seller.call("refund", refund)
        assert (first.node["fund_change"], second.node["fund_change"]) == ("N", "N")
        asked = await seller.call("fastpay.refund.query", {"out_trade_no": "TIME_1", "out_request_no": number})
        assert asked.node == {"code": "10000", "msg": "Success"}
    too_much = {"out_trade_no": "TIME_1", "refund_amount": "2.00", "out_request_no": "MORE_1"}
    assert (await seller.call("refund", too_much)).sub_code == "ACQ.REFUND_AMT_NOT_EQUAL_TOTAL"
    await alipay.control("/control/clock", {"offset_s": day_s + 1})
    asked = await seller.call(
        "fastpay.refund.query",
        {"out_trade_no": "TIME_1", "out_request_no": "LATE_1", "query_options": ["gmt_refund_pay"]},
    )
    assert (asked.node["refund_status"], "gmt_refund_pay" in asked.node) == ("REFUND_SUCCESS", True)
    await taker.wait_for(2)
    await alipay.control("/control/clock", {"offset_s": 3 * day_s + 1})
    # What failed can be given back anew, and nobody is told of the failure.
    assert (await seller.call("refund", too_much)).node["fund_change"] == "Y"
    settle = {"out_trade_no": "TIME_1", "out_request_no": "HELD_1", "outcome": "success", "wait": True}
    assert (await alipay.control("/control/refunds/settle", settle))["callbacks"] == [
        {"kind": "genuine", "status": 200}
    ]
    with pytest.raises(SimulatorFailedError, match="409"):
        await alipay.control("/control/refunds/settle", settle)
    await taker.wait_for(4)
    assert [form["out_biz_no"] for form in taker.forms()[1:]] == ["LATE_1", "MORE_1", "HELD_1"]
    statistics = await alipay.control("/control/statistics")
    assert (statistics["refunds_created"], statistics["refunds_succeeded"], statistics["refunds_failed"]) == (4, 3, 1)
    assert statistics["refunded_more_than_paid"] == 0


async def test_the_pause_between_refunds(new_alipay: Callable[..., AlipaySimulator], taker: Shop) -> None:
    async with new_alipay() as alipay, aiohttp.ClientSession(trust_env=False) as session:
        seller = AlipayMerchant(alipay, session)
        await _pay(alipay, seller, taker, "PAUSE_1")
        refund = {"out_trade_no": "PAUSE_1", "refund_amount": "1.00", "out_request_no": "R_1"}
        assert (await seller.call("refund", refund)).code == "10000"
        assert (await seller.call("refund", refund | {"out_request_no": "R_2"})).code == "40005"
        await alipay.control("/control/clock", {"offset_s": 4})
        assert (await seller.call("refund", refund | {"out_request_no": "R_2"})).code == "10000"


async def test_plans_for_notifications(alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop) -> None:
    for body in (
        {"orders": "NEVER*", "never": True},
        {"orders": "TWICE*", "duplicates": 2},
        {"orders": "TURNED*", "reorder": 2, "count": 2},
    ):
        await alipay.control("/control/callbacks", body)
    assert await _pay(alipay, seller, taker, "NEVER_1") == []
    assert await _pay(alipay, seller, taker, "TWICE_1") == [200, 200]
    assert await _pay(alipay, seller, taker, "TURNED_1") == []
    assert await _pay(alipay, seller, taker, "TURNED_2") == [200, 200]
    assert [form["out_trade_no"] for form in taker.forms()] == ["TWICE_1"] * 2 + ["TURNED_2", "TURNED_1"]
    assert await _pay(alipay, seller, taker, "AT_ONCE", callbacks=50, concurrent=True) == [200] * 50
    scan = {"auth_code": "28763443825664394", "scene": "bar_code"}
    await alipay.control("/control/callbacks", {"orders": "EARLY*", "before_answer": True})
    before = len(taker.taken)
    assert (await seller.call("pay", seller.order("EARLY_1", **scan), notify_url=taker.url)).code == "10000"
    assert len(taker.taken) == before + 1


async def test_a_lying_channel(alipay: AlipaySimulator, seller: AlipayMerchant, taker: Shop) -> None:
    await _pay(alipay, seller, taker, "LIAR_1", total=1)
    overrides = {"total_amount": "5.00", "seller_id": "2088000000000002", "app_id": "2021000000000002"}
    sent = {"out_trade_no": "LIAR_1", "overrides": overrides}
    await alipay.control("/control/callbacks/send", sent)
    told = [(form["total_amount"], form["seller_id"]) for form in taker.forms()]
    assert told == [("0.01", "2088000000000001"), ("5.00", "2088000000000002")]
    made = await alipay.control("/control/callbacks/send", {**sent, "kinds": ["genuine", "sha1"], "dry_run": True})
    assert [callback["kind"] for callback in made["callbacks"]] == ["genuine", "sha1"]
    assert len(taker.taken) == 2


async def test_everything_outlives_a_crash(new_alipay: Callable[..., AlipaySimulator], shop: Shop) -> None:
    shop.answers = [503]
    async with new_alipay("--refund-gap-s", "0") as alipay, aiohttp.ClientSession(trust_env=False) as session:
        seller = AlipayMerchant(alipay, session)
        code = (await seller.call("precreate", seller.order("CODE_1"))).node["qr_code"]
        assert await _pay(alipay, seller, shop, "CRASH_1") == [503]
        await alipay.control("/control/refunds", {"orders": "HELD*", "outcome": "pending"})
        refund = {"out_trade_no": "CRASH_1", "refund_amount": "1.00", "out_request_no": "HELD_1"}
        await seller.call("refund", refund)
        before = (await seller.call("query", {"out_trade_no": "CRASH_1"})).node
        shop.body = b"success"
        await alipay.kill()
        with alipay.state_file.open("ab") as ledger:
            ledger.write(b'{"event":"created","num')
        await alipay.start()
        await shop.wait_for(2)
        assert (await seller.call("query", {"out_trade_no": "CRASH_1"})).node == before
        assert (await seller.call("refund", refund)).node["fund_change"] == "N"
        assert (await alipay.control("/control/open", {"link": code}))["out_trade_no"] == "CODE_1"
        statistics = await alipay.control("/control/statistics")
        assert (statistics["orders_notified"], statistics["refunds_created"]) == (1, 1)
        with pytest.raises(SimulatorFailedError, match="LedgerInUseError"):
            await AlipaySimulator(alipay.folder).start()
        await alipay.control("/control/reset", {})
        await alipay.kill()
        await alipay.start()
        assert (await alipay.control("/control/orders"))["orders"] == []
    assert len(shop.taken) == 2


async def test_it_never_posts_to_the_internet(alipay: AlipaySimulator, seller: AlipayMerchant) -> None:
    await seller.call("precreate", seller.order("OUTSIDE"), notify_url="https://merchant.example/notify")
    await alipay.control("/control/pay", {"out_trade_no": "OUTSIDE", "wait": True})
    statistics = await alipay.control("/control/statistics")
    assert statistics["callbacks"]["callbacks_not_deliverable"] >= 1
    assert "callbacks_sent" not in statistics["callbacks"]


def test_keys_are_private_and_made_once(tmp_path: Path) -> None:
    generate(tmp_path / "keys")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    generate(tmp_path / "keys")
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    (tmp_path / "keys" / "alipay_root.pem").unlink()
    with pytest.raises(FileExistsError, match="only a part"):
        generate(tmp_path / "keys")
