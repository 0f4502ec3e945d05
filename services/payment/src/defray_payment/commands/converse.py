"""Talk to a channel about one attempt and turn what it says into reports; nothing here decides or writes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.crypto import Envelope
from defray_kernel.ids import show
from defray_payment.channels.line import Line
from defray_payment.channels.spi import (
    CreatePayment,
    ExistsAfter,
    Kind,
    Next,
    Operation,
    Outcome,
    Payer,
    PaymentView,
    Product,
    Trouble,
)
from defray_payment.commands.apply_channel_report import Action, ApplyChannelReport
from defray_payment.domain.attempt import END_AFTER_EXPIRY, Attempt, AttemptStatus
from defray_payment.domain.payment import Payment
from defray_payment.domain.refusals import FailureCode
from defray_payment.domain.reports import Claim, Report, Source
from defray_payment.domain.seals import action_context, payer_context

CALLS_MAX: Final = 4
"""The most calls that one conversation about an attempt makes."""
Said: TypeAlias = PaymentView | Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Converser:
    """What a conversation needs besides its channel."""

    clock: Clock
    envelope: Envelope
    return_base_url: str | None = None

    async def send(self, channel: Line, payment: Payment, attempt: Attempt, *, again: bool) -> ApplyChannelReport:
        """Open the attempt at the channel; `again` under the same number when it may be there already."""
        said = await channel.create(self._creation(payment, attempt, again=again))
        return self._report(channel, attempt, Source.CREATE, said)

    async def ask(self, channel: Line, payment: Payment, attempt: Attempt) -> ApplyChannelReport:
        """Ask what became of the attempt, and do what follows: open it again when it is not there or its QR text was
        lost, close it when its time has come. At most CALLS_MAX calls; the last answer is the report.
        """
        product = channel.capabilities.products.get(payment.product, Product())
        now = self.clock.now()
        ended = now >= payment.expires_at + END_AFTER_EXPIRY
        said: Said = await channel.query(attempt.attempt_no)
        source = Source.QUERY
        if (
            _not_found(said)
            and product.exists_after is ExistsAfter.PAYER_OPENS
            and attempt.status is AttemptStatus.OPEN
        ):
            # What we made waits for its payer, and can no longer be opened once it has expired; before that nothing
            # ends it: a close is answered "not there" and would prove nothing.
            told = PaymentView(
                attempt_no=attempt.attempt_no,
                report=Report.CLOSED if ended else Report.OPENED,
                native_state="NOT_OPENED",
            )
            return self._report(channel, attempt, source, told)
        if _not_found(said):
            if ended or attempt.status is AttemptStatus.OPEN:
                return self._report(channel, attempt, source, said, ended=ended)
            said, source = await channel.create(self._creation(payment, attempt, again=True)), Source.CREATE
        elif _open(said) and attempt.action_sealed is None and not (ended or attempt.closing):
            said, source = await channel.create(self._creation(payment, attempt, again=True)), Source.CREATE
        if _open(said) and (ended or attempt.closing):
            if product.ends_by is Operation.CANCEL:
                over = await channel.cancel(attempt.attempt_no)
                if isinstance(over, PaymentView):  # the channel's promise that it keeps no money of it
                    return self._report(channel, attempt, Source.CLOSE, over)
            else:
                # Whatever close says (done, paid already, nothing): what counts is the answer to one more question.
                await channel.close(attempt.attempt_no)
            said, source = await channel.query(attempt.attempt_no), Source.QUERY
        return self._report(channel, attempt, source, said)

    def _creation(self, payment: Payment, attempt: Attempt, *, again: bool) -> CreatePayment:
        return_url = None
        if self.return_base_url is not None:
            return_url = f"{self.return_base_url}/v1/return/{show('pay', payment.payment_id)}"
        payer = Payer()
        if attempt.payer_sealed is not None:
            opened = self.envelope.open(attempt.payer_sealed, payer_context(attempt.attempt_no))
            payer = msgspec.json.decode(opened, type=Payer)
        return CreatePayment(
            attempt_no=attempt.attempt_no,
            product=payment.product,
            amount=payment.amount,
            description=payment.description,
            expires_at=payment.expires_at,
            again=again,
            payer=payer,
            return_url=return_url,
        )

    def _report(
        self, channel: Line, attempt: Attempt, source: Source, said: Said, *, ended: bool = False
    ) -> ApplyChannelReport:
        if isinstance(said, Trouble):
            claim = _claim_of_trouble(channel, attempt, source, said, ended=ended)
            action = None
        else:
            claim = claim_of_view(channel.capabilities.channel, source, said)
            action = _sealed(said, self.envelope)
        return ApplyChannelReport(
            claim=claim,
            account=channel.account,
            # The same answer again is the same cause: one case, however often the timer asks.
            cause=f"{source}:{attempt.attempt_no}:{claim.report}",
            action=action,
        )


def claim_of_view(channel: str, source: Source, view: PaymentView) -> Claim:
    """A verified view as a claim."""
    return Claim(
        report=view.report,
        source=source,
        channel=channel,
        attempt_no=view.attempt_no,
        native_state=view.native_state,
        merchant_ref=view.merchant_ref,
        app_ref=view.app_ref,
        amount_minor=view.amount_minor,
        currency=view.currency,
        channel_txn_id=view.channel_txn_id,
        paid_at=view.paid_at,
    )


def first_query_at(now: dt.datetime, channel_timeout_s: float) -> dt.datetime:
    """When a new attempt is asked about at the earliest: after its first call has ended one way or another."""
    return now + dt.timedelta(seconds=channel_timeout_s + 3)


def _claim_of_trouble(channel: Line, attempt: Attempt, source: Source, trouble: Trouble, *, ended: bool) -> Claim:
    match trouble:
        case Trouble(outcome=Outcome.UNKNOWN):
            report = Report.UNCLEAR
        case Trouble(kind=Kind.NOT_FOUND):
            report = Report.LAPSED if ended else Report.NOT_FOUND
        case Trouble(next=Next.FAIL):
            report = Report.REFUSED
        case _:
            report = Report.UNSENT
    return Claim(
        report=report,
        source=source,
        channel=channel.capabilities.channel,
        attempt_no=attempt.attempt_no,
        failure_code=FailureCode.CHANNEL_DECLINED if trouble.kind is Kind.DECLINED else FailureCode.CHANNEL_REFUSED,
    )


def _sealed(view: PaymentView, envelope: Envelope) -> Action | None:
    if view.action is None:
        return None
    plain = msgspec.json.encode(view.action)
    return Action(sealed=envelope.seal(plain, action_context(view.attempt_no)), expires_at=view.action.expires_at)


def _not_found(said: Said) -> bool:
    return isinstance(said, Trouble) and said.kind is Kind.NOT_FOUND


def _open(said: Said) -> bool:
    return isinstance(said, PaymentView) and said.report is Report.OPENED
