"""Repair a payment while it is read: ask its channel when that is due anyway, or its outcome is not known."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from typing import Final

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_payment.channels.registry import Channels
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.converse import CALLS_MAX, Converser
from defray_payment.domain.attempt import AttemptStatus
from defray_payment.domain.payment import LIVE
from defray_payment.store import attempts
from defray_payment.store.payments import Found

ASK_AGAIN: Final = dt.timedelta(seconds=5)
"""However many read a payment, its channel is asked at most so often because of them."""
READERS_WAIT_S: Final = 4.0
"""A reader is told what is known when the channel takes longer; the timer asks again when the lease ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Takes the attempt under the same lease as the timer, so that readers and timer never ask at once."""

    database: Database
    channels: Channels
    converser: Converser
    reporting: GroupCommit[ApplyChannelReport, Applied]
    clock: Clock
    channel_timeout_s: float

    async def ask(self, found: Found) -> bool:
        """Whether the channel was asked and its answer applied; the payment may have changed then."""
        line = self.channels.of(found.attempt.channel, found.attempt.account_id)
        if line is None or not self._is_worth_it(found):
            return False
        now = self.clock.now()
        lease_until = now + dt.timedelta(seconds=CALLS_MAX * self.channel_timeout_s + 10)
        async with self.database.transaction() as tx:
            taken = await attempts.claim_one(
                tx, found.attempt.attempt_no, now=now, asked_before=now - ASK_AGAIN, lease_until=lease_until
            )
        if not taken:
            return False
        try:
            async with asyncio.timeout(READERS_WAIT_S):
                await self.reporting.submit(await self.converser.ask(line, found.payment, found.attempt))
        except (Overloaded, Unavailable, OutcomeUnknown, TimeoutError):
            return False
        return True

    def _is_worth_it(self, found: Found) -> bool:
        attempt, now = found.attempt, self.clock.now()
        due = attempt.next_query_at is not None and attempt.next_query_at <= now
        return found.payment.status in LIVE and (due or attempt.status is AttemptStatus.UNKNOWN)
