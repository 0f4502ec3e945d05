"""What a channel claims about an attempt, in our words; a claim changes nothing by itself."""

import datetime as dt
from enum import StrEnum
from uuid import UUID

import msgspec


class Report(StrEnum):
    """The claim's gist."""

    OPENED = "opened"  # the channel holds it and it is not paid
    PAID = "paid"
    CLOSED = "closed"
    RETURNED = "returned"  # over, and whatever was paid has gone back at the channel: nothing of it is kept
    REFUSED = "refused"  # for certain: it will not happen
    NOT_FOUND = "not_found"
    LAPSED = "lapsed"  # not found, so long after expiry that it cannot arrive any more
    UNSENT = "unsent"  # for certain not applied; may be sent again under the same number
    UNCLEAR = "unclear"  # nobody can tell: never a failure


class RefundReport(StrEnum):
    """What a channel claims about a refund."""

    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # for certain: the money stays
    ABNORMAL = "abnormal"  # stuck at the channel: a person must act there
    REFUSED = "refused"  # for certain: the channel did not take it
    NOT_FOUND = "not_found"
    UNSENT = "unsent"  # for certain not applied; may be sent again under the same number
    UNCLEAR = "unclear"  # nobody can tell: never a failure


class Source(StrEnum):
    """How the claim reached us."""

    CALLBACK = "callback"
    QUERY = "query"
    CREATE = "create"
    CLOSE = "close"


class ChannelAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Our identity at a channel: what a claim must name to be about us. `account_id` is our own row, None = the only one."""

    merchant_ref: str
    app_ref: str
    account_id: UUID | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A verified claim, kept as it was made: amounts may be absurd here. None = not told."""

    report: Report
    source: Source
    channel: str
    attempt_no: str
    native_state: str = ""
    merchant_ref: str | None = None
    app_ref: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    channel_txn_id: str | None = None
    paid_at: dt.datetime | None = None
    failure_code: str | None = None


class RefundClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A verified claim about a refund, kept as it was made. None = not told.

    `again`: it answers a call that was not the first of its number. `wait_s` is what the channel asked to wait.
    """

    report: RefundReport
    source: Source
    channel: str
    refund_no: str
    again: bool = True
    attempt_no: str | None = None
    native_state: str = ""
    merchant_ref: str | None = None
    app_ref: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    channel_refund_id: str | None = None
    done_at: dt.datetime | None = None
    failure_code: str | None = None
    wait_s: int = 0
