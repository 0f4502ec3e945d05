"""What a channel adapter offers: pure translation and one HTTP call each, with outcomes that know three values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from defray_kernel.money import Money
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import ChannelAccount, Report


class Outcome(StrEnum):
    """Whether the channel did what it was asked."""

    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What went wrong."""

    DECLINED = "declined"
    INVALID = "invalid"
    CONFLICT = "conflict"
    NOT_FOUND = "not_found"
    AUTH = "auth"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    UNREACHED = "unreached"
    UNVERIFIED = "unverified"
    PROTOCOL = "protocol"


class Next(StrEnum):
    """What may follow."""

    FAIL = "fail"
    QUERY = "query"
    RETRY_SAME_NUMBER = "retry_same_number"
    ALERT = "alert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A call that did not end well, as a value. An unknown outcome that is settled as failed cannot be made.

    `code` is the channel's, `retry_after_s` what it asked for; neither carries anything of the payer.
    """

    kind: Kind
    outcome: Outcome
    next: Next
    code: str = ""
    http_status: int | None = None
    retry_after_s: float | None = None

    def __post_init__(self) -> None:
        if self.outcome is Outcome.UNKNOWN and self.next is Next.FAIL:
            raise ValueError("an unknown outcome may never be settled as failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class NextAction:
    """What the payer does next."""

    type: Literal["qr"]
    data: Mapping[str, str]
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePayment:
    """One attempt to be opened at the channel. `again`: an earlier call may have arrived, so no refusal is definite."""

    attempt_no: str
    product: str
    amount: Money
    description: str
    expires_at: dt.datetime
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentView:
    """What the channel says of one attempt, verified, in our words; None = not told."""

    attempt_no: str
    report: Report
    native_state: str = ""
    merchant_ref: str | None = None
    app_ref: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    channel_txn_id: str | None = None
    paid_at: dt.datetime | None = None
    action: NextAction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A verified callback; `view` is None when it is genuine but tells nothing we can apply, and `fault` says why."""

    callback_id: str
    digest: bytes
    view: PaymentView | None
    fault: CaseReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """A callback that proves nothing; `reason` is for a counter, not for the sender."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """The exact answer a channel expects."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a channel can do; amounts in minor units."""

    channel: str
    products: frozenset[str]
    currencies: frozenset[str]
    minor_max: int


class PaymentChannel(Protocol):
    """One channel with one account. It never retries, sleeps, stores or decides that a timeout is a failure."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def account(self) -> ChannelAccount: ...

    async def create(self, request: CreatePayment) -> PaymentView | Trouble:
        """Open an attempt; the same number again returns the same order with a fresh action."""
        ...

    async def query(self, attempt_no: str) -> PaymentView | Trouble:
        """Ask what has become of an attempt."""
        ...

    async def close(self, attempt_no: str) -> PaymentView | Trouble:
        """End an attempt that is not paid."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> Notice | Unverified:
        """Judge a callback: pure, no I/O; `headers` have lower-case names, `now` is real time."""
        ...

    def acknowledge(self, *, accepted: bool) -> Acknowledgement:
        """What to answer to a callback."""
        ...
