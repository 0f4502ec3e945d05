"""The conformance suite: what every adapter must do, tried against its simulator in each of its key modes."""

import datetime as dt
import json
import socket
from typing import Any

import pytest
from msgspec.structs import replace

from defray_kernel.ids import uuid7
from defray_kernel.money import Money
from defray_payment.channels.spi import (
    ExistsAfter,
    Kind,
    Next,
    Notice,
    Operation,
    Outcome,
    PaymentView,
    RefundView,
    Trouble,
    Unverified,
    misdeclared,
)
from defray_payment.domain.attempt import number_of
from defray_payment.domain.reports import RefundReport, Report

from .conftest import CLOCK, PRICE, Side, channel_of, creation, refund_view, trouble, view

UNKNOWN_QUERY = (Outcome.UNKNOWN, Next.QUERY)
ACTIONS = {
    "native": "qr",
    "jsapi": "jsapi",
    "h5": "redirect",
    "app": "app_sdk",
    "precreate": "qr",
    "page": "redirect",
    "wap": "redirect",
    "create": "jsapi",
}
LOST = ["drop", "delay", "500", "502", "garbage", "unsigned", "wrong_key", "truncated"]
FAULT = {"delay": {"delay_s": 1.5}}


# --- declared and offered -------------------------------------------------------------------------------------------


async def test_what_is_declared_is_offered_and_the_reverse(side: Side) -> None:
    assert misdeclared(side.channel) == []

    class Less(type(side.channel)):  # type: ignore[misc]
        capabilities = replace(side.channel.capabilities, operations=frozenset({Operation.CREATE, Operation.QUERY}))

    less = Less.__new__(Less)
    assert "refund" in misdeclared(less)
    assert "close" in misdeclared(less)


@pytest.mark.parametrize("kind", list(Kind))
def test_an_unknown_outcome_settled_as_failed_cannot_be_made(kind: Kind) -> None:
    with pytest.raises(ValueError, match="never be settled as failed"):
        Trouble(kind=kind, outcome=Outcome.UNKNOWN, next=Next.FAIL)


# --- 1: create ------------------------------------------------------------------------------------------------------


async def test_every_product_leads_to_money(side: Side) -> None:
    for name, product in side.channel.capabilities.products.items():
        if name == side.scanned:
            continue
        request, opened = await side.opened(name)
        assert opened.report is Report.OPENED, name
        assert opened.action is not None
        assert opened.action.type == ACTIONS[name]
        assert opened.action.expires_at <= request.expires_at
        before = await side.channel.query(request.attempt_no)
        if product.exists_after is ExistsAfter.PAYER_OPENS:
            assert trouble(before).kind is Kind.NOT_FOUND, name
        else:
            assert view(before).report is Report.OPENED, name
        await side.pay(request.attempt_no, opened.action)
        paid = view(await side.channel.query(request.attempt_no))
        assert (paid.report, paid.amount_minor, paid.currency) == (Report.PAID, PRICE.minor, "CNY"), name
        assert (paid.merchant_ref, paid.app_ref) == (side.channel.account.merchant_ref, side.channel.account.app_ref)
        assert paid.channel_txn_id
        assert paid.paid_at is not None
        assert abs(paid.paid_at - CLOCK.now()) < dt.timedelta(minutes=1)


async def test_the_payers_code_pays_at_once_or_later_or_not(side: Side) -> None:
    request, paid = await side.opened(side.scanned)
    assert (paid.report, paid.amount_minor, paid.action) == (Report.PAID, PRICE.minor, None)
    await side.lever("/control/payers", {"payer": "types_password", "count": 1})
    request, waiting = await side.opened(side.scanned)
    assert waiting.report is Report.OPENED
    assert waiting.action is not None
    assert waiting.action.type == "none"
    assert view(await side.channel.query(request.attempt_no)).report is Report.OPENED
    await side.pay(request.attempt_no)
    assert view(await side.channel.query(request.attempt_no)).report is Report.PAID
    await side.lever("/control/payers", {"payer": "is_declined", "count": 1})
    request = creation(side.scanned)
    said = await side.channel.create(request)
    if trouble(said).next is Next.FAIL:
        assert (trouble(said).kind, trouble(said).outcome) == (Kind.DECLINED, Outcome.NOT_APPLIED)
    else:
        assert (trouble(said).outcome, trouble(said).next) == UNKNOWN_QUERY
        assert view(await side.channel.query(request.attempt_no)).report is Report.REFUSED


