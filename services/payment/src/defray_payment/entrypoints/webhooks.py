"""Channel callbacks: verify without I/O, store and decide in one group-committed transaction, then acknowledge."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from defray_kernel import metrics
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.crypto import Envelope
from defray_kernel.db import CommitUnknown, Database, is_transient
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply
from defray_payment.channels.build import KINDS
from defray_payment.channels.line import Line
from defray_payment.channels.registry import Channels
from defray_payment.channels.spi import Acknowledgement, Notice, PaymentView, RefundView, Unverified
from defray_payment.commands import keep_undecided
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.apply_refund_report import ApplyRefundReport, RefundApplied
from defray_payment.commands.converse import claim_of_view
from defray_payment.commands.converse_refund import claim_of_refund_view
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import Claim, Report, Source
from defray_payment.domain.seals import callback_context
from defray_payment.store.callbacks import Callback

ANSWER_WITHIN_S: Final = 4.5
"""Channels wait five seconds. What is committed later all the same is found by the repeat that this refusal asks for."""
_TRY_AGAIN: Final = Acknowledgement(status=503, body=b'{"code":"FAIL","message":"try again"}')
_NOBODY: Final = Acknowledgement(status=401, body=b'{"code":"FAIL","message":"not verified"}')
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """The doors of all channels: what is promised with an acknowledgement is stored before."""

    channels: Channels
    reporting: GroupCommit[ApplyChannelReport, Applied]
    refund_reporting: GroupCommit[ApplyRefundReport, RefundApplied]
    database: Database
    envelope: Envelope
    clock: Clock

    def declare(self, edge: Edge) -> None:
        """Add the routes; the channel's signature is its only credential."""
        for name in sorted(KINDS):
            hear = partial(self.hear, name)
            status = 204 if name == "wechat" else 200
            base = f"/v1/webhooks/{name}"
            edge.route("POST", base, hear, summary=f"Callbacks of {name}", status=status, auth="none")
            edge.route(
                "POST",
                f"{base}/{{account_id}}",
                hear,
                summary=f"Callbacks of one account at {name}",
                status=status,
                auth="none",
            )

    async def hear(self, name: str, call: Call[None]) -> Reply:
        """401 for what proves nothing, 503 while it cannot be stored, else the channel's acknowledgement."""
        received_at = self.clock.real()
        line, heard = self._judge(name, call, received_at)
        if line is None:
            metrics.count("security_events", kind="callback_no_account")
            return _reply(_NOBODY)
        if isinstance(heard, Unverified):
            metrics.count("security_events", kind=f"callback_{heard.reason}")
            return _reply(line.acknowledge(accepted=False))
        command = self._command(call, line, heard)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                if isinstance(command, ApplyRefundReport):
                    await self.refund_reporting.submit(command)
                else:
                    await self.reporting.submit(command)
        except (Overloaded, Unavailable, OutcomeUnknown, TimeoutError):
            return _reply(_TRY_AGAIN)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callback itself must not be lost
            if not await self._keep(command, error):
                return _reply(_TRY_AGAIN)
        crash_point("webhook.before_ack")
        return _reply(line.acknowledge(accepted=True))

    def _judge(self, name: str, call: Call[None], received_at: dt.datetime) -> tuple[Line | None, Notice | Unverified]:
        """Whose callback it is: the account that it was addressed to, else the first that can verify it."""
        line, heard = None, Unverified(reason="no_account")
        try:
            account_id = UUID(call.path_params["account_id"]) if "account_id" in call.path_params else None
        except ValueError:
            return line, heard
        for line in self.channels.hearers(name, account_id):
            said = line.verify(call.headers, call.raw, received_at)
            if isinstance(said, Notice):
                return line, said
            heard = said
        return line, heard

    def _command(self, call: Call[None], line: Line, notice: Notice) -> ApplyChannelReport | ApplyRefundReport:
        name, view = line.capabilities.channel, notice.view
        number = view.refund_no if isinstance(view, RefundView) else "" if view is None else view.attempt_no
        callback = Callback(
            channel=name,
            callback_id=notice.callback_id,
            attempt_no=number or None,
            digest=notice.digest,
            raw_sealed=self.envelope.seal(call.raw, callback_context(name, notice.callback_id)),
            received_at=self.clock.real(),
        )
        if isinstance(view, RefundView) and notice.fault is None:
            return ApplyRefundReport(
                claim=claim_of_refund_view(name, Source.CALLBACK, view),
                account=line.account,
                cause=callback.cause,
                callback=callback,
                traceparent=call.traceparent,
            )
        if isinstance(view, PaymentView):
            claim = claim_of_view(name, Source.CALLBACK, view)
        else:
            claim = Claim(report=Report.UNCLEAR, source=Source.CALLBACK, channel=name, attempt_no="")
        return ApplyChannelReport(
            claim=claim,
            account=line.account,
            cause=callback.cause,
            callback=callback,
            notice_fault=notice.fault or (CaseReason.UNSUPPORTED_NOTICE if not claim.attempt_no else None),
            traceparent=call.traceparent,
        )

    async def _keep(self, command: ApplyChannelReport | ApplyRefundReport, error: Exception) -> bool:
        """A callback whose decision fails alone is kept with a case, so that the channel need not repeat it in vain."""
        _log.error("callback_not_decided", cause=command.cause, error=type(error).__name__, exc_info=error)
        try:
            async with self.database.transaction() as tx:
                await keep_undecided.handle([command], tx, self.clock)
        except Exception as second:
            if not (is_transient(second) or isinstance(second, CommitUnknown)):
                raise
            return False
        return True


def _reply(acknowledgement: Acknowledgement) -> Reply:
    return Reply(status=acknowledgement.status, content=acknowledgement.body, content_type=acknowledgement.content_type)
