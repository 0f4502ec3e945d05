"""What a channel adapter offers: pure translation and one HTTP call each, with outcomes that know three values."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from defray_kernel.money import Money
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import ChannelAccount, RefundReport, Report


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
    UNSUPPORTED = "unsupported"
    INSUFFICIENT_FUNDS = "insufficient_funds"


class Next(StrEnum):
    """What may follow."""

    FAIL = "fail"
    QUERY = "query"
    RETRY_SAME_NUMBER = "retry_same_number"
    ALERT = "alert"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
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


class Operation(StrEnum):
    """What a channel can be asked to do; a declared one has its method, and no other has (`methods_missing`)."""

    CREATE = "create"
    QUERY = "query"
    CLOSE = "close"
    CANCEL = "cancel"
    REFUND = "refund"
    QUERY_REFUND = "query_refund"


class ExistsAfter(StrEnum):
    """When the channel begins to know an attempt: with our call, or when the payer opens what we made."""

    CREATE = "create"
    PAYER_OPENS = "payer_opens"


class PayerField(StrEnum):
    """What a product must be told of the payer. Stored sealed; never logged."""

    PAYER_ID = "payer_id"  # openid, buyer id
    AUTH_CODE = "auth_code"  # the code on the payer's screen, good for one payment
    CLIENT_IP = "client_ip"


class NextAction(msgspec.Struct, frozen=True, kw_only=True):
    """What the payer does next: scan `code_url`, go to `url`, post `html`, hand the parameters to an SDK; or nothing."""

    type: Literal["qr", "redirect", "form", "app_sdk", "jsapi", "none"]
    data: Mapping[str, str]
    expires_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """What is known of the payer; which of it a product needs is declared in its capabilities."""

    payer_id: str | None = field(default=None, repr=False)
    auth_code: str | None = field(default=None, repr=False)
    client_ip: str | None = field(default=None, repr=False)


class CreatePayment(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to be opened at the channel. `again`: an earlier call may have arrived, so no refusal is definite.

    `return_url` is where a browser goes afterwards; coming back proves nothing.
    """

    attempt_no: str
    product: str
    amount: Money
    description: str
    expires_at: dt.datetime
    again: bool
    payer: Payer = Payer()
    return_url: str | None = None


class PaymentView(msgspec.Struct, frozen=True, kw_only=True):
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


PROTOCOL: Final = Trouble(kind=Kind.PROTOCOL, outcome=Outcome.UNKNOWN, next=Next.QUERY)
UNVERIFIED: Final = Trouble(kind=Kind.UNVERIFIED, outcome=Outcome.UNKNOWN, next=Next.QUERY)
TIMEOUT: Final = Trouble(kind=Kind.TIMEOUT, outcome=Outcome.UNKNOWN, next=Next.QUERY)
UNREACHED: Final = Trouble(kind=Kind.UNREACHED, outcome=Outcome.NOT_APPLIED, next=Next.RETRY_SAME_NUMBER)


class RefundCall(msgspec.Struct, frozen=True, kw_only=True):
    """One refund to be asked for; `total` is what was paid. `again`: an earlier call may have arrived."""

    refund_no: str
    attempt_no: str
    channel_txn_id: str
    total: Money
    amount: Money
    reason: str
    again: bool