async def test_the_same_number_again(side: Side) -> None:
    request, _ = await side.opened()
    again = view(await side.channel.create(replace(request, again=True)))
    assert again.action is not None
    other = trouble(await side.channel.create(replace(request, amount=Money(minor=1, currency="CNY"), again=True)))
    assert (other.kind, other.outcome, other.next) == (Kind.CONFLICT, *UNKNOWN_QUERY)
    await side.pay(request.attempt_no)
    late = trouble(await side.channel.create(replace(request, again=True)))
    assert (late.outcome, late.next) == UNKNOWN_QUERY
    assert (await side.lever("/control/statistics"))["created_more_than_once"] == 0


async def test_numbers_at_both_ends_of_what_is_declared(side: Side) -> None:
    shortest, longest = ("A" * 6, "A" * 32) if side.name == "wechat" else ("A", "A" * 64)
    for number in (shortest, longest):
        assert view(await side.channel.create(creation(side.plain, number))).report is Report.OPENED
    for number in (shortest[:-1], longest + "A", "A B" * 4, "\uff21" * 8):
        refused = trouble(await side.channel.create(creation(side.plain, number)))
        assert (refused.kind, refused.outcome, refused.next) == (Kind.INVALID, Outcome.NOT_APPLIED, Next.FAIL)
        again = trouble(await side.channel.create(creation(side.plain, number, again=True)))
        assert (again.outcome, again.next) == UNKNOWN_QUERY


@pytest.mark.parametrize("text", ["三件衬衫", "🎩🎩", "a&b=c+d%20e", "a,b", 'say "hi" \\ {}', "'; --"])
async def test_descriptions_arrive_as_they_are(side: Side, text: str) -> None:
    request, opened = await side.opened(description=text)
    await side.pay(request.attempt_no, opened.action)
    (heard,) = await side.heard(request.attempt_no)
    assert isinstance(side.judge(heard), Notice)


async def test_wishes_that_no_byte_is_sent_for(side: Side) -> None:
    before = (await side.lever("/control/statistics"))["requests"]
    for changes in (
        {"description": "back`tick"},
        {"description": ""},
        {"description": "x" * 300},
        {"amount": Money(minor=0, currency="CNY")},
        {"amount": Money(minor=10**12, currency="CNY")},
        {"amount": Money(minor=1, currency="USD")},
        {"product": "teleport"},
    ):
        refused = trouble(await side.channel.create(creation(**({"product": side.plain} | changes))))  # type: ignore[arg-type]
        assert (refused.outcome, refused.next) == (Outcome.NOT_APPLIED, Next.FAIL), changes
    assert (await side.lever("/control/statistics"))["requests"] == before


async def test_an_end_in_the_past_is_moved_to_where_the_channel_takes_it(side: Side) -> None:
    _, opened = await side.opened(expires_at=CLOCK.now() - dt.timedelta(minutes=1))
    assert opened.action is not None
    assert opened.action.expires_at > CLOCK.now()


# --- 2: lost answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
@pytest.mark.parametrize("action", LOST)
async def test_a_lost_answer_is_unknown_and_a_query_tells_the_truth(side: Side, action: str, moment: str) -> None:
    product = "jsapi" if side.name == "wechat" else "create"
    await side.fault(product, action, moment=moment, **FAULT.get(action, {}))
    request = creation(product)
    said = trouble(await side.channel.create(request))
    assert (said.outcome, said.next) == UNKNOWN_QUERY
    assert said.kind in {Kind.TIMEOUT, Kind.UNAVAILABLE, Kind.PROTOCOL, Kind.UNVERIFIED}
    truth = await side.channel.query(request.attempt_no)
    if moment == "before_apply":
        assert trouble(truth).kind is Kind.NOT_FOUND
    else:
        assert view(truth).report is Report.OPENED
    assert view(await side.channel.create(replace(request, again=True))).report is Report.OPENED
    assert (await side.lever(f"/control/orders/{request.attempt_no}"))["applied"]["created"] == 1


async def test_nobody_listens(side: Side) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        channel: Any = channel_of(side.mode, side.simulator, side.session)
        channel._base_url = channel._gateway = dead
        said = trouble(await channel.query(number_of(uuid7())))
    assert (said.kind, said.outcome, said.next) == (Kind.UNREACHED, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER)


# --- 3: limits and authorisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_after_s", [None, 7])
async def test_a_limit_is_not_applied_and_is_not_retried_by_the_adapter(side: Side, retry_after_s: int | None) -> None:
    more: dict[str, object] = {} if retry_after_s is None else {"retry_after_s": retry_after_s}
    await side.fault(side.plain, "429", moment="before_apply", **more)
    said = trouble(await side.channel.create(creation(side.plain)))
    assert (said.kind, said.outcome, said.next) == (Kind.RATE_LIMITED, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER)
    if side.name == "wechat":  # the other one has no such header
        assert said.retry_after_s == retry_after_s
    assert (await side.lever("/control/statistics"))["requests"][side.plain] == 1


