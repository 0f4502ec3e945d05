"""The refund: its states, the one answer to every report in every state, and what may be refunded at all."""

import datetime as dt
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from defray_kernel.ids import MerchantId, OrderId, PaymentId, RefundId
from defray_kernel.money import Money
from defray_payment.domain.payment import PAID, Payment, Repeated
from defray_payment.domain.refusals import CaseReason, FailureCode, RefundRefusal, Refused
from defray_payment.domain.reports import RefundClaim, RefundReport

QUERY_AFTER_S: Final = (10, 20, 40, 60, 120, 300, 600, 1200, 1800, 3600)
"""Seconds from one question to the next; the last one repeats until a person has been told."""
UNRESOLVED_AFTER: Final = dt.timedelta(days=3)
"""So long a refund may take before a person looks; from then on the channel is asked once a day."""
ASKED_FOR: Final = dt.timedelta(days=30)
_DAY_S: Final = 86_400


class RefundStatus(StrEnum):
    """REQUESTED (nobody knows whether the channel holds it) → PROCESSING (it does) → SUCCEEDED | FAILED | ABNORMAL."""

    REQUESTED = "REQUESTED"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABNORMAL = "ABNORMAL"


ENDED: Final = frozenset({RefundStatus.SUCCEEDED, RefundStatus.FAILED})


class RefundReason(StrEnum):
    """Who wants the money back: the merchant, or a rule for money that may not be kept."""

    MERCHANT = "merchant"
    LATE = "late"
    DUPLICATE = "duplicate"
    MISMATCH = "mismatch"


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """One sum to go back where it came from; `total` is what had come in by the attempt.

    `refund_no` is its one number at the channel. `doubt`: a call may have reached the channel, so no refusal of another
    call is definite. `next_query_at` is business time; None when there is nothing more to ask. `request_id` is the order
    service's request that it answers.
    """

    refund_id: RefundId
    payment_id: PaymentId
    order_id: OrderId
    merchant_id: MerchantId
    channel: str
    account_id: UUID | None
    attempt_no: str
    channel_txn_id: str
    total: Money
    amount: Money
    reason: RefundReason
    note: str
    refund_no: str
    status: RefundStatus
    doubt: bool
    query_count: int
    next_query_at: dt.datetime | None
    channel_refund_id: str | None
    done_at: dt.datetime | None
    failure_code: str | None
    correlation_id: str
    created_at: dt.datetime
    version: int
    event_seq: int
    request_id: UUID | None = None

    @property
    def reserves(self) -> bool:
        """Whether its amount counts against what was paid; money of a wrong amount was never paid in our books."""
        return self.reason is not RefundReason.MISMATCH


class RefundMoved(msgspec.Struct, frozen=True, kw_only=True):
    """The refund goes to another state."""

    to: RefundStatus


RefundAnswer: TypeAlias = RefundMoved | Repeated | Refused

_STALE: Final = Repeated()
_CONTRADICTION: Final = Refused(reason=CaseReason.CONTRADICTION)
_S, _R = RefundStatus, RefundReport

# Every pair that is not here is old news and moves nothing.
ANSWERS: Final[dict[tuple[RefundStatus, RefundReport], RefundAnswer]] = {
    (_S.REQUESTED, _R.PROCESSING): RefundMoved(to=_S.PROCESSING),
    (_S.REQUESTED, _R.SUCCEEDED): RefundMoved(to=_S.SUCCEEDED),
    (_S.REQUESTED, _R.FAILED): RefundMoved(to=_S.FAILED),
    (_S.REQUESTED, _R.ABNORMAL): RefundMoved(to=_S.ABNORMAL),
    (_S.REQUESTED, _R.REFUSED): RefundMoved(to=_S.FAILED),
    (_S.PROCESSING, _R.SUCCEEDED): RefundMoved(to=_S.SUCCEEDED),
    (_S.PROCESSING, _R.FAILED): RefundMoved(to=_S.FAILED),  # also days later
    (_S.PROCESSING, _R.ABNORMAL): RefundMoved(to=_S.ABNORMAL),
    (_S.PROCESSING, _R.REFUSED): _CONTRADICTION,
    (_S.PROCESSING, _R.NOT_FOUND): _CONTRADICTION,
    (_S.ABNORMAL, _R.SUCCEEDED): RefundMoved(to=_S.SUCCEEDED),  # a person has acted at the channel
    (_S.ABNORMAL, _R.FAILED): RefundMoved(to=_S.FAILED),
    (_S.ABNORMAL, _R.REFUSED): _CONTRADICTION,
    (_S.ABNORMAL, _R.NOT_FOUND): _CONTRADICTION,
    # What was told stands: its amount may have been used since, so a person sees to the difference.
    (_S.SUCCEEDED, _R.FAILED): _CONTRADICTION,
    (_S.SUCCEEDED, _R.ABNORMAL): _CONTRADICTION,
    (_S.SUCCEEDED, _R.REFUSED): _CONTRADICTION,
    (_S.SUCCEEDED, _R.NOT_FOUND): _CONTRADICTION,
    (_S.FAILED, _R.SUCCEEDED): _CONTRADICTION,
    (_S.FAILED, _R.ABNORMAL): _CONTRADICTION,
}


def decide(refund: Refund, claim: RefundClaim, failed_check: CaseReason | None) -> RefundAnswer:
    """The answer to a claim, in order of precedence: its checks, then whether the move is legal."""
    if failed_check is not None:
        return Refused(reason=failed_check)
    if claim.report is RefundReport.UNCLEAR and claim.native_state:
        return Refused(reason=CaseReason.NATIVE_STATE_UNKNOWN)
    never_taken = refund.failure_code == FailureCode.REFUND_REFUSED
    if refund.status is RefundStatus.FAILED and claim.report is RefundReport.PROCESSING and never_taken:
        return _CONTRADICTION
    return ANSWERS.get((refund.status, claim.report), _STALE)


def next_query_at(
    refund: Refund, status: RefundStatus, now: dt.datetime, *, soon: bool = False, wait_s: int = 0
) -> dt.datetime | None:
    """When the channel is asked next; `wait_s` is the least it asked for. None when there is nothing more to ask."""
    age = now - refund.created_at
    if status in ENDED or age >= ASKED_FOR:
        return None
    if soon:
        return now
    after_s = QUERY_AFTER_S[min(refund.query_count, len(QUERY_AFTER_S) - 1)]
    if status is RefundStatus.ABNORMAL:
        after_s = QUERY_AFTER_S[-1]
    if age >= UNRESOLVED_AFTER:
        after_s = _DAY_S
    return now + dt.timedelta(seconds=max(after_s, wait_s))


def may_refund(
    payment: Payment, amount_minor: int, *, refunds: int, refunds_max: int, window: dt.timedelta, now: dt.datetime
) -> RefundRefusal | None:
    """Why this much of a payment may not go back; `refunds` is how many it has had. None: it may."""
    if payment.status not in PAID or payment.paid_at is None:
        return RefundRefusal.PAYMENT_NOT_PAID
    if amount_minor > payment.amount.minor - payment.refund_reserved_minor:
        return RefundRefusal.REFUND_EXCEEDS_PAID
    if refunds >= refunds_max:
        return RefundRefusal.TOO_MANY_REFUNDS
    return RefundRefusal.REFUND_WINDOW_OVER if now >= payment.paid_at + window else None