class RefundView(msgspec.Struct, frozen=True, kw_only=True):
    """What the channel says of one refund, verified, in our words; None = not told."""

    report: RefundReport
    refund_no: str
    attempt_no: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    channel_refund_id: str | None = None
    done_at: dt.datetime | None = None
    native_state: str = ""
    merchant_ref: str | None = None
    app_ref: str | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A verified callback; `view` is None when it is genuine but tells nothing we can apply, and `fault` says why."""

    callback_id: str
    digest: bytes
    view: PaymentView | RefundView | None
    fault: CaseReason | None


class Unverified(msgspec.Struct, frozen=True, kw_only=True):
    """A callback that proves nothing; `reason` is for a counter, not for the sender.

    `unknown_key` names the key that it claims to be signed with when that key is not ours.
    """

    reason: str
    unknown_key: str = ""


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """The exact answer a channel expects."""

    status: int
    body: bytes
    content_type: str = "application/json"


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One way to pay at a channel: when it exists there, what it must know, how it ends.

    `lives_s` bounds an attempt that a payer either confirms at once or not at all; None = as long as the order.
    """

    exists_after: ExistsAfter = ExistsAfter.CREATE
    needs: frozenset[PayerField] = frozenset()
    ends_by: Literal[Operation.CLOSE, Operation.CANCEL] = Operation.CLOSE
    lives_s: int | None = None
    notifies: bool = True


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel can do, as data; amounts in minor units, patterns match a whole number."""

    channel: str
    products: Mapping[str, Product]
    currencies: frozenset[str]
    operations: frozenset[Operation]
    minor_min: int
    minor_max: int
    attempt_no_pattern: str
    refund_no_pattern: str
    refunds_max: int
    refund_window: dt.timedelta
    refund_gap: dt.timedelta
    description_max: int


Said: TypeAlias = PaymentView | Trouble
RefundSaid: TypeAlias = RefundView | Trouble


@runtime_checkable
class PaymentChannel(Protocol):
    """One channel with one account. It never retries, sleeps, stores or decides that a timeout is a failure."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def account(self) -> ChannelAccount: ...

    async def create(self, request: CreatePayment) -> Said:
        """Open an attempt; the same number again returns the same order with a fresh action."""
        ...

    async def query(self, attempt_no: str) -> Said:
        """Ask what has become of an attempt."""
        ...

    async def close(self, attempt_no: str) -> Said:
        """End an attempt that is not paid."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> Notice | Unverified:
        """Judge a callback: pure, no I/O; `headers` have lower-case names, `now` is real time."""
        ...

    def acknowledge(self, *, accepted: bool) -> Acknowledgement:
        """What to answer to a callback."""
        ...


@runtime_checkable
class CancelChannel(Protocol):
    """A channel where some products are ended whatever has happened: closed, or paid back when paid already."""

    async def cancel(self, attempt_no: str) -> Said:
        """End an attempt; CLOSED is the channel's promise that no money of it is kept."""
        ...


@runtime_checkable
class RefundChannel(Protocol):
    """A channel that sends money back."""

    async def refund(self, request: RefundCall) -> RefundSaid:
        """Ask for a refund; the same number with the same data is the same refund. Acceptance is not success."""
        ...

    async def query_refund(self, refund_no: str, attempt_no: str) -> RefundSaid:
        """Ask what has become of a refund."""
        ...


@runtime_checkable
class KeySource(Protocol):
    """A channel that hands out its own keys, sealed or certified, so that a new one need not be brought by hand."""

    async def fetch_keys(self, unknown: str) -> Mapping[str, str] | Trouble:
        """Keys by name as PEM, at best the unknown one among them; who takes them over checks them anew."""
        ...


_METHODS: Final[Mapping[Operation, type]] = {
    Operation.CANCEL: CancelChannel,
    Operation.REFUND: RefundChannel,
    Operation.QUERY_REFUND: RefundChannel,
}


def misdeclared(channel: PaymentChannel) -> list[str]:
    """What the capabilities declare without a method, or the reverse; empty for a sound adapter."""
    declared = channel.capabilities.operations
    always = {operation for operation in Operation if operation not in _METHODS}
    offered = always | {operation for operation, protocol in _METHODS.items() if isinstance(channel, protocol)}
    wrong = [str(operation) for operation in Operation if (operation in declared) != (operation in offered)]
    ends = {product.ends_by for product in channel.capabilities.products.values()}
    return wrong + [f"a product ends by {operation}" for operation in sorted(ends - declared)]


def unacceptable(capabilities: Capabilities, request: CreatePayment) -> Trouble | None:
    """Why a request is refused before any byte leaves; a backtick would break the channels' bills."""
    product = capabilities.products.get(request.product)
    if product is None or request.amount.currency not in capabilities.currencies:
        kind, code = Kind.UNSUPPORTED, "unsupported"
    elif any(getattr(request.payer, name) is None for name in product.needs) or not (
        re.fullmatch(capabilities.attempt_no_pattern, request.attempt_no, re.ASCII)
        and capabilities.minor_min <= request.amount.minor <= capabilities.minor_max
        and 0 < len(request.description) <= capabilities.description_max
        and "`" not in request.description
    ):
        kind, code = Kind.INVALID, "unacceptable"
    else:
        return None
    if request.again:  # rules may have been others when the number was sent first
        return Trouble(kind=kind, outcome=Outcome.UNKNOWN, next=Next.QUERY, code=code)
    return Trouble(kind=kind, outcome=Outcome.NOT_APPLIED, next=Next.FAIL, code=code)
