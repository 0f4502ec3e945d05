"""Start a payment: the key, the payable, the payment and its attempt are committed before the channel is called."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, assert_never
from uuid import UUID

import msgspec

from defray_kernel import idempotency, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.idempotency import Answer, Claim, Fresh, Mismatch, Replay, Resume, Running
from defray_kernel.ids import OrderId, PaymentId
from defray_payment import announce
from defray_payment.domain.attempt import Attempt, AttemptStatus
from defray_payment.domain.payable import OrderTerms, Payable, Reuse, Start, StartAnswer, may_start
from defray_payment.domain.payment import Payment, PaymentStatus
from defray_payment.domain.refusals import StartRefusal
from defray_payment.store import attempts, payables, payments
from defray_payment.store.payments import Found

CAUSE = "start_payment"


class Answers(Protocol):
    """How outcomes are put for callers; the answer of a key is stored as it was told."""

    def payment(self, payment: Payment, attempt: Attempt) -> tuple[int, bytes]:
        """Status and body that show a payment, or why it failed."""
        ...

    def refusal(self, code: str, correlation_id: str) -> tuple[int, bytes]:
        """Status and body of a refusal."""
        ...


class StartPayment(msgspec.Struct, frozen=True, kw_only=True):
    """The wish to pay an order at a channel. `terms` come from a payment token; without it the order must be known.

    `first_query_at` is after the channel call must have ended: until then nobody else asks about the attempt.
    `account_id` is the channel's account to be used; `lives_s` ends the payment earlier than its order.
    """

    key: Claim
    order_id: OrderId
    terms: OrderTerms | None
    channel: str
    product: str
    description: str
    payment_id: PaymentId
    attempt_no: str
    first_query_at: dt.datetime
    cause: Cause
    account_id: UUID | None = None
    payer_sealed: bytes | None = None
    lives_s: int | None = None


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """The channel is to be called for this attempt; `again` when an earlier call may have reached it."""

    payment: Payment
    attempt: Attempt
    again: bool


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, stored under the key."""

    status: int
    body: bytes


StartOutcome: TypeAlias = Send | Told | Replay | Mismatch | Running


def keys(command: StartPayment) -> list[str]:
    """Serial keys: the order and the idempotency key."""
    return [f"order:{command.order_id}", f"key:{command.key.scope}:{command.key.key}"]


