"""Apply what a channel reported of a refund, by callback or by answer: check, decide, move, free or settle the amount."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

import msgspec
from msgspec.structs import replace

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId, PaymentId
from defray_payment import announce
from defray_payment.domain import checks
from defray_payment.domain.attempt import LIVE as LIVE_ATTEMPTS
from defray_payment.domain.attempt import Attempt
from defray_payment.domain.checks import Check
from defray_payment.domain.payment import Payment, Repeated
from defray_payment.domain.refund import (
    UNRESOLVED_AFTER,
    Refund,
    RefundMoved,
    RefundReason,
    RefundStatus,
    decide,
    next_query_at,
)
from defray_payment.domain.refusals import CaseReason, FailureCode, Refused
from defray_payment.domain.reports import ChannelAccount, RefundClaim, RefundReport, Source
from defray_payment.store import attempts, callbacks, cases, payables, payments, refunds
from defray_payment.store.callbacks import Callback
from defray_payment.store.cases import Case
from defray_payment.store.payments import Found
from defray_payment.store.refunds import RefundEvidence, RefundMove


class ApplyRefundReport(msgspec.Struct, frozen=True, kw_only=True):
    """One verified claim about a refund."""

    claim: RefundClaim
    account: ChannelAccount
    cause: str
    callback: Callback | None = None
    traceparent: str | None = None
    order_id: OrderId | None = None  # filled in by `resolve`


class RefundApplied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a report; the refund as it is now, None when it is none of ours."""

    verdict: str
    refund: Refund | None = None


def keys(command: ApplyRefundReport) -> list[str]:
    """Serial keys: one round holds one report per order, refund and callback."""
    serial = [f"refund:{command.claim.refund_no}"]
    if command.order_id is not None:
        serial.append(f"order:{command.order_id}")
    if command.callback is not None:
        serial.append(command.callback.cause)
    return serial


async def resolve(commands: Sequence[ApplyRefundReport], conn: ReadConn) -> list[ApplyRefundReport]:
    """Fill in whose order each refund is: by its number, else (made outside of us) by the attempt it names."""
    ours = await refunds.orders_of(conn, [c.claim.refund_no for c in commands])
    strange = [c.claim.attempt_no for c in commands if c.claim.refund_no not in ours and c.claim.attempt_no]
    theirs = await attempts.orders_of(conn, strange) if strange else {}
    return [replace(c, order_id=ours.get(c.claim.refund_no) or theirs.get(c.claim.attempt_no or "")) for c in commands]


