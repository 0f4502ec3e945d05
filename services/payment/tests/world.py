"""A database, a clock that stands still, and the commands, for tests of what they do together."""

import datetime as dt
from typing import Any

from defray_kernel.clock import ManualClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.order_v1 import OrderPlaced
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.ids import show
from defray_kernel.problems import registry
from defray_payment.commands import (
    apply_channel_report,
    apply_refund_report,
    ask_refund,
    project_order,
    start_payment,
)
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.apply_refund_report import ApplyRefundReport, RefundApplied
from defray_payment.commands.ask_refund import AskRefund, RefundOutcome, SendRefund
from defray_payment.commands.start_payment import Send, StartOutcome, StartPayment
from defray_payment.domain.payable import OrderTerms
from defray_payment.domain.payment import Payment
from defray_payment.domain.refund import Refund
from defray_payment.domain.reports import Report
from defray_payment.entrypoints.answers import PROBLEMS, Answers
from defray_payment.store import refunds

from .given import NOW, ask, callback, report, start


class World:
    """A database, a clock that stands still, and the commands."""

    def __init__(self, database: Database, envelope: Envelope) -> None:
        self.database, self.envelope = database, envelope
        self.clock = ManualClock(NOW)
        self.answers = Answers(envelope, registry(*PROBLEMS), self.clock)

    async def start(self, *commands: StartPayment) -> list[StartOutcome]:
        async with self.database.transaction() as tx:
            return await start_payment.handle(commands, tx, self.clock, answers=self.answers)

    async def begun(self, of: OrderTerms, **changes: object) -> Send:
        (outcome,) = await self.start(start(of, **changes))
        assert isinstance(outcome, Send)
        return outcome

    async def apply(self, *commands: ApplyChannelReport) -> list[Applied]:
        async with self.database.transaction() as tx:
            resolved = await apply_channel_report.resolve(commands, tx)
            return await apply_channel_report.handle(resolved, tx, self.clock)

    async def paid(self, of: OrderTerms) -> Payment:
        """The order's payment, with its money kept."""
        begun = await self.opened(of)
        (applied,) = await self.apply(callback(begun.attempt.attempt_no, f"EV-{begun.attempt.attempt_no}"))
        assert applied.payment is not None
        return applied.payment

    async def ask_refund(self, *commands: AskRefund) -> list[RefundOutcome]:
        async with self.database.transaction() as tx:
            return await ask_refund.handle(commands, tx, self.clock, answers=self.answers)

    async def asked(self, of: Payment, amount_minor: int) -> Refund:
        """A refund that the channel is to be called for."""
        (outcome,) = await self.ask_refund(ask(of, amount_minor))
        assert isinstance(outcome, SendRefund)
        return outcome.refund

    async def hear_of_refund(self, *commands: ApplyRefundReport) -> list[RefundApplied]:
        async with self.database.transaction() as tx:
            resolved = await apply_refund_report.resolve(commands, tx)
            return await apply_refund_report.handle(resolved, tx, self.clock)

    async def claim_refunds(self, limit: int) -> list[str]:
        """Take due refunds as the timer does; returns their numbers."""
        now = self.clock.now()
        async with self.database.transaction() as tx:
            claimed = await refunds.claim_due(tx, now, now + dt.timedelta(minutes=1), limit)
            return [row["refund_no"] for row in claimed]

    async def sums(self, of: Payment) -> tuple[int, int]:
        """What is spoken for, and what has gone back."""
        sql = "SELECT refund_reserved_minor, refunded_minor FROM payment WHERE payment_id = $1"
        ((reserved, refunded),) = await self.rows(sql, of.payment_id)
        return reserved, refunded

    async def refunds(self) -> list[tuple[str, str, int]]:
        """Reason, status and amount of all refunds, oldest first."""
        found = await self.rows("SELECT reason, status, amount_minor FROM refund ORDER BY refund_id")
        return [(reason, status, minor) for reason, status, minor in found]

    async def opened(self, of: OrderTerms) -> Send:
        begun = await self.begun(of)
        await self.apply(report(Report.OPENED, begun.attempt.attempt_no))
        return begun

    async def hear(self, *events: Event[Any], at_once: bool = False) -> None:
        """Events in their order; `at_once` takes them as one round: closings of different orders."""
        async with self.database.transaction() as tx:
            await project_order.lock(events, tx)
            for round_ in [list(events)] if at_once else [[event] for event in events]:
                handle = project_order.placed if isinstance(round_[0].data, OrderPlaced) else project_order.closing
                await handle(round_, tx, self.clock)

    async def rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        async with self.database.read() as conn:
            return [tuple(row) for row in await conn.fetch(sql, *arguments)]

    async def told(self, of: OrderTerms) -> list[tuple[str, int]]:
        found = await self.rows(
            "SELECT event_type, aggregate_seq FROM outbox WHERE part_key = $1 ORDER BY id",
            show("ord", of.order_id).encode(),
        )
        return [(type_.removesuffix(".v1"), sequence) for type_, sequence in found]

    async def status(self, of: OrderTerms) -> list[str]:
        found = await self.rows("SELECT status FROM payment WHERE order_id = $1 ORDER BY payment_id", of.order_id)
        return [row[0] for row in found]

    async def cases(self) -> list[str]:
        return [row[0] for row in await self.rows("SELECT reason FROM exception_case ORDER BY case_id")]
