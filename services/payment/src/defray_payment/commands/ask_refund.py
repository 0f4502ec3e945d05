"""Ask for a refund: the key, the reserved amount and the refund are committed before the channel is called."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, assert_never
from uuid import UUID

import msgspec
from msgspec.structs import replace

from defray_kernel import idempotency, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.idempotency import Answer, Claim, Fresh, Mismatch, Replay, Resume, Running
from defray_kernel.ids import OrderId, PaymentId, RefundId
from defray_kernel.money import Money
from defray_payment import announce
from defray_payment.commands.start_payment import Told
from defray_payment.domain.payment import Payment
from defray_payment.domain.refund import Refund, RefundReason, RefundStatus, may_refund
from defray_payment.store import payables, payments, refunds
from defray_payment.store.payments import Found

CAUSE: Final = "ask_refund"


class Answers(Protocol):
    """How outcomes are put for callers; the answer of a key is stored as it was told."""

    def refund(self, refund: Refund) -> tuple[int, bytes]:
        """Status and body that show a refund, or why it failed."""
        ...

    def refusal(self, code: str, correlation_id: str) -> tuple[int, bytes]:
        """Status and body of a refusal."""
        ...


class AskRefund(msgspec.Struct, frozen=True, kw_only=True):
    """The wish to send back so much of a payment. `refunds_max` and `window` are what its channel allows.

    `first_query_at` is after the channel call must have ended: until then nobody else asks about the refund.
    """

    key: Claim
    order_id: OrderId
    payment_id: PaymentId
    amount_minor: int
    note: str
    refund_id: RefundId
    refund_no: str
    refunds_max: int
    window: dt.timedelta
    first_query_at: dt.datetime
    cause: Cause


class SendRefund(msgspec.Struct, frozen=True, kw_only=True):
    """The channel is to be called for this refund; `again` when an earlier call may have reached it."""

    refund: Refund
    again: bool


RefundOutcome: TypeAlias = SendRefund | Told | Replay | Mismatch | Running


def keys(command: AskRefund) -> list[str]:
    """Serial keys: the order and the idempotency key."""
    return [f"order:{command.order_id}", f"key:{command.key.scope}:{command.key.key}"]


async def handle(commands: Sequence[AskRefund], tx: WriteTx, clock: Clock, *, answers: Answers) -> list[RefundOutcome]:
    """Ask for refunds of payments of different orders, one outcome each. Locks keys, then payables."""
    claimed = await idempotency.claim(tx, [command.key for command in commands], clock)
    todo = [c for c, key in zip(commands, claimed, strict=True) if isinstance(key, Fresh | Resume)]
    await payables.lock(tx, [c.order_id for c in todo])
    found = await payments.by_ids(tx, [c.payment_id for c in todo])
    counts = await refunds.counts(tx, [c.payment_id for c in todo])
    left = await refunds.by_ids(tx, [k.resource_id for k in claimed if isinstance(k, Resume) and k.resource_id])
    # The answer to our own COMMIT may have been lost: then what holds the key is this very command's refund.
    running = [c.refund_id for c, key in zip(commands, claimed, strict=True) if isinstance(key, Running)]
    own = await refunds.by_ids(tx, running)
    batch = _Batch(now=clock.now(), answers=answers, counts=counts)
    for command, key in zip(commands, claimed, strict=True):
        match key:
            case Running() if command.refund_id in own:
                batch.resume(command, own[command.refund_id])
            case Replay() | Mismatch() | Running():
                batch.outcomes.append(key)
            case Resume(resource_id=resource_id) if resource_id is not None:
                batch.resume(command, left[resource_id])
            case Fresh() | Resume():
                batch.ask(command, found[command.payment_id])
            case _:
                assert_never(key)
    await batch.write(tx)
    return batch.outcomes


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What one transaction will write."""

    now: dt.datetime
    answers: Answers
    counts: dict[UUID, int]
    outcomes: list[RefundOutcome] = field(default_factory=list)
    asked: list[tuple[AskRefund, Payment, Refund]] = field(default_factory=list)
    told: list[Answer] = field(default_factory=list)

    def resume(self, command: AskRefund, refund: Refund) -> None:
        """Its worker died between the two transactions: the same number again, unless the outcome is known by now."""
        if refund.status is RefundStatus.REQUESTED:
            self.outcomes.append(SendRefund(refund=refund, again=True))
        else:
            self._tell(command, *self.answers.refund(refund))

    def ask(self, command: AskRefund, found: Found) -> None:
        """Decide whether so much may go back."""
        payment = found.payment
        refusal = may_refund(
            payment,
            command.amount_minor,
            refunds=self.counts.get(payment.payment_id, 0),
            refunds_max=command.refunds_max,
            window=command.window,
            now=self.now,
        )
        if refusal is not None:
            self._tell(command, *self.answers.refusal(refusal, command.cause.correlation_id))
            return
        refund = new_refund(
            found,
            amount=Money(minor=command.amount_minor, currency=payment.amount.currency),
            reason=RefundReason.MERCHANT,
            note=command.note,
            refund_id=command.refund_id,
            refund_no=command.refund_no,
            now=self.now,
        )
        refund = replace(refund, doubt=True, next_query_at=command.first_query_at)
        self.asked.append((command, payment, refund))
        self.outcomes.append(SendRefund(refund=refund, again=False))

    def _tell(self, command: AskRefund, status: int, body: bytes) -> None:
        self.told.append(Answer(scope=command.key.scope, key=command.key.key, status=status, body=body))
        self.outcomes.append(Told(status=status, body=body))

    async def write(self, tx: WriteTx) -> None:
        """Sums, refunds and events set by set, and the answers that are final already."""
        if self.asked:
            keys_ = [(c.key.scope, c.key.key, refund.refund_id) for c, _, refund in self.asked]
            await begin(
                tx,
                [(payment, refund) for _, payment, refund in self.asked],
                [_cause(command, refund) for command, _, refund in self.asked],
                self.now,
            )
            await idempotency.remember_resource(tx, keys_)
        if self.told:
            await idempotency.finish(tx, self.told)


