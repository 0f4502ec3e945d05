"""The merchant API of refunds: ask for one, show one, list a payment's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from defray_kernel import ids
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.db import Database
from defray_kernel.errors import Unavailable
from defray_kernel.fields import AmountMinor, RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply, replayed
from defray_kernel.idempotency import Claim, Mismatch, Replay, Running, scope_of
from defray_kernel.ids import RefundId, uuid7
from defray_kernel.problems import Problem
from defray_payment import announce
from defray_payment.announce import RefundBody, RefundListBody
from defray_payment.channels.line import Line
from defray_payment.channels.registry import Channels
from defray_payment.commands import converse_refund
from defray_payment.commands.ask_refund import AskRefund, RefundOutcome, SendRefund
from defray_payment.commands.converse import first_query_at
from defray_payment.commands.record_refund import RecordRefund
from defray_payment.commands.start_payment import Told
from defray_payment.domain.attempt import number_of
from defray_payment.domain.payment import Payment
from defray_payment.domain.refund import Refund
from defray_payment.store import payments, refunds
from defray_payment.store.payments import Found

_PROBLEM_TYPE: Final = "application/problem+json"
_NOTE: Final = "refund"
_FIRST: Final = UUID(int=0)


class RefundRequest(RequestModel):
    """How much of a payment goes back, in minor units of its currency. The payer may be shown the reason."""

    amount_minor: AmountMinor
    reason: Annotated[str, Text(80)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundsApi:
    """Handlers of the merchant API; an API key sees its own merchant's refunds, those by rule among them."""

    database: Database
    asking: GroupCommit[AskRefund, RefundOutcome]
    recording: GroupCommit[RecordRefund, Told]
    channels: Channels
    clock: Clock
    channel_timeout_s: float

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route(
            "POST",
            "/v1/payments/{payment_id}/refunds",
            self.ask,
            summary="Send back all or part of a payment",
            request=RefundRequest,
            response=RefundBody,
            status=201,
            scope="refunds:write",
            idempotency_key=True,
            example={"amount_minor": 4900, "reason": "one shirt returned"},
        )
        edge.route(
            "GET",
            "/v1/payments/{payment_id}/refunds",
            self.of_payment,
            summary="List the refunds of a payment (?after=, ?limit=)",
            response=RefundListBody,
            scope="refunds:read",
        )
        edge.route(
            "GET",
            "/v1/refunds/{refund_id}",
            self.get,
            summary="Show a refund",
            response=RefundBody,
            scope="refunds:read",
        )

    async def ask(self, call: Call[RefundRequest]) -> Reply:
        """Two transactions with the channel's call between them; a crash in between is resumed under the same number."""
        found = await self._payment(call)
        line = self._line(found.attempt.channel, found.attempt.account_id)
        command = self._command(call, found, line)
        outcome = await self.asking.submit(command)
        match outcome:
            case SendRefund(refund=refund, again=again):
                crash_point("refund.before_channel")
                line = self._line(refund.channel, refund.account_id)
                report = await converse_refund.send(line, refund, again=again)
                crash_point("refund.after_channel")
                told = await self.recording.submit(RecordRefund(key=command.key, report=report))
                return _reply(told.status, told.body)
            case Told(status=status, body=body):
                return _reply(status, body)
            case Replay(status=status, body=body):
                return _reply(status, body, {"Idempotency-Replayed": "true"})
            case Mismatch() | Running():
                replayed(outcome)
        raise AssertionError(outcome)

    async def get(self, call: Call[None]) -> Reply:
        """One refund; what belongs to others is not there."""
        refund_id = _parsed("rfd", call.path_params["refund_id"])
        async with self.database.read() as conn:
            refund = (await refunds.by_ids(conn, [refund_id])).get(refund_id)
        if refund is None or not _is_own(call, refund):
            raise Problem("not_found")
        return Reply(content=announce.refund_body(refund))

    async def of_payment(self, call: Call[None]) -> Reply:
        """The refunds of one payment, oldest first, page by page."""
        found = await self._payment(call)
        if not set(call.query) <= {"after", "limit"}:
            raise Problem("invalid_parameter")
        limit = read_limit(call)
        try:
            after = ids.parse("rfd", call.query["after"]) if "after" in call.query else _FIRST
        except ValueError:
            raise Problem("invalid_parameter", field="after") from None
        async with self.database.read() as conn:
            page = await refunds.of_payment(conn, found.payment.payment_id, after=after, limit=limit + 1)
        shown = [announce.refund_body(refund) for refund in page[:limit]]
        return Reply(content=RefundListBody(data=shown, next_after=shown[-1].refund_id if len(page) > limit else None))

    async def _payment(self, call: Call[RefundRequest] | Call[None]) -> Found:
        payment_id = _parsed("pay", call.path_params["payment_id"])
        async with self.database.read() as conn:
            found = (await payments.by_ids(conn, [payment_id])).get(payment_id)
        if found is None or not _is_own(call, found.payment):
            raise Problem("not_found")
        return found

    def _line(self, channel: str, account_id: UUID | None) -> Line:
        line = self.channels.of(channel, account_id)
        if line is None:
            raise Unavailable("the channel's account is not usable")
        return line

    def _command(self, call: Call[RefundRequest], found: Found, line: Line) -> AskRefund:
        assert call.idempotency_key is not None
        assert call.merchant is not None
        return AskRefund(
            key=Claim(
                scope=scope_of(call.merchant.merchant_id, "ask_refund"),
                key=call.idempotency_key,
                request_hash=call.request_hash,
                mode="conversation",
                # One call to the channel and two commits.
                lease_s=2 * self.channel_timeout_s + 8,
            ),
            order_id=found.payment.order_id,
            payment_id=found.payment.payment_id,
            amount_minor=call.body.amount_minor,
            note=call.body.reason or _NOTE,
            refund_id=RefundId(uuid7()),
            refund_no=number_of(uuid7()),
            refunds_max=line.capabilities.refunds_max,
            window=line.capabilities.refund_window,
            first_query_at=first_query_at(self.clock.now(), self.channel_timeout_s),
            cause=call.cause,
        )


def read_limit(call: Call[None]) -> int:
    """How many items a page holds: 1 to 100, 100 without `?limit=`. Raises Problem `invalid_parameter`."""
    text = call.query.get("limit", "100")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= refunds.PER_PAGE_MAX):
        raise Problem("invalid_parameter", field="limit")
    return int(text)


def _is_own(call: Call[RefundRequest] | Call[None], of: Refund | Payment) -> bool:
    return call.merchant is not None and call.merchant.merchant_id == of.merchant_id


def _parsed(prefix: str, text: str) -> UUID:
    try:
        return ids.parse(prefix, text)
    except ValueError:
        raise Problem("not_found") from None


def _reply(status: int, body: bytes, headers: dict[str, str] | None = None) -> Reply:
    kind = _PROBLEM_TYPE if status >= 400 else "application/json"
    return Reply(status=status, content=body, headers=headers or {}, content_type=kind)
