"""The payment: its states, and the one answer to every report in every state. The payable decides which money is kept."""

import datetime as dt
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

import msgspec

from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import Money
from defray_payment.domain.refusals import CaseReason, Refused
from defray_payment.domain.reports import Claim, Report


class PaymentStatus(StrEnum):
    """CREATED → PENDING → (AUTHORIZED) → SUCCEEDED | FAILED | CLOSED; money that may not be kept: PAID_LATE, DUPLICATE."""

    CREATED = "CREATED"
    PENDING = "PENDING"
    AUTHORIZED = "AUTHORIZED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CLOSED = "CLOSED"
    PAID_LATE = "PAID_LATE"
    DUPLICATE = "DUPLICATE"


LIVE: Final = frozenset({PaymentStatus.CREATED, PaymentStatus.PENDING, PaymentStatus.AUTHORIZED})
PAID: Final = frozenset({PaymentStatus.SUCCEEDED, PaymentStatus.PAID_LATE, PaymentStatus.DUPLICATE})


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """One order to be paid at one channel; `attempt_no` is the number of its latest attempt there.

    `refund_reserved_minor` is the sum of its refunds that have not failed, `refunded_minor` of those that succeeded.
    """

    payment_id: PaymentId
    order_id: OrderId
    merchant_id: MerchantId
    amount: Money
    channel: str
    product: str
    description: str
    status: PaymentStatus
    attempt_no: str
    created_at: dt.datetime
    expires_at: dt.datetime
    channel_txn_id: str | None
    paid_at: dt.datetime | None
    failure_code: str | None
    correlation_id: str
    version: int
    event_seq: int
    refund_reserved_minor: int = 0
    refunded_minor: int = 0


class Purse(StrEnum):
    """What the payable says to money that arrives now."""

    FREE = "free"  # nobody has paid and the order may still be paid: keep it
    CLAIMED = "claimed"  # the order was paid: send it back
    LATE_KEPT = "late_kept"  # the order ended unpaid and the merchant wants late money to be decided, not sent back
    LATE_RETURNED = "late_returned"  # the order ended unpaid and late money goes back


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The payment goes to another state; `claims` when it is the money that the order keeps."""

    to: PaymentStatus
    claims: bool = False


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """Known already, or older than what is known: nothing moves."""


Answer: TypeAlias = Moved | Repeated | Refused

_STALE: Final = Repeated()
_CONTRADICTION: Final = Refused(reason=CaseReason.CONTRADICTION)
_MONEY_RETURNED: Final = Refused(reason=CaseReason.MONEY_RETURNED)

# PAID is not in the table: the payable decides it (`_money`).
TRANSITIONS: Final[dict[tuple[PaymentStatus, Report], PaymentStatus]] = {
    (PaymentStatus.CREATED, Report.OPENED): PaymentStatus.PENDING,
    (PaymentStatus.CREATED, Report.UNCLEAR): PaymentStatus.PENDING,  # asked; the outcome is not known, so never FAILED
    (PaymentStatus.CREATED, Report.UNSENT): PaymentStatus.PENDING,  # the timer sends it again under the same number
    (PaymentStatus.CREATED, Report.NOT_FOUND): PaymentStatus.PENDING,
    **{
        (status, report): to
        for status in LIVE
        for report, to in (
            (Report.REFUSED, PaymentStatus.FAILED),
            (Report.CLOSED, PaymentStatus.CLOSED),
            (Report.RETURNED, PaymentStatus.CLOSED),
            (Report.LAPSED, PaymentStatus.CLOSED),
        )
    },
}


def decide(
    payment: Payment,
    claim: Claim,
    failed_check: CaseReason | None,
    purse: Purse,
    *,
    opened: bool,
    returned: bool = False,
) -> Answer:
    """The answer to a claim, in order of precedence: its checks, money, then whether the move is legal.

    `opened` says that the channel has confirmed this attempt before, `returned` that it has sent back whatever was
    paid of it; `purse` is what the payable says to money.
    """
    if failed_check is not None:
        return Refused(reason=failed_check)
    match claim.report:
        case Report.PAID if returned:
            return _MONEY_RETURNED
        case Report.PAID:
            return _money(payment, claim, purse)
        case Report.RETURNED if payment.status in PAID:
            # Expected where our own refunds come to the whole; else it went back without our knowing.
            return _STALE if payment.refund_reserved_minor == payment.amount.minor else _MONEY_RETURNED
        case Report.UNCLEAR if claim.native_state:
            return Refused(reason=CaseReason.NATIVE_STATE_UNKNOWN)
        case Report.OPENED | Report.UNCLEAR | Report.UNSENT:
            # A question asked earlier may be answered after money or an end was reported: that is old news. A payment
            # refused for certain that can be paid after all is not.
            if payment.status is PaymentStatus.FAILED and claim.report is Report.OPENED:
                return _CONTRADICTION
        case Report.NOT_FOUND | Report.LAPSED:
            if payment.status in PAID or (payment.status in LIVE and opened):
                return _CONTRADICTION
        case Report.REFUSED | Report.CLOSED | Report.RETURNED:
            if payment.status in PAID:
                return _CONTRADICTION
        case _:
            assert_never(claim.report)
    to = TRANSITIONS.get((payment.status, claim.report))
    return _STALE if to is None else Moved(to=to)


def _money(payment: Payment, claim: Claim, purse: Purse) -> Answer:
    """Money is never dropped and never moves a payment twice."""
    if payment.status in PAID:
        same = payment.channel_txn_id == claim.channel_txn_id
        return _STALE if same else Refused(reason=CaseReason.SECOND_MONEY)
    match purse:
        case Purse.FREE:
            return Moved(to=PaymentStatus.SUCCEEDED, claims=True)
        case Purse.CLAIMED:
            return Moved(to=PaymentStatus.DUPLICATE)
        case Purse.LATE_KEPT:
            return Moved(to=PaymentStatus.PAID_LATE, claims=True)
        case Purse.LATE_RETURNED:
            return Moved(to=PaymentStatus.PAID_LATE)
        case _:
            assert_never(purse)
