"""Everything this service can refuse or put before a person, with codes that never change."""

from dataclasses import dataclass
from enum import StrEnum


class StartRefusal(StrEnum):
    """Why no payment is started for an order."""

    ORDER_MISMATCH = "order_mismatch"
    ORDER_PAID = "order_paid"
    ORDER_CLOSED = "order_closed"
    ORDER_EXPIRED = "order_expired"
    ATTEMPT_UNKNOWN = "attempt_unknown"


class FailureCode(StrEnum):
    """Why a payment failed for certain; told to merchants."""

    CHANNEL_DECLINED = "channel_declined"
    CHANNEL_REFUSED = "channel_refused"


class CaseReason(StrEnum):
    """Why something waits for a person."""

    ACCOUNT_MISMATCH = "account_mismatch"
    MERCHANT_MISMATCH = "merchant_mismatch"
    APP_MISMATCH = "app_mismatch"
    AMOUNT_MISMATCH = "amount_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    TXN_MISSING = "channel_txn_missing"
    TXN_REUSED = "channel_txn_reused"
    SECOND_MONEY = "second_money"
    CONTRADICTION = "contradiction"
    NATIVE_STATE_UNKNOWN = "native_state_unknown"
    UNKNOWN_ATTEMPT = "unknown_attempt"
    UNSUPPORTED_NOTICE = "unsupported_notice"
    UNREADABLE_NOTICE = "unreadable_notice"
    CALLBACK_CONFLICT = "callback_conflict"
    DECISION_FAILED = "decision_failed"
    ORDER_MISMATCH = "order_mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A report that moves nothing and opens a case."""

    reason: CaseReason
