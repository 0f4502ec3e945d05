"""The write edges: every command that callers submit and wait for, in one group commit each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_payment.commands import (
    apply_channel_report,
    apply_refund_report,
    ask_close,
    ask_refund,
    record_answer,
    record_refund,
    start_payment,
)
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.apply_refund_report import ApplyRefundReport, RefundApplied
from defray_payment.commands.ask_close import AskClose
from defray_payment.commands.ask_refund import AskRefund, RefundOutcome
from defray_payment.commands.record_answer import RecordAnswer
from defray_payment.commands.record_refund import RecordRefund
from defray_payment.commands.start_payment import StartOutcome, StartPayment, Told
from defray_payment.entrypoints.answers import Answers
from defray_payment.store.payments import Found

_RARE: Final = 1
"""Connections of an edge that is not on the path of most orders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """The write edges: what callers submit to and wait for. Each finds its own first result again when run twice."""

    starting: GroupCommit[StartPayment, StartOutcome]
    recording: GroupCommit[RecordAnswer, Told]
    reporting: GroupCommit[ApplyChannelReport, Applied]
    closing: GroupCommit[AskClose, Found]
    asking_refunds: GroupCommit[AskRefund, RefundOutcome]
    recording_refunds: GroupCommit[RecordRefund, Told]
    reporting_refunds: GroupCommit[ApplyRefundReport, RefundApplied]

    @property
    def all(self) -> tuple[GroupCommit[Any, Any], ...]:
        """For the roles that run them."""
        payments = self.starting, self.recording, self.reporting, self.closing
        return *payments, self.asking_refunds, self.recording_refunds, self.reporting_refunds


def write_edges(database: Database, clock: Clock, answers: Answers, after_commit: Callable[[], None] | None) -> Edges:
    """The group commits of this service, those of refunds among them."""
    asking, recording, reporting = _refunds(database, clock, answers, after_commit)
    return Edges(
        starting=GroupCommit(
            "start_payment",
            database,
            partial(start_payment.handle, answers=answers),
            clock,
            keys=start_payment.keys,
            natural_key=True,
            after_commit=after_commit,
        ),
        recording=GroupCommit(
            "record_answer",
            database,
            partial(record_answer.handle, answers=answers),
            clock,
            keys=record_answer.keys,
            natural_key=True,
            resolve=record_answer.resolve,
            after_commit=after_commit,
        ),
        reporting=GroupCommit(
            "apply_channel_report",
            database,
            apply_channel_report.handle,
            clock,
            keys=apply_channel_report.keys,
            natural_key=True,
            resolve=apply_channel_report.resolve,
            after_commit=after_commit,
        ),
        closing=GroupCommit(
            "ask_close", database, ask_close.handle, clock, keys=ask_close.keys, natural_key=True, connections=_RARE
        ),
        asking_refunds=asking,
        recording_refunds=recording,
        reporting_refunds=reporting,
    )


def _refunds(
    database: Database, clock: Clock, answers: Answers, after_commit: Callable[[], None] | None
) -> tuple[
    GroupCommit[AskRefund, RefundOutcome],
    GroupCommit[RecordRefund, Told],
    GroupCommit[ApplyRefundReport, RefundApplied],
]:
    asking: GroupCommit[AskRefund, RefundOutcome] = GroupCommit(
        "ask_refund",
        database,
        partial(ask_refund.handle, answers=answers),
        clock,
        keys=ask_refund.keys,
        natural_key=True,
        after_commit=after_commit,
        connections=_RARE,
    )
    recording: GroupCommit[RecordRefund, Told] = GroupCommit(
        "record_refund",
        database,
        partial(record_refund.handle, answers=answers),
        clock,
        keys=record_refund.keys,
        natural_key=True,
        resolve=record_refund.resolve,
        after_commit=after_commit,
        connections=_RARE,
    )
    reporting: GroupCommit[ApplyRefundReport, RefundApplied] = GroupCommit(
        "apply_refund_report",
        database,
        apply_refund_report.handle,
        clock,
        keys=apply_refund_report.keys,
        natural_key=True,
        resolve=apply_refund_report.resolve,
        after_commit=after_commit,
        connections=_RARE,
    )
    return asking, recording, reporting
