"""The refund's rules: one answer to every report in every state, shown whole, and what may be refunded."""

import datetime as dt
from itertools import product

import pytest
from msgspec.structs import replace

from defray_payment.domain import checks
from defray_payment.domain.payment import PaymentStatus, Repeated
from defray_payment.domain.refund import (
    ANSWERS,
    ASKED_FOR,
    UNRESOLVED_AFTER,
    RefundMoved,
    RefundStatus,
    decide,
    may_refund,
    next_query_at,
)
from defray_payment.domain.refusals import CaseReason, RefundRefusal, Refused
from defray_payment.domain.reports import ChannelAccount, RefundReport

from .given import ACCOUNT, NOW, PRICE, payment, refund, refund_claim

# Rows: states; columns: reports, in their declared order. m: moves there, =: nothing moves, !: a case.
TABLE = """
              PROCESSING SUCCEEDED FAILED ABNORMAL REFUSED NOT_FOUND UNSENT UNCLEAR
REQUESTED     PROCESSING SUCCEEDED FAILED ABNORMAL FAILED  =         =      =
PROCESSING    =          SUCCEEDED FAILED ABNORMAL !       !         =      =
SUCCEEDED     =          =         !      !        !       !         =      =
FAILED        =          !         =      !        =       =         =      =
ABNORMAL      =          SUCCEEDED FAILED =        !       !         =      =
"""


def pairs() -> list[tuple[RefundStatus, RefundReport, str]]:
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    return [
        (RefundStatus(row[0]), RefundReport[report], cell)
        for row in rows
        for report, cell in zip(head, row[1:], strict=True)
    ]


def test_the_table_names_every_pair() -> None:
    assert {(status, report) for status, report, _ in pairs()} == set(product(RefundStatus, RefundReport))
    assert set(ANSWERS) <= set(product(RefundStatus, RefundReport))


@pytest.mark.parametrize(("status", "report", "cell"), pairs())
def test_every_pair_has_its_answer(status: RefundStatus, report: RefundReport, cell: str) -> None:
    of = refund(status=status)
    answer = decide(of, refund_claim(of, report), None)
    match cell:
        case "=":
            assert answer == Repeated()
        case "!":
            assert answer == Refused(reason=CaseReason.CONTRADICTION)
        case _:
            assert answer == RefundMoved(to=RefundStatus(cell))


def test_a_refund_that_was_refused_and_is_worked_on_all_the_same_is_a_contradiction() -> None:
    of = refund(status=RefundStatus.FAILED, failure_code="refund_refused")
    assert decide(of, refund_claim(of, RefundReport.PROCESSING), None) == Refused(reason=CaseReason.CONTRADICTION)


def test_what_fails_a_check_or_is_not_known_moves_nothing() -> None:
    of = refund(status=RefundStatus.PROCESSING)
    wrong = refund_claim(of, RefundReport.SUCCEEDED)
    assert decide(of, wrong, CaseReason.AMOUNT_MISMATCH) == Refused(reason=CaseReason.AMOUNT_MISMATCH)
    odd = refund_claim(of, RefundReport.UNCLEAR, native_state="BRANDNEW")
    assert decide(of, odd, None) == Refused(reason=CaseReason.NATIVE_STATE_UNKNOWN)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"merchant_ref": ACCOUNT.merchant_ref, "app_ref": ACCOUNT.app_ref}, None),
        ({"merchant_ref": "1900000110"}, CaseReason.MERCHANT_MISMATCH),
        ({"app_ref": "wx0"}, CaseReason.APP_MISMATCH),
        ({"attempt_no": "0" * 26}, CaseReason.ATTEMPT_MISMATCH),
        ({"currency": None}, None),  # WeChat's callbacks leave it out
        ({"currency": "USD"}, CaseReason.CURRENCY_MISMATCH),
        ({"amount_minor": PRICE.minor - 1}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": -PRICE.minor}, CaseReason.AMOUNT_MISMATCH),
        ({"amount_minor": None}, CaseReason.AMOUNT_MISMATCH),
        ({"channel_refund_id": "51"}, CaseReason.REFUND_ID_CHANGED),
    ],
)
def test_a_success_must_prove_itself(changes: dict[str, object], reason: CaseReason | None) -> None:
    of = refund(status=RefundStatus.PROCESSING, channel_refund_id="50")
    found = checks.examine_refund(refund_claim(of, RefundReport.SUCCEEDED, **changes), of, ACCOUNT)
    assert checks.first_failure(found) is reason


