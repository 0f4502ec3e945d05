"""The conformance suite, callbacks: what proves itself is heard, what does not is refused, and nothing is read wrongly."""

import datetime as dt
import sys
from urllib.parse import parse_qsl, urlencode

import pytest

from defray_payment.channels.spi import Notice, PaymentView, RefundView, Unverified
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import RefundReport, Report

from .conftest import CLOCK, PRICE, Side, channel_of, refund_view

REFUSED = {
    "wechat": [
        "tampered",
        "probe",
        "forged_key",
        "unknown_serial",
        "stale",
        "future",
        "no_signature",
        "wrong_apiv3_key",
    ],
    "alipay": [
        "tampered",
        "forged_key",
        "stale",
        "future",
        "no_signature",
        "sha1",
        "wrong_sign_type",
        "repeated_field",
    ],
}


def heard_view(said: Notice | Unverified) -> PaymentView:
    assert isinstance(said, Notice), said
    assert isinstance(said.view, PaymentView), said
    return said.view


async def test_a_callback_tells_everything_that_money_must_prove(side: Side) -> None:
    request, paid = await side.paid()
    (heard,) = await side.heard(request.attempt_no)
    told = heard_view(side.judge(heard))
    assert (told.report, told.attempt_no) == (Report.PAID, request.attempt_no)
    assert (told.amount_minor, told.currency) == (PRICE.minor, "CNY")
    assert (told.merchant_ref, told.app_ref) == (side.channel.account.merchant_ref, side.channel.account.app_ref)
    assert (told.channel_txn_id, told.paid_at) == (paid.channel_txn_id, paid.paid_at)


async def test_what_proves_nothing_is_refused(side: Side) -> None:
    request, _ = await side.paid()
    heard = await side.heard(request.attempt_no, *REFUSED[side.name])
    verdicts = {each["kind"]: side.judge(each) for each in heard}
    assert [kind for kind, said in verdicts.items() if not isinstance(said, Unverified)] == []


