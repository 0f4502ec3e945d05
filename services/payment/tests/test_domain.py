"""The rules: every (state, report) pair has one defined answer, and money is never dropped or counted twice."""

import datetime as dt
import itertools

import pytest
from msgspec.structs import replace

from defray_kernel.ids import PaymentId, uuid7
from defray_kernel.money import Money
from defray_payment.domain.attempt import LIVE as LIVE_ATTEMPTS
from defray_payment.domain.attempt import QUERY_AFTER_S, AttemptStatus, number_of, query_after_s
from defray_payment.domain.checks import examine, first_failure
from defray_payment.domain.payable import PayableStatus, Reuse, Start, may_start
from defray_payment.domain.payment import LIVE, PAID, Moved, PaymentStatus, Purse, Repeated, decide
from defray_payment.domain.refusals import CaseReason, Refused, StartRefusal
from defray_payment.domain.reports import Report

from .given import ACCOUNT, NOW, attempt, claim, payable, payment, terms

S, R = PaymentStatus, Report
CONTRADICTION = Refused(reason=CaseReason.CONTRADICTION)
STALE = Repeated()

# (state, report) → answer while the channel has confirmed the attempt, the order unpaid and open.
OPENED: dict[tuple[PaymentStatus, Report], object] = {
    (S.CREATED, R.OPENED): Moved(to=S.PENDING),
    (S.CREATED, R.PAID): Moved(to=S.SUCCEEDED, claims=True),
    (S.CREATED, R.CLOSED): Moved(to=S.CLOSED),
    (S.CREATED, R.REFUSED): Moved(to=S.FAILED),
    (S.CREATED, R.NOT_FOUND): CONTRADICTION,
    (S.CREATED, R.LAPSED): CONTRADICTION,
    (S.CREATED, R.UNSENT): Moved(to=S.PENDING),
    (S.CREATED, R.UNCLEAR): Moved(to=S.PENDING),
    (S.PENDING, R.OPENED): STALE,
    (S.PENDING, R.PAID): Moved(to=S.SUCCEEDED, claims=True),
    (S.PENDING, R.CLOSED): Moved(to=S.CLOSED),
    (S.PENDING, R.REFUSED): Moved(to=S.FAILED),
    (S.PENDING, R.NOT_FOUND): CONTRADICTION,
    (S.PENDING, R.LAPSED): CONTRADICTION,
    (S.PENDING, R.UNSENT): STALE,
    (S.PENDING, R.UNCLEAR): STALE,
    (S.AUTHORIZED, R.OPENED): STALE,
    (S.AUTHORIZED, R.PAID): Moved(to=S.SUCCEEDED, claims=True),
    (S.AUTHORIZED, R.CLOSED): Moved(to=S.CLOSED),
    (S.AUTHORIZED, R.REFUSED): Moved(to=S.FAILED),
    (S.AUTHORIZED, R.NOT_FOUND): CONTRADICTION,
    (S.AUTHORIZED, R.LAPSED): CONTRADICTION,
    (S.AUTHORIZED, R.UNSENT): STALE,
    (S.AUTHORIZED, R.UNCLEAR): STALE,
    (S.CREATED, R.RETURNED): Moved(to=S.CLOSED),
    (S.PENDING, R.RETURNED): Moved(to=S.CLOSED),
    (S.AUTHORIZED, R.RETURNED): Moved(to=S.CLOSED),
    (S.FAILED, R.RETURNED): STALE,
    (S.CLOSED, R.RETURNED): STALE,
    (S.FAILED, R.OPENED): CONTRADICTION,
    (S.FAILED, R.PAID): Moved(to=S.SUCCEEDED, claims=True),
    (S.FAILED, R.CLOSED): STALE,
    (S.FAILED, R.REFUSED): STALE,
    (S.FAILED, R.NOT_FOUND): STALE,
    (S.FAILED, R.LAPSED): STALE,
    (S.FAILED, R.UNSENT): STALE,
    (S.FAILED, R.UNCLEAR): STALE,
    (S.CLOSED, R.OPENED): STALE,
    (S.CLOSED, R.PAID): Moved(to=S.SUCCEEDED, claims=True),
    (S.CLOSED, R.CLOSED): STALE,
    (S.CLOSED, R.REFUSED): STALE,
    (S.CLOSED, R.NOT_FOUND): STALE,
    (S.CLOSED, R.LAPSED): STALE,
    (S.CLOSED, R.UNSENT): STALE,
    (S.CLOSED, R.UNCLEAR): STALE,
} | {
    (paid, report): answer
    for paid in (S.SUCCEEDED, S.PAID_LATE, S.DUPLICATE)
    for report, answer in {
        R.OPENED: STALE,  # a question asked before the money came may be answered after it
        R.PAID: STALE,  # the same transaction again
        R.CLOSED: CONTRADICTION,
        R.RETURNED: Refused(reason=CaseReason.MONEY_RETURNED),
        R.REFUSED: CONTRADICTION,
        R.NOT_FOUND: CONTRADICTION,
        R.LAPSED: CONTRADICTION,
        R.UNSENT: STALE,
        R.UNCLEAR: STALE,
    }.items()
}
# What differs while the channel has not confirmed the attempt.
UNCONFIRMED: dict[tuple[PaymentStatus, Report], object] = {
    (S.CREATED, R.NOT_FOUND): Moved(to=S.PENDING),
    (S.PENDING, R.NOT_FOUND): STALE,
    (S.AUTHORIZED, R.NOT_FOUND): STALE,
    (S.CREATED, R.LAPSED): Moved(to=S.CLOSED),
    (S.PENDING, R.LAPSED): Moved(to=S.CLOSED),
    (S.AUTHORIZED, R.LAPSED): Moved(to=S.CLOSED),
}


