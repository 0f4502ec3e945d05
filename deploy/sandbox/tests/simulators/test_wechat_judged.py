"""Other people's client drives the simulator and judges what it signs and seals."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from defray_sandbox.simulators.process import WechatSimulator
from defray_sandbox.simulators.wechat.notices import CallbackKind
from tests.judges.run import JudgeFailedError, ask

from .conftest import Merchant, Shop

# The client judges signatures only: it looks at no clock, so stale and future callbacks pass it (a fault of the client).
_JUDGED_GOOD = {CallbackKind.GENUINE, CallbackKind.STALE, CallbackKind.FUTURE}


@pytest.mark.parametrize("judge", ["wechat", "standardwebhooks"])
def test_published_vectors_hold(judge: str) -> None:
    verdict = ask(judge, "known-answers", None)
    assert verdict
    assert all(verdict.values())


def test_a_judge_that_cannot_answer_is_a_failure() -> None:
    with pytest.raises(JudgeFailedError, match="KeyError"):
        ask("wechat", "no-such-verb", None)
    with pytest.raises(JudgeFailedError, match="no judge"):
        ask("nobody", "verify", None)


def _drive(
    simulator: WechatSimulator, *steps: tuple[str, dict[str, object]], generation: int = 1, mode: str = "public_key"
) -> list[Any]:
    question = {
        "mode": mode,
        "keys_dir": str(simulator.keys_dir),
        "base_url": simulator.base_url,
        "generation": generation,
        "steps": steps,
    }
    answers = ask("wechat", "drive", question)
    return [(status, json.loads(body) if body.startswith("{") else body) for status, body in answers]


def _pay(number: str, total: int = 100, **more: object) -> tuple[str, dict[str, object]]:
    return "pay", {
        "description": "衬衫 a+b&c=d %🎩",
        "out_trade_no": number,
        "amount": {"total": total, "currency": "CNY"},
        "notify_url": "http://127.0.0.1:9/notify",
        **more,
    }


async def test_the_unmodified_client_drives_the_whole_product(simulator: WechatSimulator) -> None:
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    first, again, other, unpaid, unknown, close, close_again = _drive(
        simulator,
        _pay("DRIVE-1|*_", time_expire=in_an_hour, attach="附加", support_fapiao=True),
        _pay("DRIVE-1|*_", attach="附加", support_fapiao=True),
        _pay("DRIVE-1|*_", 101),
        ("query", {"out_trade_no": "DRIVE-1%7C%2A_"}),
        ("query", {"out_trade_no": "DRIVE-UNKNOWN"}),
        ("close", {"out_trade_no": "DRIVE-1%7C%2A_"}),
        ("close", {"out_trade_no": "DRIVE-1%7C%2A_"}),
    )
    assert first[0] == again[0] == 200
    assert first[1]["code_url"].startswith("weixin://wxpay/bizpayurl?pr=")
    assert first[1]["code_url"] != again[1]["code_url"]
    assert (other[0], other[1]["code"]) == (400, "INVALID_REQUEST")
    assert (unpaid[0], unpaid[1]["trade_state"], unpaid[1]["attach"]) == (200, "NOTPAY", "附加")
    assert (unknown[0], unknown[1]["code"]) == (404, "ORDER_NOT_EXIST")
    assert close == (204, "")
    assert (close_again[0], close_again[1]["code"]) == (400, "ORDER_CLOSED")


async def test_the_client_sees_a_payment_in_both_generations_of_keys(simulator: WechatSimulator) -> None:
    assert _drive(simulator, _pay("PAID01"))[0][0] == 200
    paid = await simulator.control("/control/pay", {"out_trade_no": "PAID01"})
    for generation in (1, 2):
        by_number, by_id, close, create = _drive(
            simulator,
            ("query", {"out_trade_no": "PAID01"}),
            ("query", {"transaction_id": paid["transaction_id"]}),
            ("close", {"out_trade_no": "PAID01"}),
            _pay("PAID01"),
            generation=generation,
        )
        assert by_number == by_id
        assert by_number[1]["trade_state"] == "SUCCESS"
        assert by_number[1]["amount"] == {
            "total": 100,
            "payer_total": 100,
            "currency": "CNY",
            "payer_currency": "CNY",
        }
        assert (close[0], close[1]["code"]) == (create[0], create[1]["code"]) == (400, "ORDER_PAID")


async def test_the_client_notices_every_broken_reply(simulator: WechatSimulator) -> None:
    assert _drive(simulator, _pay("BROKEN"))[0][0] == 200
    for action in ("unsigned", "wrong_key", "truncated", "drop", "garbage"):
        await simulator.control("/control/faults", {"action": action, "operation": "query", "count": 1})
        broken, well = _drive(simulator, ("query", {"out_trade_no": "BROKEN"}), ("query", {"out_trade_no": "BROKEN"}))
        assert broken[0] is None, action
        assert well[0] == 200, action


async def test_every_kind_of_callback_is_judged_as_meant(
    simulator: WechatSimulator, merchant: Merchant, shop: Shop
) -> None:
    assert (await merchant.create("JUDGED", shop.url, attach="附加")).status == 200
    paid = await simulator.control("/control/pay", {"out_trade_no": "JUDGED", "wait": True})
    assert paid["callbacks"] == [{"kind": "genuine", "status": 204}]
    shop.taken.clear()
    kinds = list(CallbackKind)
    await simulator.control("/control/callbacks/send", {"out_trade_no": "JUDGED", "kinds": kinds})
    for generation in (1, 2):
        question = {
            "keys_dir": str(simulator.keys_dir),
            "generation": generation,
            "callbacks": shop.as_question(),
        }
        verdicts = dict(zip(kinds, ask("wechat", "verify-callback", question), strict=True))
        good = _JUDGED_GOOD if generation == 1 else {CallbackKind.SECOND_GENERATION}
        assert {kind for kind, verdict in verdicts.items() if verdict["accepted"]} == good
    genuine = ask("wechat", "verify-callback", question | {"generation": 1})[0]["event"]
    assert genuine["event_type"] == "TRANSACTION.SUCCESS"
    assert genuine["resource"]["transaction_id"] == paid["transaction_id"]
    assert (genuine["resource"]["out_trade_no"], genuine["resource"]["attach"]) == ("JUDGED", "附加")
    assert genuine["resource"]["amount"]["total"] == 1999


async def test_every_flipped_byte_of_a_callback_is_refused(
    simulator: WechatSimulator, merchant: Merchant, shop: Shop
) -> None:
    await merchant.create("FLIPPED", shop.url)
    await simulator.control("/control/pay", {"out_trade_no": "FLIPPED", "wait": True})
    headers, body = shop.taken[0]
    cases = [{"headers": headers, "body": body.decode()}]
    for name in ("Wechatpay-Timestamp", "Wechatpay-Nonce", "Wechatpay-Signature"):
        value = headers[name]
        flipped = ("1" if value[0] != "1" else "2") + value[1:]
        cases.append({"headers": headers | {name: flipped}, "body": body.decode()})
    cases += [{"headers": headers, "body": body[:-1].decode() + " }"}]
    verdicts = ask("wechat", "verify-callback", {"keys_dir": str(simulator.keys_dir), "callbacks": cases})
    assert [verdict["accepted"] for verdict in verdicts] == [True, False, False, False, False]


async def test_the_client_drives_the_other_products(simulator: WechatSimulator) -> None:
    await simulator.control("/control/payers", {"orders": "SLOW*", "payer": "types_password"})
    await simulator.control("/control/payers", {"orders": "POOR*", "payer": "is_declined"})
    scan = {"pay_type": "CODEPAY", "payer": {"auth_code": "130061098828009406"}}
    scene = {"payer_client_ip": "14.23.150.211", "h5_info": {"type": "Wap"}}
    jsapi, h5, app, paid, slow, slow_again, poor = _drive(
        simulator,
        _pay("JSAPI1", pay_type="JSAPI", payer={"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}),
        _pay("H5H5H5", pay_type="H5", scene_info=scene),
        _pay("APPAPP", pay_type="APP"),
        _pay("FAST01", **scan),
        _pay("SLOW01", **scan),
        _pay("SLOW01", **scan),
        _pay("POOR01", **scan),
    )
    assert (jsapi[0], app[0]) == (200, 200)
    assert jsapi[1]["prepay_id"] != app[1]["prepay_id"]
    assert h5[1]["h5_url"].startswith("https://wx.tenpay.com/")
    assert (paid[0], paid[1]["trade_state"], paid[1]["trade_type"]) == (200, "SUCCESS", "MICROPAY")
    assert (slow[0], slow[1]["code"]) == (slow_again[0], slow_again[1]["code"]) == (202, "USERPAYING")
    assert (poor[0], poor[1]["code"]) == (403, "TRADE_ERROR")
    await simulator.control("/control/pay", {"out_trade_no": "SLOW01"})
    for number in ("JSAPI1", "H5H5H5", "APPAPP"):
        await simulator.control("/control/pay", {"out_trade_no": number})
    seen = _drive(
        simulator,
        *(("query", {"out_trade_no": number}) for number in ("JSAPI1", "H5H5H5", "APPAPP", "SLOW01", "POOR01")),
        ("codepay_reverse", {"out_trade_no": "FAST01"}),
        ("codepay_reverse", {"out_trade_no": "FAST01"}),
        ("codepay_reverse", {"out_trade_no": "JSAPI1"}),
        ("close", {"out_trade_no": "POOR01"}),
        ("query", {"out_trade_no": "FAST01"}),
    )
    assert [body.get("trade_type") for _, body in seen[:4]] == ["JSAPI", "MWEB", "APP", "MICROPAY"]
    assert seen[4][1]["trade_state"] == "PAYERROR"
    assert seen[5] == seen[6]
    assert (seen[5][0], seen[5][1]["out_trade_no"]) == (200, "FAST01")
    assert (seen[7][1]["code"], seen[8][1]["code"]) == ("INVALID_REQUEST", "INVALID_REQUEST")
    assert seen[9][1]["trade_state"] == "REVOKED"
    assert await simulator.control("/books") == {
        "captures": {"CNY": {"count": 5, "amount_minor": 500}},
        "refunds": {"CNY": {"count": 1, "amount_minor": 100}},
    }


async def test_the_client_refunds_and_its_callbacks_open(
    new_simulator: Callable[..., WechatSimulator], shop: Shop
) -> None:
    async with new_simulator("--refund-gap-s", "0") as simulator:
        await prove_refunds_by_the_client(simulator, shop)


async def prove_refunds_by_the_client(simulator: WechatSimulator, shop: Shop) -> None:
    await simulator.control("/control/refunds", {"orders": "R-HELD*", "outcome": "pending"})
    _drive(simulator, _pay("REFUND"))
    await simulator.control("/control/pay", {"out_trade_no": "REFUND"})
    refund = {
        "out_trade_no": "REFUND",
        "out_refund_no": "R-1@x",
        "amount": {"refund": 40, "total": 100, "currency": "CNY"},
    }
    held = refund | {"out_refund_no": "R-HELD", "notify_url": shop.url}
    first, again, other, second, too_much, unknown = _drive(
        simulator,
        ("refund", refund | {"notify_url": shop.url, "reason": "退款"}),
        ("refund", refund | {"notify_url": shop.url, "reason": "退款"}),
        ("refund", refund | {"amount": {"refund": 41, "total": 100, "currency": "CNY"}}),
        ("refund", held),
        ("refund", refund | {"out_refund_no": "R-3", "amount": {"refund": 21, "total": 100, "currency": "CNY"}}),
        ("query_refund", {"out_refund_no": "R-UNKNOWN"}),
    )
    assert (first[0], first[1]["status"]) == (200, "PROCESSING")
    assert again[1]["refund_id"] == first[1]["refund_id"]
    assert (other[1]["code"], too_much[1]["code"]) == ("INVALID_REQUEST", "INVALID_REQUEST")
    assert second[1]["status"] == "PROCESSING"
    assert (unknown[0], unknown[1]["code"]) == (404, "RESOURCE_NOT_EXISTS")
    await shop.wait_for(1)
    settled = await simulator.control(
        "/control/refunds/settle", {"out_refund_no": "R-HELD", "outcome": "abnormal", "wait": True}
    )
    assert settled["callbacks"] == [{"kind": "genuine", "status": 204}]
    done, stuck, order = _drive(
        simulator,
        ("query_refund", {"out_refund_no": "R-1@x"}),
        ("query_refund", {"out_refund_no": "R-HELD"}),
        ("query", {"out_trade_no": "REFUND"}),
    )
    assert (done[1]["status"], stuck[1]["status"]) == ("SUCCESS", "ABNORMAL")
    assert order[1]["trade_state"] == "REFUND"
    question = {"keys_dir": str(simulator.keys_dir), "callbacks": shop.as_question()}
    events = [verdict["event"] for verdict in ask("wechat", "verify-callback", question)]
    assert [event["event_type"] for event in events] == ["REFUND.SUCCESS", "REFUND.ABNORMAL"]
    assert events[0]["resource"]["refund_status"] == "SUCCESS"
    assert events[0]["resource"]["amount"] == {"total": 100, "refund": 40, "payer_total": 100, "payer_refund": 40}
    assert "success_time" not in events[1]["resource"]


async def test_the_client_lives_through_certificates_and_the_move_to_a_public_key(
    simulator: WechatSimulator, merchant: Merchant, shop: Shop
) -> None:
    keys = {"public_key_percent": 0, "certificates_published": 1, "certificate_generation": 1}
    first = (await simulator.control("/control/keys", keys))["certificate_serial"]
    question = {"keys_dir": str(simulator.keys_dir), "base_url": simulator.base_url}
    assert ask("wechat", "certificates", question) == [first]
    assert _drive(simulator, _pay("CERT01"), mode="certificate")[0][0] == 200
    await simulator.control("/control/keys", {"certificates_published": 2})
    both = ask("wechat", "certificates", question)
    second = (await simulator.control("/control/keys", {"certificate_generation": 2}))["certificate_serial"]
    assert both == [first, second]
    assert _drive(simulator, ("query", {"out_trade_no": "CERT01"}), mode="certificate", generation=2)[0][0] == 200
    assert "failed to verify" in _drive(simulator, ("query", {"out_trade_no": "CERT01"}), mode="certificate")[0][1]
    await merchant.create("MOVING", shop.url)
    await simulator.control("/control/keys", {"public_key_percent": 50})
    await simulator.control("/control/pay", {"out_trade_no": "MOVING", "callbacks": 40, "wait": True})
    serials = [headers["Wechatpay-Serial"] for headers, _ in shop.taken]
    assert set(serials) == {second, merchant.platform_serial}
    assert 5 < serials.count(second) < 35
    for mode, generation, serial in (("certificate", 2, second), ("public_key", 1, merchant.platform_serial)):
        verdicts = ask(
            "wechat",
            "verify-callback",
            {**question, "mode": mode, "generation": generation, "callbacks": shop.as_question()},
        )
        assert [verdict["accepted"] for verdict in verdicts] == [each == serial for each in serials]


async def test_headers_of_the_client_pass_the_simulator_and_ours_pass_the_client(
    simulator: WechatSimulator, merchant: Merchant
) -> None:
    target = "/v3/pay/transactions/native"
    bodies = [
        json.dumps(merchant.order(f"AUTH{number:04d}", description=text), ensure_ascii=False)
        for number, text in enumerate(["汉字", "a+b&c=d%20", "🎩 ", '"\\/', "  blanks  ", "x" * 127])
    ]
    requests = [{"method": "POST", "target": target, "body": body} for body in bodies]
    theirs = ask("wechat", "authorize", {"keys_dir": str(simulator.keys_dir), "requests": requests})
    for body, header in zip(bodies, theirs, strict=True):
        assert (await merchant.call("POST", target, raw=body.encode(), Authorization=header)).status == 200
    ours = [merchant.authorization("POST", target, body.encode()) for body in bodies]
    forged = merchant.authorization("POST", target, b"{}")
    signed = [
        request | {"authorization": header}
        for request, header in zip([*requests, requests[0]], [*ours, forged], strict=True)
    ]
    verdicts = ask("wechat", "verify-authorization", {"keys_dir": str(simulator.keys_dir), "requests": signed})
    assert [verdict["accepted"] for verdict in verdicts] == [True] * len(bodies) + [False]
    assert verdicts[-1]["why"] == "signature"


def test_the_judges_locks_name_no_index_and_pin_the_judge() -> None:
    folder = Path(__file__).parents[4] / "tests" / "judges"
    for judge, pin in (("wechat", "wechatpayv3==2.0.4"), ("standardwebhooks", "standardwebhooks==1.1.0")):
        lock = (folder / judge / "requirements.lock").read_text(encoding="utf-8")
        assert pin in lock
        assert "://" not in lock