async def test_each_flipped_byte_is_refused(side: Side) -> None:
    request, _ = await side.paid()
    (heard,) = await side.heard(request.attempt_no)
    body = heard["body"]
    names = [name for name in heard["headers"] if name.lower().startswith("wechatpay-")]
    for name in names:
        for value in ("", flipped(heard["headers"][name], 0), flipped(heard["headers"][name], -1)):
            said = side.judge(heard | {"headers": heard["headers"] | {name: value}})
            assert isinstance(said, Unverified), name
        left = {other: value for other, value in heard["headers"].items() if other != name}
        if name.lower() != "wechatpay-signature-type":
            assert isinstance(side.judge(heard | {"headers": left}), Unverified), name
    for at in range(0, len(body), max(1, len(body) // 150)):
        assert isinstance(side.judge(heard | {"body": flipped(body, at)}), Unverified), (at, body[at])


def flipped(text: str, at: int) -> str:
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


@pytest.mark.parametrize("junk", [b"", b"{}", b"=&=", b"\xff\xfe", b"a=1&a=2", b"%zz=%", b"[" * 5000, b"x" * 200_000])
async def test_rubbish_is_refused_and_never_breaks_the_judge(side: Side, junk: bytes) -> None:
    assert isinstance(side.channel.verify({}, junk, CLOCK.real()), Unverified)


async def test_headers_in_lower_case_and_blank_fields(side: Side) -> None:
    request, _ = await side.paid()
    kind = "blank_field" if side.name == "alipay" else "genuine"
    (heard,) = await side.heard(request.attempt_no, kind)
    assert heard_view(side.judge(heard)).report is Report.PAID
    if side.name == "alipay":
        dropped = urlencode(parse_qsl(heard["body"]))  # a reader that drops blank values verifies another text
        assert isinstance(side.judge(heard | {"body": dropped}), Unverified)


async def test_freshness_on_both_sides(side: Side) -> None:
    request, _ = await side.paid()
    (heard,) = await side.heard(request.attempt_no)
    past_s, ahead_s = (300, 300) if side.name == "wechat" else (25.5 * 3600, 300)
    for seconds, fresh in ((past_s - 5, True), (past_s + 5, False), (-ahead_s + 5, True), (-ahead_s - 5, False)):
        said = side.judge(heard, CLOCK.real() + dt.timedelta(seconds=seconds))
        assert isinstance(said, Notice) == fresh, seconds


async def test_two_keys_are_valid_at_once_and_a_retired_one_is_refused_afterwards(side: Side) -> None:
    request, _ = await side.paid()
    old, new = await side.heard(request.attempt_no, "genuine", "second_generation")
    for heard in (old, new):
        assert isinstance(side.judge(heard), Notice)
    after = channel_of(side.mode, side.simulator, side.session, only=2)
    for heard, accepted in ((old, False), (new, True)):
        headers = {name.lower(): value for name, value in heard["headers"].items()}
        said = after.verify(headers, heard["body"].encode(), CLOCK.real())
        assert isinstance(said, Notice) == accepted


async def test_a_key_rotation_costs_no_call(side: Side) -> None:
    for number in range(12):
        if number % 3 == 1:
            generation: dict[str, object] = {"generation": 2} if side.name == "alipay" else {"callback_generation": 2}
            await side.lever("/control/keys", generation)
        request, paid = await side.paid()
        assert paid.report is Report.PAID
        (heard,) = await side.heard(request.attempt_no)
        assert isinstance(side.judge(heard), Notice)


async def test_judging_opens_no_socket_and_no_file(side: Side) -> None:
    request, _ = await side.paid()
    heard = await side.heard(request.attempt_no, "genuine", "forged_key")
    watched, seen = [True], []

    def watch(event: str, _: object) -> None:
        if watched[0] and event.startswith(("socket.", "open", "subprocess.")):
            seen.append(event)

    sys.addaudithook(watch)
    try:
        verdicts = [side.judge(each) for each in heard]
    finally:
        watched[0] = False
    assert seen == []
    assert [isinstance(said, Notice) for said in verdicts] == [True, False]


async def test_a_refund_notice_is_never_read_as_a_payment(side: Side) -> None:
    for minor in (500, PRICE.minor):
        request, paid = await side.paid()
        call = side.refund_call(request, paid, minor)
        await side.channel.refund(call)
        await side.lever("/control/clock", {"offset_s": 0})
        (heard,) = await side.heard(request.attempt_no, refund_no=call.refund_no)
        said = side.judge(heard)
        assert isinstance(said, Notice)
        assert isinstance(said.view, RefundView), said.view
        assert (said.view.refund_no, said.view.attempt_no) == (call.refund_no, request.attempt_no)
        assert said.view.merchant_ref == side.channel.account.merchant_ref
        if side.name == "wechat":
            assert (said.view.report, said.view.amount_minor) == (RefundReport.SUCCEEDED, minor)
        else:  # it tells the sum of all refunds, which proves none of them
            assert (said.view.report, said.view.amount_minor) == (RefundReport.PROCESSING, None)
        # Never a failure; Alipay says of a whole refund that no money of the trade is kept.
        again = await side.channel.query(request.attempt_no)
        assert isinstance(again, PaymentView)
        whole = side.name != "wechat" and minor == PRICE.minor
        assert again.report is (Report.RETURNED if whole else Report.PAID)
        assert refund_view(await side.channel.query_refund(call.refund_no, call.attempt_no)).amount_minor == minor


async def test_the_same_notice_keeps_its_id_and_content_over_its_tries(side: Side) -> None:
    request, _ = await side.paid()
    one, other = await side.heard(request.attempt_no, "genuine", "genuine")
    first, second = side.judge(one), side.judge(other)
    assert isinstance(first, Notice)
    assert isinstance(second, Notice)
    assert (first.callback_id, first.digest) == (second.callback_id, second.digest)
    (lie,) = await side.heard(request.attempt_no, **({"attach": "x"} if side.name == "wechat" else {"subject": "x"}))
    third = side.judge(lie)
    assert isinstance(third, Notice)
    assert third.callback_id == first.callback_id
    assert third.digest != first.digest


async def test_what_a_lying_channel_tells_is_told_on_for_the_checks(side: Side) -> None:
    request, _ = await side.paid()
    if side.name == "wechat":
        lies: list[dict[str, object]] = [
            {"mchid": "1900000999"},
            {"appid": "wx0000000000000000"},
            {"amount": {"total": 1}},
            {"amount": {"currency": "USD"}},
        ]
    else:
        lies = [{"seller_id": "2088000000000999"}, {"app_id": "2021000000000999"}, {"total_amount": "0.01"}]
    for lie in lies:
        (heard,) = await side.heard(request.attempt_no, **lie)
        told = heard_view(side.judge(heard))
        account = side.channel.account
        facts = (told.merchant_ref, told.app_ref, told.amount_minor, told.currency)
        assert facts != (account.merchant_ref, account.app_ref, PRICE.minor, "CNY"), lie


@pytest.mark.parametrize("text", ["1e3", "0.001", "1,999.00", "NaN", "-1.00", "19.999", "\u0661\u0669.99", ""])
async def test_an_amount_that_is_none_proves_nothing(side: Side, text: str) -> None:
    request, _ = await side.paid()
    if side.name == "wechat":
        (heard,) = await side.heard(request.attempt_no, amount={"total": -1})
        told = heard_view(side.judge(heard))
        assert told.amount_minor == -1
    else:
        (heard,) = await side.heard(request.attempt_no, total_amount=text)
        assert heard_view(side.judge(heard)).amount_minor is None


async def test_notices_of_other_kinds_are_genuine_and_not_applied(side: Side) -> None:
    if side.name == "wechat":
        return_state: dict[str, object] = {"trade_state": "CLOSED"}
        request, _ = await side.paid()
        (heard,) = await side.heard(request.attempt_no, **return_state)
        assert heard_view(side.judge(heard)).report is Report.CLOSED
    else:
        request, _ = await side.paid()
        for state, report in (("TRADE_FINISHED", Report.PAID), ("TRADE_CLOSED", Report.CLOSED)):
            (heard,) = await side.heard(request.attempt_no, trade_status=state)
            assert heard_view(side.judge(heard)).report is report
        (heard,) = await side.heard(request.attempt_no, out_biz_no="")
        assert heard_view(side.judge(heard)).report is Report.PAID
        (heard,) = await side.heard(request.attempt_no, refund_fee="1.00")
        said = side.judge(heard)
        assert isinstance(said, Notice)
        assert (said.view, said.fault) == (None, CaseReason.UNREADABLE_NOTICE)


async def test_the_exact_acknowledgement(side: Side) -> None:
    good, bad = side.channel.acknowledge(accepted=True), side.channel.acknowledge(accepted=False)
    if side.name == "wechat":
        assert (good.status, good.body) == (204, b"")
    else:
        assert (good.status, good.body) == (200, b"success")
    assert bad.status >= 400
    assert bad.body != good.body