def paid_like(status: PaymentStatus) -> dict[str, object]:
    return {"channel_txn_id": "T1", "paid_at": NOW} if status in PAID else {}


@pytest.mark.parametrize(("status", "report"), list(itertools.product(PaymentStatus, Report)))
def test_every_pair_has_one_defined_answer(status: PaymentStatus, report: Report) -> None:
    one = payment(status, **paid_like(status))
    told = claim(report, one.attempt_no, **({"channel_txn_id": "T1"} if report is R.PAID else {}))
    assert decide(one, told, None, Purse.FREE, opened=True) == OPENED[status, report]
    expected = UNCONFIRMED.get((status, report), OPENED[status, report])
    assert decide(one, told, None, Purse.FREE, opened=False) == expected


@pytest.mark.parametrize("status", [s for s in PaymentStatus if s not in PAID])
@pytest.mark.parametrize(
    ("purse", "answer"),
    [
        (Purse.FREE, Moved(to=S.SUCCEEDED, claims=True)),
        (Purse.CLAIMED, Moved(to=S.DUPLICATE)),
        (Purse.LATE_RETURNED, Moved(to=S.PAID_LATE)),
        (Purse.LATE_KEPT, Moved(to=S.PAID_LATE, claims=True)),
    ],
)
def test_the_payable_decides_what_becomes_of_money(status: PaymentStatus, purse: Purse, answer: Moved) -> None:
    one = payment(status)
    assert decide(one, claim(R.PAID, one.attempt_no), None, purse, opened=True) == answer


@pytest.mark.parametrize("status", sorted(PAID))
@pytest.mark.parametrize("purse", list(Purse))
def test_other_money_on_a_paid_payment_is_a_case(status: PaymentStatus, purse: Purse) -> None:
    one = payment(status, channel_txn_id="T1", paid_at=NOW)
    told = claim(R.PAID, one.attempt_no, channel_txn_id="T2")
    assert decide(one, told, None, purse, opened=True) == Refused(reason=CaseReason.SECOND_MONEY)


@pytest.mark.parametrize("status", list(PaymentStatus))
def test_a_failed_check_and_an_unknown_native_state_move_nothing(status: PaymentStatus) -> None:
    one = payment(status)
    told = claim(R.PAID, one.attempt_no)
    answer = decide(one, told, CaseReason.AMOUNT_MISMATCH, Purse.FREE, opened=True)
    assert answer == Refused(reason=CaseReason.AMOUNT_MISMATCH)
    strange = claim(R.UNCLEAR, one.attempt_no, native_state="BRANDNEW")
    assert decide(one, strange, None, Purse.FREE, opened=True) == Refused(reason=CaseReason.NATIVE_STATE_UNKNOWN)


