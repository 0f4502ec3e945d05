"""Talk to a channel about one refund and turn what it says into reports; nothing here decides or writes."""

from __future__ import annotations

import math
from typing import Final

from defray_payment.channels.line import Line
from defray_payment.channels.spi import Kind, Next, Outcome, RefundCall, RefundSaid, RefundView, Trouble
from defray_payment.commands.apply_refund_report import ApplyRefundReport
from defray_payment.domain.refund import Refund, RefundStatus
from defray_payment.domain.reports import RefundClaim, RefundReport, Source

CALLS_MAX: Final = 2
"""The most calls that one conversation about a refund makes."""


async def send(line: Line, refund: Refund, *, again: bool) -> ApplyRefundReport:
    """Ask for the refund; `again` under the same number when it may be there already."""
    said = await line.refund(
        RefundCall(
            refund_no=refund.refund_no,
            attempt_no=refund.attempt_no,
            channel_txn_id=refund.channel_txn_id,
            total=refund.total,
            amount=refund.amount,
            reason=refund.note,
            again=again,
        )
    )
    return _report(line, refund, Source.CREATE, said, again=again)


async def ask(line: Line, refund: Refund, *, again: bool) -> ApplyRefundReport:
    """Ask what became of the refund, and send it when it is not there. At most CALLS_MAX calls; the last answer counts.

    `again`: an earlier call may have reached the channel. Without that there is nothing to ask about yet.
    """
    if not again:
        return await send(line, refund, again=False)
    said = await line.query_refund(refund.refund_no, refund.attempt_no)
    not_there = isinstance(said, Trouble) and said.kind is Kind.NOT_FOUND
    if isinstance(said, Trouble) and not_there:
        # Where "not there" may also mean "not done yet", the same number may be sent again all the same.
        open_ = refund.status is RefundStatus.PROCESSING and said.outcome is Outcome.UNKNOWN
        if refund.status is RefundStatus.REQUESTED or open_:
            return await send(line, refund, again=True)
    return _report(line, refund, Source.QUERY, said, again=True)


def claim_of_refund_view(channel: str, source: Source, view: RefundView, *, again: bool = True) -> RefundClaim:
    """A verified view as a claim."""
    return RefundClaim(
        report=view.report,
        source=source,
        channel=channel,
        refund_no=view.refund_no,
        again=again,
        attempt_no=view.attempt_no,
        native_state=view.native_state,
        merchant_ref=view.merchant_ref,
        app_ref=view.app_ref,
        amount_minor=view.amount_minor,
        currency=view.currency,
        channel_refund_id=view.channel_refund_id,
        done_at=view.done_at,
    )


def _report(line: Line, refund: Refund, source: Source, said: RefundSaid, *, again: bool) -> ApplyRefundReport:
    channel = line.capabilities.channel
    if isinstance(said, RefundView):
        claim = claim_of_refund_view(channel, source, said, again=again)
    else:
        claim = RefundClaim(
            report=_meaning(said, source, again=again),
            source=source,
            channel=channel,
            refund_no=refund.refund_no,
            again=again,
            failure_code=said.code[:64] or None,
            wait_s=math.ceil(said.retry_after_s or 0),
        )
    # The same answer again is the same cause: one case, however often the timer asks.
    cause = f"{source}:{refund.refund_no}:{claim.report}"
    return ApplyRefundReport(claim=claim, account=line.account, cause=cause)


def _meaning(trouble: Trouble, source: Source, *, again: bool) -> RefundReport:
    match trouble:
        case Trouble(kind=Kind.NOT_FOUND, outcome=Outcome.NOT_APPLIED) if source is Source.QUERY:
            return RefundReport.NOT_FOUND
        case Trouble(outcome=Outcome.UNKNOWN):
            return RefundReport.UNCLEAR
        case Trouble(next=Next.FAIL) if source is Source.CREATE:
            # The refusal of a repeat says nothing of the call that may have arrived before it.
            return RefundReport.UNCLEAR if again else RefundReport.REFUSED
        case _:
            return RefundReport.UNSENT
