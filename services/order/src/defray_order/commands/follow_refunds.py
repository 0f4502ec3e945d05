"""Follow refunds: requests move as the payment service tells of theirs, and what was asked there is recorded here."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar, assert_never

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause, Event
from defray_kernel.contracts.payment_v1 import RefundRefused, RefundStateV1
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import CaseId, OrderId, PaymentId, RefundId, parse, show, uuid7
from defray_kernel.money import Money
from defray_order.commands import ask_refund, project_refund
from defray_order.commands.ask_refund import Asked
from defray_order.domain.case import Case
from defray_order.domain.order import Order, Refusal
from defray_order.domain.refund_request import (
    ENDED,
    Origin,
    RefundRequest,
    RefundRequestId,
    RequestContradicted,
    RequestMoved,
    RequestRepeated,
    RequestReport,
    RequestState,
    Step,
    StepKind,
    account,
    allot_told,
    decide,
)
from defray_order.store import cases, orders, refund_requests

R = TypeVar("R", bound=RefundStateV1)

_REPORTS: Final = {
    "REQUESTED": RequestReport.TAKEN,
    "PROCESSING": RequestReport.TAKEN,
    "SUCCEEDED": RequestReport.SUCCEEDED,
    "FAILED": RequestReport.FAILED,
    "ABNORMAL": RequestReport.ABNORMAL,
}
_FAILED: Final = "refund_failed"
_AT_PAYMENT: Final = "asked at the payment service"


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says of a request; `refund_id` is None when no refund was made."""

    report: RequestReport
    order_id: OrderId
    payment_id: PaymentId
    request_id: RefundRequestId | None
    refund_id: RefundId | None
    by_rule: bool
    amount: Money
    sequence: int
    code: str | None
    at: dt.datetime
    cause: Cause


async def handle(events: Sequence[Event[R]], tx: WriteTx, clock: Clock) -> None:
    """Keep the refunds' state, then move their requests. Raises RetryLater for an unknown order, Poison for bad ids."""
    await project_refund.handle(events, tx, clock)
    await _follow([_of_state(event) for event in events], tx, clock)


async def handle_refused(events: Sequence[Event[RefundRefused]], tx: WriteTx, clock: Clock) -> None:
    """Move the requests that no refund is made for. Raises like `handle`."""
    await _follow([_of_refusal(event) for event in events], tx, clock)


async def _follow(told: Sequence[_Told], tx: WriteTx, clock: Clock) -> None:
    """At most one report per order. Locks the orders before anything of them is read."""
    locked = await orders.get_for_update(tx, [t.order_id for t in told])
    known = await refund_requests.known(
        tx, [t.request_id for t in told if t.request_id], [t.refund_id for t in told if t.refund_id]
    )
    by_request = {request.request_id: request for request in known}
    by_refund = {request.refund_id: request for request in known if request.refund_id}
    pairs: list[tuple[_Told, RefundRequest]] = []
    strange: list[_Told] = []
    for each in told:
        request = None
        if each.request_id is not None:
            request = by_request.get(each.request_id)
        elif each.refund_id is not None:
            request = by_refund.get(each.refund_id)
        if request is not None:
            pairs.append((each, request))
        elif each.request_id is not None:
            raise Poison("the refund request is not known")
        elif not each.by_rule:  # A rule's refund returns money that the order never had.
            strange.append(each)
    pairs += await _record(strange, locked, tx, clock)
    await _apply(pairs, tx, clock)


async def _record(
    strange: Sequence[_Told], locked: Mapping[OrderId, Order], tx: WriteTx, clock: Clock
) -> list[tuple[_Told, RefundRequest]]:
    """Refunds that were asked for at the payment service, as requests of their own; grants are recalled after the fact."""
    if not all(t.order_id in locked for t in strange):
        raise RetryLater("the order is not known")
    live = await ask_refund.reserving(tx, [t.order_id for t in strange])
    asked = [_asked(told, locked[told.order_id], live[told.order_id]) for told in strange]
    ending = {told.order_id for told in strange if told.report is RequestReport.FAILED}
    recalled = await ask_refund.recall(
        [each for each in asked if each.recalls and each.order.order_id not in ending], tx, clock
    )
    steps: list[Step] = []
    recorded: list[RefundRequest] = []
    for told, each in zip(strange, asked, strict=True):
        request = each.request
        steps.append(_step(told, request, StepKind.TAKEN))
        if (of := recalled.get(told.order_id)) is not None:
            request = msgspec.structs.replace(request, version=2, grants_recalled=of.grants)
            step = _step(told, request, StepKind.GRANTS_RECALLED)
            steps.append(msgspec.structs.replace(step, minor=of.grant_debt_minor))
        recorded.append(request)
    if recorded:
        await refund_requests.insert(tx, recorded)
        await refund_requests.log(tx, steps)
    return list(zip(strange, recorded, strict=True))


