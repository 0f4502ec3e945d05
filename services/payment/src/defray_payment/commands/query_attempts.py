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
from defray_kernel.db import Database, WriteTx, is_transient
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_payment.channels.registry import Channels
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.converse import CALLS_MAX, Converser
from defray_payment.store import attempts, payments
from defray_payment.store.payments import Found

BATCH_MAX: Final = 64
CONCURRENT_MAX: Final = 32
TURNS_S_MAX: Final = 20
"""The longest that one attempt waits for its turn (`channels/guard.py`)."""
POSTPONE_MIN, POSTPONE_MAX = dt.timedelta(seconds=5), dt.timedelta(seconds=30)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryAttempts:
    """The timer's work: claim due attempts under a lease, ask with bounded concurrency, submit what was heard."""

    database: Database
    channels: Channels
    converser: Converser
    reporting: GroupCommit[ApplyChannelReport, Applied]
    channel_timeout_s: float

    async def claim(self, tx: WriteTx, now: dt.datetime, limit: int) -> Sequence[Record]:
        """Due attempts; the lease covers the slowest conversations of a full batch."""
        waves = -(-BATCH_MAX // CONCURRENT_MAX)
        lease_s = waves * CALLS_MAX * self.channel_timeout_s + TURNS_S_MAX + 10
        return await attempts.claim_due(tx, now, now + dt.timedelta(seconds=lease_s), limit)

    async def apply(self, rows: Sequence[Record]) -> None:
        """Ask about all of them; an answer that cannot be written now is asked for again when the lease ends."""
        gate = asyncio.Semaphore(CONCURRENT_MAX)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(payments.found_of(row), gate)) for row in rows]
        await self._postpone([row for row, task in zip(rows, asked, strict=True) if not task.result()])
        metrics.count("timer_rows", len(rows), timer="query_attempts")

    async def _ask(self, found: Found, gate: asyncio.Semaphore) -> bool:
        """Ask about one attempt; False when its channel is not to be asked now."""
        line = self.channels.of(found.attempt.channel, found.attempt.account_id)
        if line is None:
            _log.error("account_missing", channel=found.attempt.channel, attempt_no=found.attempt.attempt_no)
            return False
        if not await line.guard.turn():
            return False
        async with gate:
            report = await self.converser.ask(line, found.payment, found.attempt)
        try:
            await self.reporting.submit(report)
        except (Overloaded, Unavailable, OutcomeUnknown) as error:
            _log.warning("report_not_written", attempt_no=found.attempt.attempt_no, error=type(error).__name__)
        return True

    async def _postpone(self, rows: Sequence[Record]) -> None:
        """Give back what was not asked about, spread over a while, so that it does not come back all at once."""
        if not rows:
            return
        now = self.converser.clock.now()
        spread = (POSTPONE_MAX - POSTPONE_MIN) / len(rows)
        until = [now + POSTPONE_MIN + spread * number for number in range(len(rows))]
        try:
            async with self.database.transaction() as tx:
                await attempts.postpone(tx, [row["attempt_no"] for row in rows], until, rows[0]["next_query_at"])
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("attempts_not_postponed", error=type(error).__name__)  # due again when the lease ends