async def handle(
    commands: Sequence[StartPayment], tx: WriteTx, clock: Clock, *, answers: Answers
) -> list[StartOutcome]:
    """Start payments of different orders, one outcome each. Locks keys, then payables."""
    now = clock.now()
    claimed = await idempotency.claim(tx, [command.key for command in commands], clock)
    todo = [c for c, key in zip(commands, claimed, strict=True) if isinstance(key, Fresh | Resume)]
    await payables.ensure(tx, [c.terms for c in todo if c.terms is not None], now)
    locked = await payables.lock(tx, [c.order_id for c in todo])
    live: dict[OrderId, list[Found]] = {}
    for found in await payments.live_of_orders(tx, list(locked)):
        live.setdefault(found.payment.order_id, []).append(found)
    left = await payments.by_ids(tx, [k.resource_id for k in claimed if isinstance(k, Resume) and k.resource_id])
    # The answer to our own COMMIT may have been lost: then what holds the key is this very command's payment.
    running = [c.payment_id for c, key in zip(commands, claimed, strict=True) if isinstance(key, Running)]
    own = await payments.by_ids(tx, running)
    batch = _Batch(now=now, answers=answers)
    for command, key in zip(commands, claimed, strict=True):
        match key:
            case Running() if command.payment_id in own:
                batch.resume(command, own[command.payment_id])
            case Replay() | Mismatch() | Running():
                batch.outcomes.append(key)
            case Resume(resource_id=resource_id) if resource_id is not None:
                batch.resume(command, left[resource_id])
            case Fresh() | Resume():
                batch.start(command, locked[command.order_id], live.get(command.order_id, []))
            case _:
                assert_never(key)
    await batch.write(tx)
    return batch.outcomes


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What one transaction will write."""

    now: dt.datetime
    answers: Answers
    outcomes: list[StartOutcome] = field(default_factory=list)
    started: list[tuple[StartPayment, Payment, Attempt]] = field(default_factory=list)
    told: list[Answer] = field(default_factory=list)

    def resume(self, command: StartPayment, found: Found) -> None:
        """Its worker died between the two transactions: the same number again, unless the outcome is known by now."""
        if found.attempt.status in {AttemptStatus.SENDING, AttemptStatus.UNKNOWN} and not found.attempt.closing:
            self.outcomes.append(Send(payment=found.payment, attempt=found.attempt, again=True))
        else:
            self._tell(command, *self.answers.payment(found.payment, found.attempt))

    def start(self, command: StartPayment, payable: Payable, live: Sequence[Found]) -> None:
        """Decide whether another way to pay may be opened."""
        answer: StartAnswer = may_start(
            payable,
            [(found.payment, found.attempt) for found in live],
            terms=command.terms,
            channel=command.channel,
            product=command.product,
            now=self.now,
        )
        match answer:
            case Start():
                payment, attempt = _new(command, payable, self.now)
                self.started.append((command, payment, attempt))
                self.outcomes.append(Send(payment=payment, attempt=attempt, again=False))
            case Reuse(payment=payment, attempt=attempt):
                self._tell(command, *self.answers.payment(payment, attempt))
            case StartRefusal():
                self._tell(command, *self.answers.refusal(answer, command.cause.correlation_id))
            case _:
                assert_never(answer)

    def _tell(self, command: StartPayment, status: int, body: bytes) -> None:
        self.told.append(Answer(scope=command.key.scope, key=command.key.key, status=status, body=body))
        self.outcomes.append(Told(status=status, body=body))

    async def write(self, tx: WriteTx) -> None:
        """Payments, attempts and events set by set, and the answers that are final already."""
        if self.started:
            await payments.insert(tx, [payment for _, payment, _ in self.started], CAUSE, self.now)
            await attempts.insert(tx, [attempt for _, _, attempt in self.started], self.now)
            keys_ = [(c.key.scope, c.key.key, payment.payment_id) for c, payment, _ in self.started]
            await idempotency.remember_resource(tx, keys_)
            told = [announce.payment_event(p, _cause(c, p), self.now) for c, p, _ in self.started]
            await outbox.append(tx, [event for event in told if event is not None])
        if self.told:
            await idempotency.finish(tx, self.told)


def _cause(command: StartPayment, payment: Payment) -> Cause:
    return Cause(correlation_id=payment.correlation_id, traceparent=command.cause.traceparent)


def _new(command: StartPayment, payable: Payable, now: dt.datetime) -> tuple[Payment, Attempt]:
    payment = Payment(
        payment_id=command.payment_id,
        order_id=payable.order_id,
        merchant_id=payable.merchant_id,
        amount=payable.amount,
        channel=command.channel,
        product=command.product,
        description=command.description,
        status=PaymentStatus.CREATED,
        attempt_no=command.attempt_no,
        created_at=now,
        expires_at=_ends(command, payable, now),
        channel_txn_id=None,
        paid_at=None,
        failure_code=None,
        correlation_id=payable.correlation_id,
        version=1,
        event_seq=1,
    )
    attempt = Attempt(
        attempt_no=command.attempt_no,
        payment_id=command.payment_id,
        order_id=payable.order_id,
        channel=command.channel,
        status=AttemptStatus.SENDING,
        closing=False,
        query_count=0,
        next_query_at=command.first_query_at,
        action_sealed=None,
        action_expires_at=None,
        account_id=command.account_id,
        payer_sealed=command.payer_sealed,
    )
    return payment, attempt


def _ends(command: StartPayment, payable: Payable, now: dt.datetime) -> dt.datetime:
    if command.lives_s is None:
        return payable.order_expires_at
    return min(payable.order_expires_at, now + dt.timedelta(seconds=command.lives_s))