def _asked(told: _Told, order: Order, live: Sequence[RefundRequest]) -> Asked:
    assert told.refund_id is not None
    paid_it = told.payment_id == order.payment_id
    request = RefundRequest(
        request_id=RefundRequestId(uuid7()),
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        payment_id=told.payment_id,
        origin=Origin.PAYMENT,
        amount=told.amount,
        lines=allot_told(account(order, live), told.amount.minor) if paid_it else (),
        note=_AT_PAYMENT,
        state=RequestState.SENT,
        refund_id=told.refund_id,
        # What was heard first may be its end, which then moves it below.
        refund_seq=told.sequence if told.report is RequestReport.TAKEN else told.sequence - 1,
        grants_recalled=0,
        code=None,
        requested_at=told.at,
        ended_at=None,
        correlation_id=order.correlation_id,
        version=1,
    )
    return Asked(request=request, order=order, live=(*live, request), cause=told.cause)


async def _apply(pairs: Sequence[tuple[_Told, RefundRequest]], tx: WriteTx, clock: Clock) -> None:
    moved: list[RefundRequest] = []
    steps: list[Step] = []
    opened: list[Case] = []
    for told, request in pairs:
        if not _same(told, request):
            opened.append(_case(Refusal.REFUND_DIFFERS, told, request, clock))
            continue
        if told.refund_id is not None and told.sequence <= request.refund_seq:
            continue
        decision = decide(request.state, told.report)
        match decision:
            case RequestMoved(to=to):
                after = _after(told, request, to)
                moved.append(after)
                steps.append(_step(told, after, StepKind(told.report)))
                if not after.reserves and after.grants_recalled:
                    opened.append(_case(Refusal.RECALLED_IN_VAIN, told, request, clock))
            case RequestRepeated():
                pass
            case RequestContradicted():
                opened.append(_case(Refusal.REFUND_CONTRADICTS, told, request, clock))
            case _:
                assert_never(decision)
    if moved:
        await refund_requests.move(tx, moved)
        await refund_requests.log(tx, steps)
    if opened:
        await cases.open_all(tx, opened)


def _same(told: _Told, request: RefundRequest) -> bool:
    """Whether an event tells of this request, to the minor unit."""
    same = (told.order_id, told.payment_id, told.amount) == (request.order_id, request.payment_id, request.amount)
    return same and (None in {told.refund_id, request.refund_id} or told.refund_id == request.refund_id)


def _after(told: _Told, request: RefundRequest, to: RequestState) -> RefundRequest:
    return msgspec.structs.replace(
        request,
        state=to,
        refund_id=told.refund_id,
        refund_seq=told.sequence if told.refund_id else request.refund_seq,
        code=(told.code or _FAILED) if to in {RequestState.FAILED, RequestState.REFUSED} else None,
        ended_at=told.at if to in ENDED else None,
        version=request.version + 1,
    )


def _step(told: _Told, request: RefundRequest, kind: StepKind) -> Step:
    return Step(
        request_id=request.request_id,
        step=request.version,
        kind=kind,
        state=request.state,
        minor=request.amount.minor,
        at=told.at,
        cause=told.cause,
    )


def _case(reason: Refusal, told: _Told, request: RefundRequest, clock: Clock) -> Case:
    return Case(
        case_id=CaseId(uuid7()),
        order_id=request.order_id,
        reason=reason,
        subject=show("rrq", request.request_id),
        detail=f"{told.report} of {told.amount} of {show('pay', told.payment_id)}; "
        f"request {request.state}, {request.amount} of {show('pay', request.payment_id)}",
        opened_at=clock.now(),
        cause=told.cause,
    )


def _of_state(event: Event[R]) -> _Told:
    data = event.data
    report = _REPORTS[data.status]
    try:
        return _Told(
            report=report,
            order_id=OrderId(parse("ord", data.order_id)),
            payment_id=PaymentId(parse("pay", data.payment_id)),
            request_id=_request_id(data.refund_request_id),
            refund_id=RefundId(parse("rfd", data.refund_id)),
            by_rule=data.reason != "merchant",
            amount=Money(minor=data.amount_minor, currency=data.currency),
            sequence=event.sequence,
            code=data.failure_code,
            at=data.requested_at if report is RequestReport.TAKEN else data.done_at or event.time,
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error


def _of_refusal(event: Event[RefundRefused]) -> _Told:
    data = event.data
    try:
        return _Told(
            report=RequestReport.REFUSED,
            order_id=OrderId(parse("ord", data.order_id)),
            payment_id=PaymentId(parse("pay", data.payment_id)),
            request_id=_request_id(data.refund_request_id),
            refund_id=None,
            by_rule=False,
            amount=Money(minor=data.amount_minor, currency=data.currency),
            sequence=event.sequence,
            code=data.code,
            at=data.refused_at,
            cause=event.cause(),
        )
    except ValueError as error:
        raise Poison(str(error)) from error


def _request_id(text: str | None) -> RefundRequestId | None:
    return None if text is None else RefundRequestId(parse("rrq", text))
