"""What tests start from: orders, payments, attempts, claims."""

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from defray_kernel.clock import SystemClock
from defray_kernel.contracts import order_v1
from defray_kernel.contracts.envelope import Cause, Event, EventData
from defray_kernel.idempotency import Claim as Key
from defray_kernel.ids import MerchantId, OrderId, PaymentId, RefundId, show, uuid7
from defray_kernel.money import Money
from defray_payment.commands.apply_channel_report import ApplyChannelReport
from defray_payment.commands.apply_refund_report import ApplyRefundReport
from defray_payment.commands.ask_refund import AskRefund
from defray_payment.commands.start_payment import StartPayment
from defray_payment.domain.attempt import Attempt, AttemptStatus, number_of
from defray_payment.domain.payable import OrderTerms, Payable, PayableStatus
from defray_payment.domain.payment import Payment, PaymentStatus
from defray_payment.domain.refund import Refund, RefundReason, RefundStatus
from defray_payment.domain.reports import ChannelAccount, Claim, RefundClaim, RefundReport, Report, Source
from defray_payment.store.callbacks import Callback

NOW = dt.datetime(2026, 11, 24, 10, 0, tzinfo=dt.UTC)
PRICE = Money(minor=19900, currency="CNY")
# Emptied between tests, in an order that foreign keys allow.
FILLED = [
    "case_note",
    "refund_refusal",
    "refund_transition",
    "refund_evidence",
    "refund",
    "attempt",
    "payment_transition",
    "payable_transition",
    "evidence",
    "callback",
    "channel_account",
    "exception_case",
    "payment",
    "payable",
    "idempotency_key",
    "outbox",
    "merchant",
    "consumer_offset",
    "parked_event",
    "parked_key",
]
ACCOUNT = ChannelAccount(merchant_ref="1900000109", app_ref="wx8888888888888888")


@dataclass(slots=True)
class MovedClock(SystemClock):
    """Real time, with business time ahead by as much as a test says."""

    ahead: dt.timedelta = field(default_factory=dt.timedelta)

    def now(self) -> dt.datetime:
        return self.real() + self.ahead


def terms(**changes: object) -> OrderTerms:
    values: dict[str, Any] = {
        "order_id": OrderId(uuid7()),
        "merchant_id": MerchantId(uuid7()),
        "amount": PRICE,
        "expires_at": NOW + dt.timedelta(hours=2),
        "correlation_id": "cid-1",
    }
    return OrderTerms(**(values | changes))


def payable(of: OrderTerms | None = None, **changes: object) -> Payable:
    of = of or terms()
    made = Payable(
        order_id=of.order_id,
        merchant_id=of.merchant_id,
        amount=of.amount,
        status=PayableStatus.OPEN,
        closing_reason=None,
        claimed_by=None,
        order_expires_at=of.expires_at,
        order_seq=0,
        correlation_id=of.correlation_id,
        version=1,
        event_seq=0,
    )
    return replace(made, **changes)


def payment(status: PaymentStatus = PaymentStatus.PENDING, **changes: object) -> Payment:
    made = Payment(
        payment_id=PaymentId(uuid7()),
        order_id=OrderId(uuid7()),
        merchant_id=MerchantId(uuid7()),
        amount=PRICE,
        channel="wechat",
        product="native",
        description="Order",
        status=status,
        attempt_no=number_of(uuid7()),
        created_at=NOW,
        expires_at=NOW + dt.timedelta(hours=2),
        channel_txn_id=None,
        paid_at=None,
        failure_code=None,
        correlation_id="cid-1",
        version=1,
        event_seq=1,
    )
    return replace(made, **changes)


def attempt(of: Payment, status: AttemptStatus = AttemptStatus.OPEN, **changes: object) -> Attempt:
    made = Attempt(
        attempt_no=of.attempt_no,
        payment_id=of.payment_id,
        order_id=of.order_id,
        channel=of.channel,
        status=status,
        closing=False,
        query_count=0,
        next_query_at=NOW,
        action_sealed=None,
        action_expires_at=None,
    )
    return replace(made, **changes)


def claim(report: Report, attempt_no: str, **changes: object) -> Claim:
    """What the channel truthfully says of an attempt of PRICE."""
    values: dict[str, Any] = {"report": report, "source": Source.QUERY, "channel": "wechat", "attempt_no": attempt_no}
    if report is Report.PAID:
        values |= {
            "native_state": "SUCCESS",
            "merchant_ref": ACCOUNT.merchant_ref,
            "app_ref": ACCOUNT.app_ref,
            "amount_minor": PRICE.minor,
            "currency": PRICE.currency,
            "channel_txn_id": f"42{attempt_no}",
            "paid_at": NOW,
        }
    return Claim(**(values | changes))


def report(kind: Report, attempt_no: str, **changes: object) -> ApplyChannelReport:
    """An answer of the channel."""
    return ApplyChannelReport(
        claim=claim(kind, attempt_no, **changes), account=ACCOUNT, cause=f"query:{attempt_no}:{kind}"
    )


def callback(attempt_no: str, callback_id: str, **changes: object) -> ApplyChannelReport:
    """A callback that tells of money."""
    told = claim(Report.PAID, attempt_no, **({"source": Source.CALLBACK} | changes))
    heard = Callback(
        channel="wechat",
        callback_id=callback_id,
        attempt_no=attempt_no,
        digest=hashlib.sha256(repr(told).encode()).digest(),
        raw_sealed=b"sealed",
        received_at=NOW,
    )
    return ApplyChannelReport(claim=told, account=ACCOUNT, cause=heard.cause, callback=heard)


