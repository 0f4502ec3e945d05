"""What tests of refund requests do: pay an order, ask for money back, hear what the payment service says."""

from collections.abc import Sequence
from typing import Any

import msgspec

from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause, Event
from defray_kernel.db import Database
from defray_kernel.idempotency import Claim
from defray_kernel.ids import OrderId, show, uuid7
from defray_kernel.problems import registry
from defray_order.announce import RefundRequestShown
from defray_order.commands import ask_refund
from defray_order.commands.ask_refund import AskRefund, Outcome
from defray_order.commands.place_order import Told
from defray_order.domain.refund_request import LineWish, RefundRequestId
from defray_order.entrypoints import consumers
from defray_order.entrypoints.refund_requests import PROBLEMS, Answers
from defray_order.store import refund_requests

from .given import NOW
from .test_reports import CLOCK, MERCHANT, event, mark_paid, payment, placed

ANSWERS = Answers(registry(*PROBLEMS))


async def paid(database: Database) -> tuple[OrderId, v1.PaymentSucceeded]:
    """An order of 3.00 and the payment that paid it."""
    order_id = await placed(database)
    data = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(database, event(data))
    return order_id, data


def ask(
    order_id: OrderId, minor: int | None = None, *, key: str | None = None, lines: Sequence[LineWish] = ()
) -> AskRefund:
    claim = Claim(scope="ask_refund", key=key or uuid7().hex, request_hash=repr((minor, lines)).encode().ljust(32)[:32])
    return AskRefund(
        key=claim,
        request_id=RefundRequestId(uuid7()),
        order_id=order_id,
        merchant_id=MERCHANT,
        amount_minor=minor,
        lines=tuple(lines),
        note="returned",
        cause=Cause(correlation_id="r" * 32),
    )


async def submit(database: Database, *commands: AskRefund) -> list[Outcome]:
    async with database.transaction() as tx:
        return await ask_refund.handle(commands, tx, CLOCK, answers=ANSWERS)


async def asked(database: Database, order_id: OrderId, minor: int) -> RefundRequestShown:
    (outcome,) = await submit(database, ask(order_id, minor))
    assert isinstance(outcome, Told)
    assert outcome.status == 201, outcome.body
    return msgspec.json.decode(outcome.body, type=RefundRequestShown)


def refusal(outcome: Outcome) -> tuple[int, str]:
    assert isinstance(outcome, Told)
    return outcome.status, msgspec.json.decode(outcome.body)["code"]


def refund(type_: type[Any], of: v1.PaymentSucceeded, amount: int, **changes: object) -> Any:  # noqa: ANN401
    statuses = {
        v1.RefundRequested: "REQUESTED", v1.RefundSucceeded: "SUCCEEDED",
        v1.RefundFailed: "FAILED", v1.RefundAbnormal: "ABNORMAL",
    }  # fmt: skip
    facts: dict[str, Any] = {
        "refund_id": show("rfd", uuid7()),
        "payment_id": of.payment_id,
        "order_id": of.order_id,
        "merchant_id": of.merchant_id,
        "status": statuses[type_],
        "reason": "merchant",
        "amount_minor": amount,
        "currency": "CNY",
        "channel": "wechat",
        "refund_no": "R" * 26,
        "requested_at": NOW,
        "payment_refunded_minor": amount,
        "done_at": NOW if type_ is v1.RefundSucceeded else None,
        "failure_code": "refund_refused" if type_ is v1.RefundFailed else None,
    }
    return type_(**(facts | changes))


def refused(of: v1.PaymentSucceeded, request: RefundRequestShown, code: str = "refund_window_over") -> v1.RefundRefused:
    return v1.RefundRefused(
        refund_request_id=request.refund_request_id,
        payment_id=of.payment_id,
        order_id=of.order_id,
        merchant_id=of.merchant_id,
        amount_minor=request.amount_minor,
        currency="CNY",
        code=code,
        refused_at=NOW,
    )


async def hear(database: Database, data: Any, sequence: int = 1) -> None:  # noqa: ANN401 - an event's body
    heard: Event[Any] = event(data, sequence)
    (handle,) = [each.handle for each in consumers.SUBSCRIPTIONS if each.event is type(data)]
    async with database.transaction() as tx:
        await consumers.lock_orders([heard], tx)
        await handle([heard], tx, CLOCK)


async def requests(database: Database, order_id: OrderId) -> list[tuple[str, str, int, str | None]]:
    async with database.read() as conn:
        found = await refund_requests.of_order(conn, order_id, limit=100)
    return [(each.origin, each.state, each.amount.minor, each.code) for each in found]


async def steps(database: Database, order_id: OrderId) -> list[str]:
    async with database.read() as conn:
        found = await refund_requests.of_order(conn, order_id, limit=100)
        return [step.kind for step in await refund_requests.steps(conn, [each.request_id for each in found])]
