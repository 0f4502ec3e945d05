"""The merchant API of payments: start, show, close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

import msgspec

from defray_kernel import ids
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.db import Database
from defray_kernel.errors import Unavailable
from defray_kernel.fields import RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply, replayed
from defray_kernel.idempotency import Claim, Mismatch, Replay, Running, scope_of
from defray_kernel.ids import OrderId, PaymentId, uuid7
from defray_kernel.problems import Problem
from defray_payment.announce import PaymentBody
from defray_payment.channels.line import Line
from defray_payment.channels.registry import Channels
from defray_payment.channels.spi import Capabilities, Payer
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.ask_close import AskClose
from defray_payment.commands.converse import Converser, first_query_at
from defray_payment.commands.record_answer import RecordAnswer
from defray_payment.commands.repair import Repair
from defray_payment.commands.start_payment import Send, StartOutcome, StartPayment, Told
from defray_payment.domain.attempt import Attempt, number_of
from defray_payment.domain.payable import OrderTerms
from defray_payment.domain.payment import LIVE
from defray_payment.domain.seals import payer_context
from defray_payment.entrypoints.answers import Answers
from defray_payment.entrypoints.tokens import PaymentToken
from defray_payment.store import payables, payments
from defray_payment.store.payments import Found

_PROBLEM_TYPE: Final = "application/problem+json"
_DESCRIPTION: Final = "Order {}"


class PayerRequest(RequestModel):
    """What a product asks to be told of the payer; kept sealed."""

    payer_id: Annotated[str, Text(128)] | None = None
    auth_code: Annotated[str, Text(64, pattern=r"^[0-9]+$")] | None = None
    client_ip: Annotated[str, Text(45, pattern=r"^[0-9A-Fa-f.:]+$")] | None = None


class PaymentRequest(RequestModel):
    """What is to be paid, and how. With a payment token the order is the token's."""

    channel: Annotated[str, Text(32)]
    product: Annotated[str, Text(32)]
    order_id: Annotated[str, Text(64)] | None = None
    description: Annotated[str, Text(40, pattern=r"^[^`]*$")] | None = None
    payer: PayerRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentsApi:
    """Handlers of the merchant API; a payment token sees its own order, an API key its own merchant."""

    database: Database
    starting: GroupCommit[StartPayment, StartOutcome]
    recording: GroupCommit[RecordAnswer, Told]
    reporting: GroupCommit[ApplyChannelReport, Applied]
    closing: GroupCommit[AskClose, Found]
    channels: Channels
    converser: Converser
    repair: Repair
    answers: Answers
    clock: Clock
    channel_timeout_s: float

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route(
            "POST",
            "/v1/payments",
            self.start,
            summary="Start a payment of an order and get what the payer does next",
            request=PaymentRequest,
            response=PaymentBody,
            status=201,
            auth="api_key_or_token",
            scope="payments:write",
            idempotency_key=True,
            example={"channel": "wechat", "product": "native", "order_id": "ord_" + "0" * 32, "description": "Lantern"},
        )
        edge.route(
            "GET",
            "/v1/payments/{payment_id}",
            self.get,
            summary="Show a payment",
            response=PaymentBody,
            auth="api_key_or_token",
            scope="payments:read",
        )
        edge.route(
            "POST",
            "/v1/payments/{payment_id}/close",
            self.close,
            summary="Close a payment at its channel",
            response=PaymentBody,
            auth="api_key_or_token",
            scope="payments:write",
        )

    async def start(self, call: Call[PaymentRequest]) -> Reply:
        """Two transactions with the channel's call between them; a crash in between is resumed under the same number."""
        line = self._line(call)
        order_id, terms = await self._order(call)
        _check_amount(line.capabilities, terms)
        command = self._command(call, line, order_id, terms)
        outcome = await self.starting.submit(command)
        match outcome:
            case Send():
                crash_point("payment.before_channel")
                report = await self.converser.send(
                    self._line_of(outcome.attempt), outcome.payment, outcome.attempt, again=outcome.again
                )
                crash_point("payment.after_channel")
                told = await self.recording.submit(RecordAnswer(key=command.key, report=report))
                return _reply(told.status, told.body)
            case Told(status=status, body=body):
                return _reply(status, body)
            case Replay(status=status, body=body):
                return _reply(status, body, {"Idempotency-Replayed": "true"})
            case Mismatch() | Running():
                replayed(outcome)
        raise AssertionError(outcome)

    async def get(self, call: Call[None]) -> Reply:
        """One payment; what belongs to others is not there. Its channel is asked when that is due."""
        found = await self._own(call)
        if await self.repair.ask(found):
            found = await self._own(call)
        return Reply(content=self.answers.show(found.payment, found.attempt))

    async def close(self, call: Call[None]) -> Reply:
        """Ask the channel, close there, ask again: 200 with what it ended as, 202 while that is not known."""
        found = await self._own(call)
        if found.payment.status in LIVE:
            asked = await self.closing.submit(
                AskClose(order_id=found.payment.order_id, payment_id=found.payment.payment_id)
            )
            if asked.payment.status in LIVE:
                line = self._line_of(asked.attempt)
                await self.reporting.submit(await self.converser.ask(line, asked.payment, asked.attempt))
            found = await self._own(call)
        status = 202 if found.payment.status in LIVE else 200
        return Reply(status=status, content=self.answers.show(found.payment, found.attempt))

    def _line(self, call: Call[PaymentRequest]) -> Line:
        """Where the payment goes: the merchant's own account at the channel, else the platform's."""
        body = call.body
        if isinstance(call.token, PaymentToken):
            merchant_id = call.token.terms.merchant_id
        else:
            assert call.merchant is not None
            merchant_id = call.merchant.merchant_id
        line = self.channels.find(body.channel, merchant_id)
        if line is None:
            raise Problem("unsupported_channel", field="channel")
        product = line.capabilities.products.get(body.product)
        if product is None:
            raise Problem("unsupported_product", field="product")
        for name in sorted(product.needs):
            if getattr(body.payer, name, None) is None:
                raise Problem("missing_field", field=f"payer.{name}")
        return line

    def _line_of(self, attempt: Attempt) -> Line:
        line = self.channels.of(attempt.channel, attempt.account_id)
        if line is None:
            raise Unavailable("the channel's account is not usable")
        return line

    async def _order(self, call: Call[PaymentRequest]) -> tuple[OrderId, OrderTerms]:
        """Whose order this is about. An order of another merchant, or not known yet, is not there."""
        named = _parsed(call.body.order_id)
        if isinstance(call.token, PaymentToken):
            if named is not None and named != call.token.terms.order_id:
                raise Problem("not_found")
            return call.token.terms.order_id, call.token.terms
        assert call.merchant is not None
        if named is None:
            raise Problem("missing_field", field="order_id")
        async with self.database.read() as conn:
            terms = await payables.terms_of(conn, OrderId(named))
        if terms is None or terms.merchant_id != call.merchant.merchant_id:
            raise Problem("not_found")
        return terms.order_id, terms

    def _command(self, call: Call[PaymentRequest], line: Line, order_id: OrderId, terms: OrderTerms) -> StartPayment:
        assert call.idempotency_key is not None
        caller: UUID = order_id if call.merchant is None else call.merchant.merchant_id
        attempt_no = number_of(uuid7())
        return StartPayment(
            key=Claim(
                scope=scope_of(caller, "start_payment"),
                key=call.idempotency_key,
                request_hash=call.request_hash,
                mode="conversation",
                # One call to the channel and two commits; a crash in between keeps a buyer from the QR text for so long.
                lease_s=2 * self.channel_timeout_s + 8,
            ),
            order_id=order_id,
            terms=terms,
            channel=call.body.channel,
            product=call.body.product,
            description=call.body.description or _DESCRIPTION.format(order_id.hex[-12:]),
            payment_id=PaymentId(uuid7()),
            attempt_no=attempt_no,
            first_query_at=first_query_at(self.clock.now(), self.channel_timeout_s),
            cause=call.cause,
            account_id=line.account.account_id,
            payer_sealed=self._payer(call.body, attempt_no),
            lives_s=line.capabilities.products[call.body.product].lives_s,
        )

    def _payer(self, body: PaymentRequest, attempt_no: str) -> bytes | None:
        if body.payer is None:
            return None
        payer = Payer(payer_id=body.payer.payer_id, auth_code=body.payer.auth_code, client_ip=body.payer.client_ip)
        return self.converser.envelope.seal(msgspec.json.encode(payer), payer_context(attempt_no))

    async def _own(self, call: Call[None]) -> Found:
        try:
            payment_id = ids.parse("pay", call.path_params["payment_id"])
        except ValueError:
            raise Problem("not_found") from None
        async with self.database.read() as conn:
            found = (await payments.by_ids(conn, [payment_id])).get(payment_id)
        if found is None or not _may_see(call, found):
            raise Problem("not_found")
        return found


def _may_see(call: Call[None], found: Found) -> bool:
    if isinstance(call.token, PaymentToken):
        return call.token.terms.order_id == found.payment.order_id
    return call.merchant is not None and call.merchant.merchant_id == found.payment.merchant_id


def _check_amount(capabilities: Capabilities, terms: OrderTerms) -> None:
    if terms.amount.currency not in capabilities.currencies:
        raise Problem("unsupported_currency", field="channel")
    if not capabilities.minor_min <= terms.amount.minor <= capabilities.minor_max:
        raise Problem("invalid_amount", field="channel")


def _parsed(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return ids.parse("ord", text)
    except ValueError:
        raise Problem("invalid_field", field="order_id") from None


def _reply(status: int, body: bytes, headers: dict[str, str] | None = None) -> Reply:
    kind = _PROBLEM_TYPE if status >= 400 else "application/json"
    return Reply(status=status, content=body, headers=headers or {}, content_type=kind)
