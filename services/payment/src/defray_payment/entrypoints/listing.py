"""The list of payments: filters, and pages joined by sealed cursors that fit their caller and filters only."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from defray_kernel import ids
from defray_kernel.crypto import CannotOpen, Envelope
from defray_kernel.db import Database
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.problems import Problem
from defray_payment.announce import PaymentListBody
from defray_payment.domain.payment import Payment, PaymentStatus
from defray_payment.entrypoints.answers import Answers
from defray_payment.entrypoints.refunds import read_limit
from defray_payment.entrypoints.tokens import PaymentToken
from defray_payment.store import payments
from defray_payment.store.payments import Place, Wanted

_FILTERS: Final = ("order_id", "status", "created_from", "created_before")
_CURSOR_CHARACTERS_MAX: Final = 400
_NONE: Final = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentList:
    """The handler; a payment token lists its own order's payments, an API key its own merchant's."""

    database: Database
    envelope: Envelope
    answers: Answers

    def declare(self, edge: Edge) -> None:
        """Add the route."""
        parameters = " ".join(f"?{name}=" for name in (*_FILTERS, "limit", "cursor"))
        edge.route(
            "GET",
            "/v1/payments",
            self.page,
            summary=f"List payments, oldest first ({parameters})",
            response=PaymentListBody,
            auth="api_key_or_token",
            scope="payments:read",
        )

    async def page(self, call: Call[None]) -> Reply:
        """One page. A cursor of somebody else, of other filters, or made up is no cursor."""
        wanted = _wanted(call)
        if not set(call.query) <= {*_FILTERS, "limit", "cursor"}:
            raise Problem("invalid_parameter")
        limit, context = read_limit(call), _context(wanted, call.query)
        after = self._opened(call.query["cursor"], context) if "cursor" in call.query else None
        async with self.database.read() as conn:
            found = await payments.page(conn, wanted, after=after, limit=limit + 1)
        shown = [self.answers.show(each.payment, each.attempt) for each in found[:limit]]
        more = len(found) > limit
        cursor = self._sealed(found[limit - 1].payment, context) if more else None
        return Reply(content=PaymentListBody(data=shown, next_cursor=cursor))

    def _sealed(self, last: Payment, context: str) -> str:
        place = Place(created_at=last.created_at, payment_id=last.payment_id)
        return self.envelope.seal(msgspec.json.encode(place), context).hex()

    def _opened(self, text: str, context: str) -> Place:
        try:
            sealed = bytes.fromhex(text[:_CURSOR_CHARACTERS_MAX])
            return msgspec.json.decode(self.envelope.open(sealed, context), type=Place)
        except (ValueError, CannotOpen, msgspec.MsgspecError):
            raise Problem("invalid_parameter", field="cursor") from None


def _wanted(call: Call[None]) -> Wanted:
    order_id = _read(call, "order_id", lambda text: ids.parse("ord", text))
    if isinstance(call.token, PaymentToken):
        merchant_id = call.token.terms.merchant_id
        own = call.token.terms.order_id
        # Of another order a token sees nothing, and nothing is what the page then holds.
        order_id = own if order_id in {None, own} else _NONE
    else:
        assert call.merchant is not None
        merchant_id = call.merchant.merchant_id
    return Wanted(
        merchant_id=merchant_id,
        order_id=order_id,
        status=_read(call, "status", PaymentStatus),
        created_from=_read(call, "created_from", _time),
        created_before=_read(call, "created_before", _time),
    )


def _context(wanted: Wanted, query: Mapping[str, str]) -> str:
    filters = msgspec.json.encode([query.get(name) for name in _FILTERS])
    return f"cursor.payments:{wanted.merchant_id}:{wanted.order_id}:{hashlib.sha256(filters).hexdigest()}"


def _time(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment.astimezone(dt.UTC)


def _read(call: Call[None], name: str, form: Any) -> Any:  # noqa: ANN401 - as the form has it
    try:
        return form(call.query[name]) if name in call.query else None
    except (ValueError, OverflowError):
        raise Problem("invalid_parameter", field=name) from None
