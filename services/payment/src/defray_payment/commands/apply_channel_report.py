"""Apply what a channel reported, by callback or by answer, whichever came first: check, decide, move, announce."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId, PaymentId
from defray_kernel.money import MINOR_MAX, Money
from defray_kernel.outbox import OutboxEvent
from defray_payment import announce
from defray_payment.commands import end_payable, send_back
from defray_payment.commands.send_back import Unkept
from defray_payment.domain import checks
from defray_payment.domain.attempt import Attempt, AttemptStatus
from defray_payment.domain.payable import Payable, PayableStatus
from defray_payment.domain.payment import LIVE, PAID, Answer, Moved, Payment, PaymentStatus, Repeated, decide
from defray_payment.domain.refund import RefundReason
from defray_payment.domain.refusals import CaseReason, FailureCode, Refused
from defray_payment.domain.reports import ChannelAccount, Claim, Report, Source
from defray_payment.store import attempts, callbacks, cases, payables, payments
from defray_payment.store.callbacks import Callback, Evidence
from defray_payment.store.cases import Case
from defray_payment.store.payments import Found, PaymentMove


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What the payer does next, sealed for its place."""

    sealed: bytes
    expires_at: dt.datetime


class ApplyChannelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One verified claim. `notice_fault` marks a callback that is genuine and yet tells nothing we can apply."""

    claim: Claim
    account: ChannelAccount
    cause: str
    callback: Callback | None = None
    action: Action | None = None
    notice_fault: CaseReason | None = None
    traceparent: str | None = None
    order_id: OrderId | None = None  # filled in by `resolve`


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a report; payment and attempt as they are now, None when it is about none of ours."""

    verdict: str
    payment: Payment | None = None
    attempt: Attempt | None = None


def keys(command: ApplyChannelReport) -> list[str]:
    """Serial keys: one round holds one report per order, callback and channel transaction."""
    claim = command.claim
    serial = [f"attempt:{claim.attempt_no}" if command.order_id is None else f"order:{command.order_id}"]
    if command.callback is not None:
        serial.append(command.callback.cause)
    if claim.channel_txn_id is not None:
        serial.append(f"txn:{claim.channel}:{claim.channel_txn_id}")
    return serial


async def resolve(commands: Sequence[ApplyChannelReport], conn: ReadConn) -> list[ApplyChannelReport]:
    """Fill in whose order each attempt is; it never changes once the attempt is there."""
    orders = await attempts.orders_of(conn, [command.claim.attempt_no for command in commands])
    return [replace(command, order_id=orders.get(command.claim.attempt_no)) for command in commands]


async def handle(commands: Sequence[ApplyChannelReport], tx: WriteTx, clock: Clock) -> list[Applied]:
    """Apply reports of different orders, one outcome each; a callback seen before changes nothing.

    Locks callback ids, then payables in order; everything else of an order is written under its payable's lock.
    """
    now = clock.now()
    seen = await callbacks.keep(tx, [c.callback for c in commands if c.callback is not None])
    new = [c for c in commands if c.callback is None or c.callback.key not in seen]
    locked = await payables.lock(tx, [c.order_id for c in new if c.order_id is not None])
    found = await payments.of_attempts(
        tx,
        [
            (c.claim.attempt_no, c.claim.channel, c.claim.channel_txn_id if c.claim.report is Report.PAID else None)
            for c in new
            if c.order_id is not None
        ],
    )
    policies = await _late_money(tx, locked)
    batch = _Batch(now=now)
    for command in commands:
        if command.callback is not None and command.callback.key in seen:
            batch.repeat_callback(command, command.callback, seen[command.callback.key])
        elif command.notice_fault is not None:
            batch.note(command, None, (), command.notice_fault)
        elif (match := found.get(command.claim.attempt_no)) is None:
            batch.note(command, None, (), CaseReason.UNKNOWN_ATTEMPT)
        else:
            payable = locked[match.payment.order_id]
            batch.judge(command, match, payable, policies.get(payable.merchant_id, "return"))
    return await batch.write(tx, locked)