async def begin(
    tx: WriteTx, asked: Sequence[tuple[Payment, Refund]], causes: Sequence[Cause], now: dt.datetime
) -> None:
    """Reserve the amounts, add the refunds and tell of them; the caller holds the payables' locks."""
    after = [reserving(payment, refund) for payment, refund in asked]
    await refunds.reserve(tx, [payment for payment, _ in asked], after, now)
    await refunds.insert(tx, [refund for _, refund in asked], [c.causation_id or CAUSE for c in causes], now)
    told = [
        announce.refund_event(refund, payment, cause, now)
        for (_, refund), payment, cause in zip(asked, after, causes, strict=True)
    ]
    await outbox.append(tx, [event for event in told if event is not None])


def new_refund(
    found: Found,
    *,
    amount: Money,
    reason: RefundReason,
    note: str,
    refund_id: RefundId,
    refund_no: str,
    now: dt.datetime,
) -> Refund:
    """A refund of a payment by the attempt that collected it; due at once, nothing sent yet."""
    payment, attempt = found.payment, found.attempt
    assert payment.channel_txn_id is not None
    return Refund(
        refund_id=refund_id,
        payment_id=payment.payment_id,
        order_id=payment.order_id,
        merchant_id=payment.merchant_id,
        channel=payment.channel,
        account_id=attempt.account_id,
        attempt_no=attempt.attempt_no,
        channel_txn_id=payment.channel_txn_id,
        total=payment.amount,
        amount=amount,
        reason=reason,
        note=note,
        refund_no=refund_no,
        status=RefundStatus.REQUESTED,
        doubt=False,
        query_count=0,
        next_query_at=now,
        channel_refund_id=None,
        done_at=None,
        failure_code=None,
        correlation_id=payment.correlation_id,
        created_at=now,
        version=1,
        event_seq=1,
    )


def reserving(payment: Payment, refund: Refund) -> Payment:
    """The payment with the refund's amount spoken for."""
    return replace(
        payment,
        refund_reserved_minor=payment.refund_reserved_minor + refund.amount.minor,
        version=payment.version + 1,
    )


def _cause(command: AskRefund, refund: Refund) -> Cause:
    return Cause(correlation_id=refund.correlation_id, traceparent=command.cause.traceparent)
