"""Everything this service can refuse or put before a person, with codes that never change."""

from enum import StrEnum

import msgspec


class StartRefusal(StrEnum):
    """Why no payment is started for an order."""

    ORDER_MISMATCH = "order_mismatch"
    ORDER_PAID = "order_paid"
    ORDER_CLOSED = "order_closed"
    ORDER_EXPIRED = "order_expired"
    ATTEMPT_UNKNOWN = "attempt_unknown"


class RefundRefusal(StrEnum):
    """Why no refund is started."""

    PAYMENT_NOT_PAID = "payment_not_paid"
    REFUND_EXCEEDS_PAID = "refund_exceeds_paid"
    TOO_MANY_REFUNDS = "too_many_refunds"
    REFUND_WINDOW_OVER = "refund_window_over"


class RequestRefusal(StrEnum):
    """Why the order service's request for a refund is refused, beside what refuses every refund."""

    PAYMENT_UNKNOWN = "payment_unknown"  # this order has no such payment
    SENT_BACK_BEFORE = "sent_back_before"  # a rule has tried already; after its failure a person decides


class FailureCode(StrEnum):
    """Why a payment or a refund failed for certain; told to merchants."""

    CHANNEL_DECLINED = "channel_declined"
    CHANNEL_REFUSED = "channel_refused"
    REFUND_REFUSED = "refund_refused"  # the channel did not take it
    REFUND_FAILED = "refund_failed"  # taken by the channel, and failed there


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
    MONEY_RETURNED = "money_returned"
    NATIVE_STATE_UNKNOWN = "native_state_unknown"
    UNKNOWN_ATTEMPT = "unknown_attempt"
    UNSUPPORTED_NOTICE = "unsupported_notice"
    UNREADABLE_NOTICE = "unreadable_notice"
    CALLBACK_CONFLICT = "callback_conflict"
    DECISION_FAILED = "decision_failed"
    ORDER_MISMATCH = "order_mismatch"
    LATE_MONEY = "late_money"
    ATTEMPT_MISMATCH = "attempt_mismatch"
    UNKNOWN_REFUND = "unknown_refund"
    REFUND_ID_CHANGED = "channel_refund_id_changed"
    REFUND_ABNORMAL = "refund_abnormal"
    REFUND_UNRESOLVED = "refund_unresolved"
    SEND_BACK_FAILED = "send_back_failed"


class CaseRefusal(StrEnum):
    """Why an operator's act on a case is not done."""

    NOT_FOUND = "not_found"
    CLAIMED = "case_claimed"
    RESOLVED = "case_resolved"


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A report that moves nothing and opens a case."""

    reason: CaseReason
