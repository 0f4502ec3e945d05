"""Ask channels about attempts whose time has come; what they say goes the way of every other report."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from asyncpg import Record

from defray_kernel import metrics
from defray_kernel.db import WriteTx
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_payment.channels.registry import Channels
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.converse import CALLS_MAX, Converser
from defray_payment.store import attempts, payments
from defray_payment.store.payments import Found

BATCH_MAX: Final = 64
CONCURRENT_MAX: Final = 32
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryAttempts:
    """The timer's work: claim due attempts under a lease, ask with bounded concurrency, submit what was heard."""

    channels: Channels
    converser: Converser
    reporting: GroupCommit[ApplyChannelReport, Applied]
    channel_timeout_s: float

    async def claim(self, tx: WriteTx, now: dt.datetime, limit: int) -> Sequence[Record]:
        """Due attempts; the lease covers the slowest conversations of a full batch."""
        waves = -(-BATCH_MAX // CONCURRENT_MAX)
        lease_s = waves * CALLS_MAX * self.channel_timeout_s + 10
        return await attempts.claim_due(tx, now, now + dt.timedelta(seconds=lease_s), limit)

    async def apply(self, rows: Sequence[Record]) -> None:
        """Ask about all of them; an answer that cannot be written now is asked for again when the lease ends."""
        gate = asyncio.Semaphore(CONCURRENT_MAX)
        async with asyncio.TaskGroup() as group:
            for row in rows:
                group.create_task(self._ask(payments.found_of(row), gate))
        metrics.count("timer_rows", len(rows), timer="query_attempts")

    async def _ask(self, found: Found, gate: asyncio.Semaphore) -> None:
        channel = self.channels.find(found.attempt.channel)
        if channel is None:
            _log.error("channel_missing", channel=found.attempt.channel, attempt_no=found.attempt.attempt_no)
            return
        async with gate:
            report = await self.converser.ask(channel, found.payment, found.attempt)
        try:
            await self.reporting.submit(report)
        except (Overloaded, Unavailable, OutcomeUnknown) as error:
            _log.warning("report_not_written", attempt_no=found.attempt.attempt_no, error=type(error).__name__)
