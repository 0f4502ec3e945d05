"""Where a browser comes back to from a channel: the channel is asked and its word is shown; coming back proves nothing."""

from __future__ import annotations

import html
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from defray_kernel import ids
from defray_kernel.db import Database
from defray_kernel.errors import OutcomeUnknown, Overloaded, Unavailable
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.problems import Problem
from defray_payment.channels.registry import Channels
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.converse import Converser
from defray_payment.domain.payment import LIVE, Payment, PaymentStatus
from defray_payment.store import payments
from defray_payment.store.payments import Found

ASK_AGAIN_S: Final = 3.0
"""Reloading the page asks the channel at most so often about one payment."""
_REMEMBERED_MAX: Final = 10_000
_REFRESH_S: Final = 4
_WORDS: Final = {
    PaymentStatus.SUCCEEDED: "Paid",
    PaymentStatus.FAILED: "Not paid",
    PaymentStatus.CLOSED: "Not paid: closed",
    # The money came and is not kept for this order; what becomes of it is told by the merchant.
    PaymentStatus.PAID_LATE: "Paid too late",
    PaymentStatus.DUPLICATE: "Paid twice",
}
_WAITING: Final = "Waiting for the payment channel"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{words}</title>{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:1.1rem/1.5 sans-serif;max-width:30rem;margin:15vh auto;padding:0 1rem}}</style></head>
<body><h1>{words}</h1><p>{amount}</p><p><small>{payment_id}</small></p></body></html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnPage:
    """Handlers of the page. What the channel answers goes the way of every report; nothing in the address counts."""

    database: Database
    channels: Channels
    converser: Converser
    reporting: GroupCommit[ApplyChannelReport, Applied]
    _asked: OrderedDict[UUID, float] = field(default_factory=OrderedDict)

    def declare(self, edge: Edge) -> None:
        """Add the route; whoever has a payment's id may see how it stands, and nothing else of it."""
        edge.route(
            "GET", "/v1/return/{payment_id}", self.show, summary="Show a browser how its payment stands", auth="none"
        )

    async def show(self, call: Call[None]) -> Reply:
        """The payment as the channel tells it now, or as it was known when the channel cannot be asked."""
        try:
            payment_id = ids.parse("pay", call.path_params["payment_id"])
        except ValueError:
            raise Problem("not_found") from None
        found = await self._find(payment_id)
        if found is None:
            raise Problem("not_found")
        if found.payment.status in LIVE and self._may_ask(payment_id) and await self._ask(found):
            found = await self._find(payment_id) or found
        return Reply(content=_page(found.payment), content_type="text/html; charset=utf-8", headers=_HEADERS)

    async def _ask(self, found: Found) -> bool:
        line = self.channels.of(found.attempt.channel, found.attempt.account_id)
        if line is None:
            return False
        report = await self.converser.ask(line, found.payment, found.attempt)
        try:
            await self.reporting.submit(report)
        except (Overloaded, Unavailable, OutcomeUnknown):
            return False
        return True

    async def _find(self, payment_id: UUID) -> Found | None:
        async with self.database.read() as conn:
            return (await payments.by_ids(conn, [payment_id])).get(payment_id)

    def _may_ask(self, payment_id: UUID) -> bool:
        now = time.monotonic()
        if now - self._asked.get(payment_id, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        self._asked[payment_id] = now
        self._asked.move_to_end(payment_id)
        while len(self._asked) > _REMEMBERED_MAX:
            self._asked.popitem(last=False)
        return True


def _page(payment: Payment) -> bytes:
    live = payment.status in LIVE
    return _PAGE.format(
        words=html.escape(_WORDS.get(payment.status, _WAITING)),
        refresh=f'<meta http-equiv="refresh" content="{_REFRESH_S}">' if live else "",
        amount=html.escape(str(payment.amount)),
        payment_id=html.escape(ids.show("pay", payment.payment_id)),
    ).encode()