@pytest.mark.parametrize("report", [r for r in Report if r not in {R.REFUSED, R.PAID}])
@pytest.mark.parametrize("status", sorted(LIVE))
@pytest.mark.parametrize("opened", [True, False])
def test_nothing_but_the_channels_own_refusal_fails_a_payment(
    status: PaymentStatus, report: Report, opened: bool
) -> None:
    one = payment(status)
    answer = decide(one, claim(report, one.attempt_no), None, Purse.FREE, opened=opened)
    assert answer != Moved(to=S.FAILED)


@pytest.mark.parametrize("status", list(PaymentStatus))
@pytest.mark.parametrize("purse", list(Purse))
def test_money_that_the_channel_has_sent_back_is_never_taken_for_money(status: PaymentStatus, purse: Purse) -> None:
    one = payment(status, **paid_like(status))
    told = claim(R.PAID, one.attempt_no, channel_txn_id="T1")
    assert decide(one, told, None, purse, opened=True, returned=True) == Refused(reason=CaseReason.MONEY_RETURNED)


@pytest.mark.parametrize("status", sorted(PAID))
def test_a_payment_whose_refunds_are_the_whole_of_it_is_over_at_its_channel(status: PaymentStatus) -> None:
    one = payment(status, **paid_like(status))
    whole = replace(one, refund_reserved_minor=one.amount.minor)
    assert decide(whole, claim(R.RETURNED, one.attempt_no), None, Purse.CLAIMED, opened=True) == STALE


ATTEMPT_MOVES = {
    (AttemptStatus.SENDING, R.OPENED): AttemptStatus.OPEN,
    (AttemptStatus.SENDING, R.UNCLEAR): AttemptStatus.UNKNOWN,
    (AttemptStatus.SENDING, R.REFUSED): AttemptStatus.REFUSED,
    (AttemptStatus.SENDING, R.CLOSED): AttemptStatus.CLOSED,
    (AttemptStatus.SENDING, R.LAPSED): AttemptStatus.CLOSED,
    (AttemptStatus.UNKNOWN, R.OPENED): AttemptStatus.OPEN,
    (AttemptStatus.UNKNOWN, R.REFUSED): AttemptStatus.REFUSED,
    (AttemptStatus.UNKNOWN, R.CLOSED): AttemptStatus.CLOSED,
    (AttemptStatus.UNKNOWN, R.LAPSED): AttemptStatus.CLOSED,
    (AttemptStatus.OPEN, R.REFUSED): AttemptStatus.REFUSED,
    (AttemptStatus.OPEN, R.CLOSED): AttemptStatus.CLOSED,
}


@pytest.mark.parametrize(("status", "report"), list(itertools.product(AttemptStatus, Report)))
def test_an_attempt_follows_each_report(status: AttemptStatus, report: Report) -> None:
    before = attempt(payment(), status, query_count=1)
    after = before.following(report, NOW)
    expected = ATTEMPT_MOVES.get((status, report), status)
    if report is R.PAID and status is not AttemptStatus.RETURNED:
        expected = AttemptStatus.PAID
    elif report is R.RETURNED and status is not AttemptStatus.PAID:
        expected = AttemptStatus.RETURNED
    assert after.status == expected
    assert (after.next_query_at is not None) == (expected in LIVE_ATTEMPTS)


def test_questions_come_further_and_further_apart() -> None:
    waits = [query_after_s(count) for count in range(13)]
    assert waits == [*QUERY_AFTER_S, 3600, 3600]
    assert waits == sorted(waits)
    one = attempt(payment(), query_count=3)
    assert one.following(R.OPENED, NOW).next_query_at == NOW + dt.timedelta(seconds=40)
    assert one.following(R.UNCLEAR, NOW, query_soon=True).next_query_at == NOW


