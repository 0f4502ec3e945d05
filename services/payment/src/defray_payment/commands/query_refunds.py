"""Ask channels about refunds whose time has come, and send those that were never sent; the reports go the usual way."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from asyncpg import Record

from defray_kernel import metrics
from defray_kernel.clock import Clock
from defray_kernel.db import Database, WriteTx, is_transient
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_payment.channels.registry import Channels
from defray_payment.commands import converse_refund
from defray_payment.commands.apply_refund_report import ApplyRefundReport, RefundApplied
from defray_payment.commands.converse_refund import CALLS_MAX
from defray_payment.commands.query_attempts import (
    BATCH_MAX,
    CONCURRENT_MAX,
    POSTPONE_MAX,
    POSTPONE_MIN,
    TURNS_S_MAX,
)
from defray_payment.store import refunds

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRefunds:
    """The timer's work: claim due refunds under a lease, ask with bounded concurrency, submit what was heard."""

    database: Database
    channels: Channels
    reporting: GroupCommit[ApplyRefundReport, RefundApplied]
    clock: Clock
    channel_timeout_s: float

    async def claim(self, tx: WriteTx, now: dt.datetime, limit: int) -> Sequence[Record]:
        """Due refunds; the lease covers the slowest conversations of a full batch."""
        waves = -(-BATCH_MAX // CONCURRENT_MAX)
        lease_s = waves * CALLS_MAX * self.channel_timeout_s + TURNS_S_MAX + 10
        return await refunds.claim_due(tx, now, now + dt.timedelta(seconds=lease_s), limit)

    async def apply(self, rows: Sequence[Record]) -> None:
        """Ask about all of them; an answer that cannot be written now is asked for again when the lease ends."""
        gate = asyncio.Semaphore(CONCURRENT_MAX)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(row, gate)) for row in rows]
        await self._postpone([row for row, task in zip(rows, asked, strict=True) if not task.result()])
        metrics.count("timer_rows", len(rows), timer="query_refunds")

    async def _ask(self, row: Record, gate: asyncio.Semaphore) -> bool:
        """Ask about one refund; False when its channel is not to be asked now."""
        refund = refunds.refund_of(row)
        line = self.channels.of(refund.channel, refund.account_id)
        if line is None:
            _log.error("account_missing", channel=refund.channel, refund_no=refund.refund_no)
            return False
        if not await line.guard.turn():
            return False
        async with gate:
            report = await converse_refund.ask(line, refund, again=row["again"])
        try:
            await self.reporting.submit(report)
        except (Overloaded, Unavailable, OutcomeUnknown) as error:
            _log.warning("report_not_written", refund_no=refund.refund_no, error=type(error).__name__)
        return True

    async def _postpone(self, rows: Sequence[Record]) -> None:
        """Give back what was not asked about, spread over a while, so that it does not come back all at once."""
        if not rows:
            return
        now = self.clock.now()
        spread = (POSTPONE_MAX - POSTPONE_MIN) / len(rows)
        until = [now + POSTPONE_MIN + spread * number for number in range(len(rows))]
        try:
            async with self.database.transaction() as tx:
                await refunds.postpone(tx, rows, until)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("refunds_not_postponed", error=type(error).__name__)  # due again when the lease ends