async def _late_money(tx: WriteTx, locked: dict[OrderId, Payable]) -> dict[MerchantId, str]:
    ended = [p.merchant_id for p in locked.values() if p.status is PayableStatus.CLOSED and p.claimed_by is None]
    return await payables.late_money(tx, ended) if ended else {}


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What one transaction will write, gathered item by item and written set by set."""

    now: dt.datetime
    outcomes: list[Applied] = field(default_factory=list)
    payment_moves: list[PaymentMove] = field(default_factory=list)
    claims: list[tuple[Payable, PaymentId, str]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    causes: dict[OrderId, Cause] = field(default_factory=dict)
    ended: list[Payment] = field(default_factory=list)
    unkept: list[Unkept] = field(default_factory=list)

    def repeat_callback(self, command: ApplyChannelReport, callback: Callback, stored_digest: bytes) -> None:
        """The same id again: the first content counts, another content is for a person."""
        self.outcomes.append(Applied(verdict="replayed"))
        if stored_digest != callback.digest:
            self.cases.append(
                Case(
                    reason=CaseReason.CALLBACK_CONFLICT,
                    cause=callback.cause,
                    order_id=command.order_id,
                    attempt_no=callback.attempt_no,
                )
            )

    def note(
        self,
        command: ApplyChannelReport,
        match: Found | None,
        evidence: tuple[checks.Check, ...],
        reason: CaseReason | None,
        verdict: str | None = None,
    ) -> None:
        """Keep the evidence, and open a case when there is a reason for one."""
        verdict = verdict or f"refused:{reason}"
        payment_id = None if match is None else match.payment.payment_id
        self.evidence.append(
            Evidence(claim=command.claim, cause=command.cause, payment_id=payment_id, checks=evidence, verdict=verdict)
        )
        if reason is not None:
            case = Case(
                reason=reason,
                cause=command.cause,
                order_id=command.order_id,
                payment_id=payment_id,
                attempt_no=command.claim.attempt_no or None,
            )
            self.cases.append(case)
        if match is None:
            self.outcomes.append(Applied(verdict=verdict))

    def judge(self, command: ApplyChannelReport, match: Found, payable: Payable, late_money: str) -> None:
        """Decide one report about one of our payments."""
        claim, payment = command.claim, match.payment
        evidence = checks.examine(claim, payment, command.account, match.txn_owner, match.attempt.account_id)
        opened = match.attempt.status is AttemptStatus.OPEN
        returned = match.attempt.status is AttemptStatus.RETURNED
        answer = decide(
            payment, claim, checks.first_failure(evidence), payable.purse(late_money), opened=opened, returned=returned
        )
        attempt = self._attempt(command, match.attempt, answer)
        self.causes[payment.order_id] = Cause(
            correlation_id=payment.correlation_id, causation_id=command.cause, traceparent=command.traceparent
        )
        match answer:
            case Moved():
                payment = self._move(command, payment, payable, answer)
                self.note(command, match, evidence, _case_beside(claim, payment, late_money), f"moved:{answer.to}")
                self._unkept(claim, replace(match, payment=payment), answer)
            case Repeated():
                self.note(command, match, evidence, None, "repeated")
            case Refused(reason=reason):
                self.note(command, match, evidence, reason)
                if _is_wrong_amount(claim, payment, evidence):
                    self._send_back(
                        claim, match, Money(minor=claim.amount_minor or 0, currency=payment.amount.currency)
                    )
        self.outcomes.append(Applied(verdict=self.evidence[-1].verdict, payment=payment, attempt=attempt))

    def _move(self, command: ApplyChannelReport, payment: Payment, payable: Payable, answer: Moved) -> Payment:
        claim = command.claim
        paid = claim.report is Report.PAID
        after = replace(
            payment,
            status=answer.to,
            channel_txn_id=claim.channel_txn_id if paid else payment.channel_txn_id,
            paid_at=(claim.paid_at or self.now) if paid else payment.paid_at,
            failure_code=(claim.failure_code or FailureCode.CHANNEL_REFUSED)
            if answer.to is PaymentStatus.FAILED
            else payment.failure_code,
            event_seq=payment.event_seq + (announce.event_class(answer.to) is not None),
            version=payment.version + 1,
        )
        self.payment_moves.append(PaymentMove(before=payment, after=after, cause=command.cause))
        if answer.claims:
            self.claims.append((payable, payment.payment_id, command.cause))
        elif answer.to not in LIVE:
            self.ended.append(after)
        return after

    def _unkept(self, claim: Claim, match: Found, answer: Moved) -> None:
        """Money that the order does not keep goes back whole."""
        if answer.to is PaymentStatus.DUPLICATE:
            self._send_back(claim, match, match.payment.amount, RefundReason.DUPLICATE)
        elif answer.to is PaymentStatus.PAID_LATE and not answer.claims:
            self._send_back(claim, match, match.payment.amount, RefundReason.LATE)

    def _send_back(
        self, claim: Claim, match: Found, amount: Money, reason: RefundReason = RefundReason.MISMATCH
    ) -> None:
        assert claim.channel_txn_id is not None
        self.unkept.append(Unkept(found=match, amount=amount, channel_txn_id=claim.channel_txn_id, reason=reason))

    def _attempt(self, command: ApplyChannelReport, attempt: Attempt, answer: Answer) -> Attempt:
        claim = command.claim
        soon = claim.source is Source.CALLBACK and (claim.report is not Report.PAID or isinstance(answer, Refused))
        # A claim that was refused says nothing about the attempt; it is asked about again in its turn.
        report = Report.UNSENT if isinstance(answer, Refused) else claim.report
        after = attempt.following(report, self.now, query_soon=soon)
        if command.action is not None and after.status is AttemptStatus.OPEN:
            after = replace(after, action_sealed=command.action.sealed, action_expires_at=command.action.expires_at)
        if after != attempt:
            self.attempts.append(after)
        return after

    async def write(self, tx: WriteTx, locked: dict[OrderId, Payable]) -> list[Applied]:
        """One statement per kind of row; events last, in the order of the moves."""
        moved = await payments.move(tx, self.payment_moves, self.now)
        await attempts.save(tx, self.attempts, self.now)
        await payables.claim(tx, self.claims, self.now)
        await callbacks.add_evidence(tx, self.evidence, self.now)
        await cases.open_all(tx, self.cases, self.now)
        told = [announce.payment_event(payment, self.causes[payment.order_id], self.now) for payment in moved]
        events: list[OutboxEvent] = [event for event in told if event is not None]
        events += await send_back.handle(tx, self.unkept, self.causes, self.now)
        closing = [locked[payment.order_id] for payment in self.ended]
        events += await end_payable.if_nothing_is_open(tx, closing, self.causes, self.now)
        await outbox.append(tx, events)
        return self.outcomes


def _case_beside(claim: Claim, after: Payment, late_money: str) -> CaseReason | None:
    """What a person must see of a move that was made all the same."""
    if after.status is PaymentStatus.PAID_LATE and late_money == "case":
        return CaseReason.LATE_MONEY
    # We did not ask for it, or the answer was lost when we did: somebody may have sent it back in the channel's console.
    if claim.report is Report.RETURNED and claim.source is not Source.CLOSE:
        return CaseReason.MONEY_RETURNED
    return None


def _is_wrong_amount(claim: Claim, payment: Payment, evidence: tuple[checks.Check, ...]) -> bool:
    """Whether the channel, asked by us, states that another amount was collected: only such money is sent back by rule.
    A callback that says so is a case, and has the channel asked.
    """
    told = claim.source is Source.QUERY and claim.report is Report.PAID and payment.status not in PAID
    failed = [check.name for check in evidence if not check.passed]
    return told and failed == ["amount"] and 1 <= (claim.amount_minor or 0) <= MINOR_MAX