def test_channel_numbers_are_unique_ordered_and_of_the_common_pattern() -> None:
    made = [number_of(uuid7()) for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(len(number) == 26 and number.isalnum() and number == number.upper() for number in made)
    assert number_of(uuid7()) >= made[0][:9]


def test_the_purse() -> None:
    claimed = PaymentId(uuid7())
    closing = {"status": PayableStatus.CLOSING, "closing_reason": "expired"}
    closed = {"status": PayableStatus.CLOSED, "closing_reason": "expired"}
    assert payable().purse("return") is Purse.FREE
    assert payable(**closing).purse("return") is Purse.FREE
    assert payable(**closed).purse("return") is Purse.LATE_RETURNED
    assert payable(**closed).purse("reopen") is Purse.LATE_KEPT
    assert payable(**closed).purse("case") is Purse.LATE_KEPT
    assert payable(**closed, claimed_by=claimed).purse("case") is Purse.CLAIMED
    assert payable(claimed_by=claimed).purse("return") is Purse.CLAIMED


def test_when_another_way_to_pay_may_be_opened() -> None:
    order = terms()
    open_one = payable(order)
    mine = payment(order_id=order.order_id)
    live = [(mine, attempt(mine))]

    def ask(of: object = open_one, *, known: object = order, now: dt.datetime = NOW, **changes: object) -> object:
        values = {"channel": "wechat", "product": "native", "live": []} | changes
        found = values.pop("live")
        return may_start(of, found, terms=known, now=now, **values)  # type: ignore[arg-type]

    assert ask() == Start()
    assert ask(known=None) == Start()
    assert ask(known=terms(order_id=order.order_id)) is StartRefusal.ORDER_MISMATCH
    other_amount = Money(minor=1, currency="CNY")
    told = terms(order_id=order.order_id, merchant_id=order.merchant_id, amount=other_amount)
    assert ask(known=told) is StartRefusal.ORDER_MISMATCH
    assert ask(payable(order, claimed_by=mine.payment_id)) is StartRefusal.ORDER_PAID
    free = terms(amount=Money(minor=0, currency="CNY"))
    assert ask(payable(free), known=free) is StartRefusal.ORDER_PAID
    ended = {"closing_reason": "customer"}
    assert ask(payable(order, status=PayableStatus.CLOSING, **ended)) is StartRefusal.ORDER_CLOSED
    assert ask(payable(order, status=PayableStatus.CLOSED, **ended)) is StartRefusal.ORDER_CLOSED
    assert ask(now=order.expires_at) is StartRefusal.ORDER_EXPIRED
    assert ask(live=live) == Reuse(payment=mine, attempt=live[0][1])
    assert ask(live=[(mine, attempt(mine, closing=True))]) is StartRefusal.ATTEMPT_UNKNOWN
    # Another channel or product: while the first is open, but never while its outcome is unclear.
    assert ask(live=live, channel="alipay") == Start()
    for unsettled in (AttemptStatus.SENDING, AttemptStatus.UNKNOWN):
        assert ask(live=[(mine, attempt(mine, unsettled))], channel="alipay") is StartRefusal.ATTEMPT_UNKNOWN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"merchant_ref": "1900000110"}, CaseReason.MERCHANT_MISMATCH),
        ({"merchant_ref": None}, CaseReason.MERCHANT_MISMATCH),
        ({"app_ref": "wx0"}, CaseReason.APP_MISMATCH),
        ({"currency": "USD"}, CaseReason.CURRENCY_MISMATCH),
        ({"currency": None}, CaseReason.CURRENCY_MISMATCH),
        ({"amount_minor": 19899}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": 19901}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": 0}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": -19900}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": None}, CaseReason.AMOUNT_MISMATCH),
        ({"channel_txn_id": None}, CaseReason.TXN_MISSING),
        ({"merchant_ref": "x", "amount_minor": 1}, CaseReason.MERCHANT_MISMATCH),
    ],
)
def test_money_must_prove_everything(changes: dict[str, object], reason: CaseReason | None) -> None:
    one = payment()
    checks = examine(claim(R.PAID, one.attempt_no, **changes), one, ACCOUNT, None)
    assert first_failure(checks) == reason
    assert len(checks) == 6


def test_a_channel_transaction_pays_one_payment() -> None:
    one = payment()
    told = claim(R.PAID, one.attempt_no)
    assert first_failure(examine(told, one, ACCOUNT, uuid7())) is CaseReason.TXN_REUSED
    assert first_failure(examine(told, one, ACCOUNT, one.payment_id)) is None


def test_other_reports_are_held_to_what_they_tell() -> None:
    one = payment()
    assert first_failure(examine(claim(R.CLOSED, one.attempt_no), one, ACCOUNT, None)) is None
    told = claim(R.CLOSED, one.attempt_no, merchant_ref="1900000110")
    assert first_failure(examine(told, one, ACCOUNT, None)) is CaseReason.MERCHANT_MISMATCH