async def test_a_wrong_identity_of_ours_is_an_alarm_and_never_a_failed_payment(side: Side) -> None:
    channel: Any = channel_of(side.mode, side.simulator, side.session)
    channel.account = replace(side.channel.account, app_ref="2021999999999999")
    said = trouble(await channel.create(creation(side.plain, again=True)))
    assert said.next in {Next.ALERT, Next.QUERY}
    assert said.kind in {Kind.AUTH, Kind.UNVERIFIED}


# --- 4: query -------------------------------------------------------------------------------------------------------


async def test_an_unknown_native_state_is_never_mapped(side: Side) -> None:
    request, _ = await side.paid()
    name = "trade_state" if side.name == "wechat" else "trade_status"
    (heard,) = await side.heard(request.attempt_no, **{name: "BRANDNEW"})
    notice = side.judge(heard)
    assert isinstance(notice, Notice)
    assert isinstance(notice.view, PaymentView)
    assert (notice.view.report, notice.view.native_state) == (Report.UNCLEAR, "BRANDNEW")


async def test_what_is_not_there_is_not_found(side: Side) -> None:
    number = number_of(uuid7())
    for said in (await side.channel.query(number), await side.channel.close(number)):
        assert trouble(said).kind is Kind.NOT_FOUND
        assert trouble(said).next is not Next.FAIL


# --- 5: close and cancel --------------------------------------------------------------------------------------------


async def test_close(side: Side) -> None:
    product = "jsapi" if side.name == "wechat" else "create"
    request, _ = await side.opened(product)
    assert view(await side.channel.close(request.attempt_no)).report is Report.CLOSED
    assert view(await side.channel.query(request.attempt_no)).report is Report.CLOSED
    paid, _ = await side.paid(product)
    said = trouble(await side.channel.close(paid.attempt_no))
    assert (said.kind, said.outcome, said.next) == (Kind.CONFLICT, *UNKNOWN_QUERY)
    assert view(await side.channel.query(paid.attempt_no)).report is Report.PAID


@pytest.mark.parametrize("action", ["drop", "500", "unsigned"])
async def test_a_close_whose_answer_is_lost_is_unknown(side: Side, action: str) -> None:
    product = "jsapi" if side.name == "wechat" else "create"
    request, _ = await side.opened(product)
    await side.fault("close", action)
    said = trouble(await side.channel.close(request.attempt_no))
    assert (said.outcome, said.next) == UNKNOWN_QUERY
    assert view(await side.channel.query(request.attempt_no)).report is Report.CLOSED


async def test_cancel_ends_whatever_has_happened(side: Side) -> None:
    await side.lever("/control/payers", {"payer": "types_password", "count": 1})
    request, _ = await side.opened(side.scanned)
    # WeChat says of every reversed order that nothing of it is kept, Alipay only of one that was paid.
    over = Report.RETURNED if side.name == "wechat" else Report.CLOSED
    assert view(await side.channel.cancel(request.attempt_no)).report is over
    assert view(await side.channel.query(request.attempt_no)).report is over
    request, paid = await side.opened(side.scanned)
    assert paid.report is Report.PAID
    assert view(await side.channel.cancel(request.attempt_no)).report is Report.RETURNED
    assert view(await side.channel.query(request.attempt_no)).report is Report.RETURNED
    books = await side.lever("/books")
    assert books["captures"] == books["refunds"]
    assert isinstance(await side.channel.cancel(number_of(uuid7())), Trouble)


# --- 6: refunds -----------------------------------------------------------------------------------------------------


async def settled(side: Side, call: Any) -> RefundView:  # noqa: ANN401 - a RefundCall
    """What a refund becomes once the channel has done it."""
    said = refund_view(await side.channel.refund(call))
    if said.report is RefundReport.PROCESSING:
        await side.lever("/control/clock", {"offset_s": 0})
        said = refund_view(await side.channel.query_refund(call.refund_no, call.attempt_no))
    return said


async def test_partial_refunds_to_the_exact_total_and_one_fen_too_much(side: Side) -> None:
    request, paid = await side.paid()
    for minor in (1, 998, 1000):
        done = await settled(side, side.refund_call(request, paid, minor))
        assert (done.report, done.amount_minor, done.currency) == (RefundReport.SUCCEEDED, minor, "CNY")
        assert done.attempt_no == request.attempt_no
        assert done.done_at is not None
    refused = trouble(await side.channel.refund(side.refund_call(request, paid, 1)))
    assert (refused.outcome, refused.next) == (Outcome.NOT_APPLIED, Next.FAIL)
    books = await side.lever("/books")
    assert books["refunds"]["CNY"] == {"count": 3, "amount_minor": 1999}