def test_another_account_does_not_vouch() -> None:
    of = refund(account_id=refund().refund_id)
    other = ChannelAccount(merchant_ref="1", app_ref="2", account_id=refund().refund_id)
    found = checks.examine_refund(refund_claim(of, RefundReport.SUCCEEDED), of, other)
    assert checks.first_failure(found) is CaseReason.ACCOUNT_MISMATCH


def test_when_the_channel_is_asked_next() -> None:
    of, second = refund(), dt.timedelta(seconds=1)
    waits = [next_query_at(replace(of, query_count=n), RefundStatus.PROCESSING, NOW) for n in range(12)]
    assert [None if at is None else (at - NOW) // second for at in waits] == [
        10, 20, 40, 60, 120, 300, 600, 1200, 1800, 3600, 3600, 3600,
    ]  # fmt: skip
    assert next_query_at(of, RefundStatus.PROCESSING, NOW, soon=True) == NOW
    assert next_query_at(of, RefundStatus.PROCESSING, NOW, wait_s=77) == NOW + 77 * second
    assert next_query_at(of, RefundStatus.ABNORMAL, NOW) == NOW + 3600 * second
    late = NOW + UNRESOLVED_AFTER
    assert next_query_at(of, RefundStatus.PROCESSING, late) == late + dt.timedelta(days=1)
    assert next_query_at(of, RefundStatus.PROCESSING, NOW + ASKED_FOR) is None
    for ended in (RefundStatus.SUCCEEDED, RefundStatus.FAILED):
        assert next_query_at(of, ended, NOW, soon=True) is None


@pytest.mark.parametrize("status", PaymentStatus)
def test_only_money_that_came_goes_back(status: PaymentStatus) -> None:
    paid = status in {PaymentStatus.SUCCEEDED, PaymentStatus.PAID_LATE, PaymentStatus.DUPLICATE}
    of = payment(status, paid_at=NOW if paid else None)
    answer = may_refund(of, 1, refunds=0, refunds_max=50, window=dt.timedelta(days=365), now=NOW)
    assert answer is (None if paid else RefundRefusal.PAYMENT_NOT_PAID)


@pytest.mark.parametrize(
    ("amount_minor", "reserved_minor", "refunds", "days", "refusal"),
    [
        (PRICE.minor, 0, 0, 0, None),
        (PRICE.minor + 1, 0, 0, 0, RefundRefusal.REFUND_EXCEEDS_PAID),
        (1, PRICE.minor - 1, 49, 364, None),
        (2, PRICE.minor - 1, 0, 0, RefundRefusal.REFUND_EXCEEDS_PAID),
        (1, 0, 50, 0, RefundRefusal.TOO_MANY_REFUNDS),
        (1, 0, 0, 365, RefundRefusal.REFUND_WINDOW_OVER),
    ],
)
def test_how_much_may_go_back(
    amount_minor: int, reserved_minor: int, refunds: int, days: int, refusal: RefundRefusal | None
) -> None:
    of = payment(PaymentStatus.SUCCEEDED, paid_at=NOW, refund_reserved_minor=reserved_minor)
    now, window = NOW + dt.timedelta(days=days), dt.timedelta(days=365)
    assert may_refund(of, amount_minor, refunds=refunds, refunds_max=50, window=window, now=now) is refusal