async def handle(commands: Sequence[ApplyRefundReport], tx: WriteTx, clock: Clock) -> list[RefundApplied]:
    """Apply reports about refunds of different orders, one outcome each; a callback seen before changes nothing.

    Locks callback ids, then payables in order; everything else of an order is written under its payable's lock.
    """
    seen = await callbacks.keep(tx, [c.callback for c in commands if c.callback is not None])
    new = [c for c in commands if c.callback is None or c.callback.key not in seen]
    await payables.lock(tx, [c.order_id for c in new if c.order_id is not None])
    found = await refunds.by_numbers(tx, [c.claim.refund_no for c in new])
    of = await payments.by_ids(tx, [refund.payment_id for refund in found.values()])
    strange = [c.claim for c in new if c.claim.refund_no not in found and c.order_id is not None]
    about = await payments.of_attempts(tx, [(c.attempt_no or "", c.channel, None) for c in strange])
    batch = _Batch(now=clock.now())
    for command in commands:
        if command.callback is not None and command.callback.key in seen:
            batch.repeat_callback(command, command.callback, seen[command.callback.key])
        elif (refund := found.get(command.claim.refund_no)) is None:
            batch.stranger(command, about.get(command.claim.attempt_no or ""))
        else:
            batch.judge(command, refund, of[refund.payment_id].payment)
    await batch.write(tx)
    return batch.outcomes


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What one transaction will write, gathered item by item and written set by set."""

    now: dt.datetime
    outcomes: list[RefundApplied] = field(default_factory=list)
    moves: list[RefundMove] = field(default_factory=list)
    announced: list[tuple[Refund, Payment, Cause]] = field(default_factory=list)
    sums: list[tuple[Payment, Payment]] = field(default_factory=list)
    evidence: list[RefundEvidence] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    due: list[Attempt] = field(default_factory=list)

    def repeat_callback(self, command: ApplyRefundReport, callback: Callback, stored_digest: bytes) -> None:
        """The same id again: the first content counts, another content is for a person."""
        self.outcomes.append(RefundApplied(verdict="replayed"))
        if stored_digest != callback.digest:
            self._case(command, CaseReason.CALLBACK_CONFLICT, None, None)

    def stranger(self, command: ApplyRefundReport, match: Found | None) -> None:
        """A refund that was not made here. It proves that its payment was paid: one that does not know it is asked now."""
        payment_id = None if match is None else match.payment.payment_id
        self._note(command, None, (), f"refused:{CaseReason.UNKNOWN_REFUND}")
        self._case(command, CaseReason.UNKNOWN_REFUND, payment_id, None)
        if match is not None and match.attempt.status in LIVE_ATTEMPTS:
            self.due.append(replace(match.attempt, next_query_at=self.now))
        self.outcomes.append(RefundApplied(verdict=self.evidence[-1].verdict))

    def judge(self, command: ApplyRefundReport, refund: Refund, payment: Payment) -> None:
        """Decide one report about one of our refunds."""
        claim = command.claim
        evidence = checks.examine_refund(claim, refund, command.account)
        answer = decide(refund, claim, checks.first_failure(evidence))
        match answer:
            case RefundMoved(to=to):
                after = self._after(claim, refund, to)
                self._moved(command, refund, after, payment)
                self._note(command, refund, evidence, f"moved:{to}")
            case Repeated():
                after = self._after(claim, refund, refund.status)
                self._note(command, refund, evidence, "repeated")
            case Refused(reason=reason):
                after = self._after(None, refund, refund.status)
                self._note(command, refund, evidence, f"refused:{reason}")
                self._case(command, reason, refund.payment_id, refund)
            case _:
                assert_never(answer)
        waits = after.status in {RefundStatus.REQUESTED, RefundStatus.PROCESSING}
        if waits and self.now - refund.created_at >= UNRESOLVED_AFTER:
            self._case(command, CaseReason.REFUND_UNRESOLVED, refund.payment_id, refund, cause="unresolved")
        if after != refund:
            after = replace(after, version=refund.version + 1)
            self.moves.append(RefundMove(before=refund, after=after, cause=command.cause))
        self.outcomes.append(RefundApplied(verdict=self.evidence[-1].verdict, refund=after))

    def _after(self, claim: RefundClaim | None, refund: Refund, status: RefundStatus) -> Refund:
        """The refund in its new state, with what the claim adds; a claim that was refused adds nothing."""
        if claim is None:
            return replace(refund, next_query_at=next_query_at(refund, status, self.now))
        moved = status is not refund.status
        # What arrives by callback and ends nothing (a sum that proves no part of it) is asked about at once.
        soon = claim.source is Source.CALLBACK and claim.report is RefundReport.PROCESSING
        unsent = claim.report is RefundReport.UNSENT and not claim.again
        failed = FailureCode.REFUND_REFUSED if claim.report is RefundReport.REFUSED else FailureCode.REFUND_FAILED
        told = status is not RefundStatus.PROCESSING
        return replace(
            refund,
            status=status,
            doubt=refund.doubt and not unsent,
            next_query_at=next_query_at(refund, status, self.now, soon=soon, wait_s=claim.wait_s),
            channel_refund_id=refund.channel_refund_id or claim.channel_refund_id,
            done_at=(claim.done_at or self.now) if moved and status is RefundStatus.SUCCEEDED else refund.done_at,
            failure_code=failed if moved and status is RefundStatus.FAILED else refund.failure_code,
            event_seq=refund.event_seq + (moved and told),
        )

    def _moved(self, command: ApplyRefundReport, before: Refund, after: Refund, payment: Payment) -> None:
        """Settle or free the reserved amount, and put before a person what no machine can end."""
        amount_minor = before.amount.minor if before.reserves else 0
        changed = payment
        if after.status is RefundStatus.SUCCEEDED:
            changed = replace(payment, refunded_minor=payment.refunded_minor + amount_minor)
        elif after.status is RefundStatus.FAILED:
            changed = replace(payment, refund_reserved_minor=payment.refund_reserved_minor - amount_minor)
            if before.reason is not RefundReason.MERCHANT:
                self._case(command, CaseReason.SEND_BACK_FAILED, before.payment_id, before)
        elif after.status is RefundStatus.ABNORMAL:
            self._case(command, CaseReason.REFUND_ABNORMAL, before.payment_id, before)
        if changed != payment:
            changed = replace(changed, version=payment.version + 1)
            self.sums.append((payment, changed))
        cause = Cause(correlation_id=before.correlation_id, causation_id=command.cause, traceparent=command.traceparent)
        self.announced.append((after, changed, cause))

    def _note(
        self, command: ApplyRefundReport, refund: Refund | None, evidence: tuple[Check, ...], verdict: str
    ) -> None:
        refund_id = None if refund is None else refund.refund_id
        self.evidence.append(
            RefundEvidence(
                claim=command.claim, cause=command.cause, refund_id=refund_id, checks=evidence, verdict=verdict
            )
        )

    def _case(
        self,
        command: ApplyRefundReport,
        reason: CaseReason,
        payment_id: PaymentId | None,
        refund: Refund | None,
        *,
        cause: str | None = None,
    ) -> None:
        self.cases.append(
            Case(
                reason=reason,
                cause=command.cause if cause is None else f"refund:{command.claim.refund_no}:{cause}",
                order_id=command.order_id,
                payment_id=payment_id,
                attempt_no=command.claim.attempt_no if refund is None else refund.attempt_no,
                refund_id=None if refund is None else refund.refund_id,
            )
        )

    async def write(self, tx: WriteTx) -> None:
        """One statement per kind of row; events last, in the order of the moves."""
        await refunds.reserve(tx, [before for before, _ in self.sums], [after for _, after in self.sums], self.now)
        await refunds.move(tx, self.moves, self.now)
        await attempts.save(tx, self.due, self.now)
        await refunds.add_evidence(tx, self.evidence, self.now)
        await cases.open_all(tx, self.cases, self.now)
        told = [announce.refund_event(refund, payment, cause, self.now) for refund, payment, cause in self.announced]
        await outbox.append(tx, [event for event in told if event is not None])