async def test_the_same_refund_again_moves_nothing_and_another_amount_is_unknown(side: Side) -> None:
    request, paid = await side.paid()
    call = side.refund_call(request, paid, 500)
    await settled(side, call)
    again = refund_view(await side.channel.refund(replace(call, again=True)))
    assert again.report is not RefundReport.FAILED
    other = trouble(await side.channel.refund(replace(call, amount=Money(minor=501, currency="CNY"), again=True)))
    assert (other.outcome, other.next) == UNKNOWN_QUERY
    assert (await side.lever("/books"))["refunds"]["CNY"] == {"count": 1, "amount_minor": 500}


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
@pytest.mark.parametrize("action", LOST)
async def test_a_refund_whose_answer_is_lost_is_unknown_and_found(side: Side, action: str, moment: str) -> None:
    request, paid = await side.paid()
    await side.fault("refund", action, moment=moment, **FAULT.get(action, {}))
    call = side.refund_call(request, paid, 700)
    said = trouble(await side.channel.refund(call))
    assert (said.outcome, said.next) == UNKNOWN_QUERY
    asked = await side.channel.query_refund(call.refund_no, call.attempt_no)
    if moment == "before_apply":
        assert (trouble(asked).kind, trouble(asked).next) == (Kind.NOT_FOUND, Next.RETRY_SAME_NUMBER)
    await settled(side, replace(call, again=True))
    done = refund_view(await side.channel.query_refund(call.refund_no, call.attempt_no))
    assert (done.report, done.amount_minor) == (RefundReport.SUCCEEDED, 700)
    assert (await side.lever("/books"))["refunds"]["CNY"] == {"count": 1, "amount_minor": 700}


async def test_a_refund_of_what_is_not_paid(side: Side) -> None:
    product = "jsapi" if side.name == "wechat" else "create"
    request, opened = await side.opened(product)
    unpaid = replace(opened, channel_txn_id="4200000000000000000000000001" if side.name == "wechat" else "1")
    said = trouble(await side.channel.refund(side.refund_call(request, unpaid, 1)))
    assert said.outcome is not Outcome.UNKNOWN


async def test_our_own_balance_is_too_low(side: Side) -> None:
    request, paid = await side.paid()
    code = "NOT_ENOUGH" if side.name == "wechat" else "ACQ.SELLER_BALANCE_NOT_ENOUGH"
    await side.fault("refund", "refuse", moment="before_apply", code=code)
    call = side.refund_call(request, paid, 100)
    said = trouble(await side.channel.refund(call))
    assert (said.kind, said.next) == (Kind.INSUFFICIENT_FUNDS, Next.RETRY_SAME_NUMBER)
    assert (await settled(side, replace(call, again=True))).report is RefundReport.SUCCEEDED


async def test_a_refund_that_is_stuck_or_fails_after_it_was_accepted(side: Side) -> None:
    for outcome, report in (("abnormal", RefundReport.ABNORMAL), ("closed", RefundReport.FAILED)):
        request, paid = await side.paid()
        await side.lever("/control/refunds", {"outcome": outcome, "count": 1})
        call = side.refund_call(request, paid, 100)
        assert refund_view(await side.channel.refund(call)).report is RefundReport.PROCESSING
        await side.lever("/control/clock", {"offset_s": 0})
        asked = await side.channel.query_refund(call.refund_no, call.attempt_no)
        if side.name == "alipay":  # it never tells of a refund that has not succeeded
            assert trouble(asked).next is Next.RETRY_SAME_NUMBER
        else:
            assert refund_view(asked).report is report


@pytest.mark.parametrize("code", ["SOMETHING_NEW", "ACQ.SOMETHING_NEW"])
async def test_an_undocumented_code_is_unknown(side: Side, code: str) -> None:
    if code.startswith("ACQ") != (side.name == "alipay"):
        code = {"wechat": "SYSTEM_ERROR", "alipay": "20000"}[side.name]
    request, paid = await side.paid()
    await side.fault("refund", "refuse", moment="before_apply", code=code)
    said = trouble(await side.channel.refund(side.refund_call(request, paid, 100)))
    assert (said.outcome, said.next) == UNKNOWN_QUERY


# --- 14: properties -------------------------------------------------------------------------------------------------


async def test_everything_signed_survives_serialisation(side: Side) -> None:
    request, paid = await side.paid()
    (one,) = await side.heard(request.attempt_no)
    notice = side.judge(json.loads(json.dumps(one)))
    assert isinstance(notice, Notice)
    assert isinstance(notice.view, PaymentView)
    assert notice.view.channel_txn_id == paid.channel_txn_id
    assert not isinstance(notice, Unverified)