def start(of: OrderTerms, *, key: str | None = None, product: str = "native") -> StartPayment:
    return StartPayment(
        key=Key(
            scope=f"{of.order_id.hex}:start_payment",
            key=key or uuid7().hex,
            request_hash=hashlib.sha256(product.encode()).digest(),
            mode="conversation",
        ),
        order_id=of.order_id,
        terms=of,
        channel="wechat",
        product=product,
        description="Order",
        payment_id=PaymentId(uuid7()),
        attempt_no=number_of(uuid7()),
        first_query_at=NOW + dt.timedelta(seconds=9),
        cause=Cause(correlation_id="cid-request"),
    )


def order_event(event_class: type[EventData], of: OrderTerms, sequence: int, **changes: object) -> Event[Any]:
    values: dict[str, Any] = {
        "order_id": show("ord", of.order_id),
        "merchant_id": show("mer", of.merchant_id),
        "merchant_order_no": "no-1",
        "status": "CLOSING" if event_class is order_v1.OrderClosing else "PLACED",
        "amount_minor": of.amount.minor,
        "currency": of.amount.currency,
        "items": [],
        "placed_at": NOW,
        "expires_at": of.expires_at,
    }
    if event_class is order_v1.OrderClosing:
        values["closing_reason"] = "customer"
    return Event(
        id=uuid7(),
        source="/order",
        subject=values["order_id"],
        key=values["order_id"],
        sequence=sequence,
        time=NOW,
        correlation_id="cid-event",
        causation_id=None,
        traceparent=None,
        data=event_class(**(values | changes)),
    )


def refund(of: Payment | None = None, status: RefundStatus = RefundStatus.REQUESTED, **changes: object) -> Refund:
    """A refund of the whole of a paid payment."""
    of = of or payment(PaymentStatus.SUCCEEDED, channel_txn_id="42X", paid_at=NOW)
    ended = {
        RefundStatus.SUCCEEDED: {"done_at": NOW},
        RefundStatus.FAILED: {"failure_code": "refund_failed"},
    }.get(status, {"next_query_at": NOW})
    values: dict[str, Any] = {
        "refund_id": RefundId(uuid7()),
        "payment_id": of.payment_id,
        "order_id": of.order_id,
        "merchant_id": of.merchant_id,
        "channel": of.channel,
        "account_id": None,
        "attempt_no": of.attempt_no,
        "channel_txn_id": of.channel_txn_id or "42X",
        "total": of.amount,
        "amount": of.amount,
        "reason": RefundReason.MERCHANT,
        "note": "refund",
        "refund_no": number_of(uuid7()),
        "status": status,
        "doubt": True,
        "query_count": 0,
        "next_query_at": None,
        "channel_refund_id": None,
        "done_at": None,
        "failure_code": None,
        "correlation_id": of.correlation_id,
        "created_at": NOW,
        "version": 1,
        "event_seq": 1,
    }
    return Refund(**(values | ended | changes))


def refund_claim(of: Refund, kind: RefundReport, **changes: object) -> RefundClaim:
    """What the channel truthfully says of a refund."""
    values: dict[str, Any] = {
        "report": kind,
        "source": Source.QUERY,
        "channel": "wechat",
        "refund_no": of.refund_no,
        "attempt_no": of.attempt_no,
        "amount_minor": of.amount.minor,
        "currency": of.amount.currency,
    }
    return RefundClaim(**(values | changes))


def refund_report(
    of: Refund, kind: RefundReport, *, callback_id: str | None = None, **changes: object
) -> ApplyRefundReport:
    """An answer of the channel, or with an id its callback."""
    if callback_id is None:
        claim_ = refund_claim(of, kind, **changes)
        return ApplyRefundReport(claim=claim_, account=ACCOUNT, cause=f"{claim_.source}:{of.refund_no}:{kind}")
    told = refund_claim(of, kind, **({"source": Source.CALLBACK} | changes))
    heard = Callback(
        channel="wechat",
        callback_id=callback_id,
        attempt_no=of.refund_no,
        digest=hashlib.sha256(repr(told).encode()).digest(),
        raw_sealed=b"sealed",
        received_at=NOW,
    )
    return ApplyRefundReport(claim=told, account=ACCOUNT, cause=heard.cause, callback=heard)


def ask(of: Payment, amount_minor: int, *, key: str | None = None, **changes: object) -> AskRefund:
    """A merchant's wish to send money back."""
    values: dict[str, Any] = {
        "key": Key(
            scope=f"{of.merchant_id.hex}:ask_refund",
            key=key or uuid7().hex,
            request_hash=hashlib.sha256(str(amount_minor).encode()).digest(),
            mode="conversation",
        ),
        "order_id": of.order_id,
        "payment_id": of.payment_id,
        "amount_minor": amount_minor,
        "note": "refund",
        "refund_id": RefundId(uuid7()),
        "refund_no": number_of(uuid7()),
        "refunds_max": 50,
        "window": dt.timedelta(days=365),
        "first_query_at": NOW + dt.timedelta(seconds=9),
        "cause": Cause(correlation_id="cid-request"),
    }
    return AskRefund(**(values | changes))
