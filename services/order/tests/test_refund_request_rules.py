"""Every (state, report) pair of a refund request has one answer, and what falls on lines adds up whatever is asked."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from defray_kernel.ids import RefundId, uuid7
from defray_kernel.money import Money
from defray_order.domain.order import Order, OrderItem, OrderState
from defray_order.domain.refund_request import (
    Account,
    LineShare,
    LineWish,
    Origin,
    RefundRefusal,
    RefundRequest,
    RefundRequestId,
    RequestDecision,
    RequestMoved,
    RequestRefused,
    RequestRepeated,
    RequestReport,
    RequestState,
    account,
    allot_amount,
    allot_lines,
    allot_told,
    decide,
)

from .given import NOW, order

# Rows are states, columns reports: a state name = moves there, "=" = old news, "!" = a person must look.
TABLE = """
           taken  abnormal  succeeded  failed  refused
REQUESTED  SENT   SENT      SUCCEEDED  FAILED  REFUSED
SENT       =      SENT      SUCCEEDED  FAILED  !
SUCCEEDED  =      =         =          !       !
FAILED     =      =         !          =       !
REFUSED    !      !         !          !       =
"""


def _expected() -> dict[tuple[RequestState, RequestReport], str]:
    head, *rows = [line.split() for line in TABLE.strip().splitlines()]
    return {
        (RequestState(state), RequestReport(report)): answer
        for state, *answers in rows
        for report, answer in zip(head, answers, strict=True)
    }


def _told(decision: RequestDecision) -> str:
    if isinstance(decision, RequestMoved):
        return decision.to
    return "=" if isinstance(decision, RequestRepeated) else "!"


@pytest.mark.parametrize(("state", "report"), list(itertools.product(RequestState, RequestReport)))
def test_every_pair_has_one_defined_answer(state: RequestState, report: RequestReport) -> None:
    assert _told(decide(state, report)) == _expected()[state, report]


def sold(*lines: tuple[int, int, int], total: int | None = None) -> Order:
    """A paid order of lines (quantity, unit price, discount)."""
    items = tuple(
        OrderItem(sku="a", title="A", quantity=quantity, unit_amount_minor=unit, discount_minor=discount)
        for quantity, unit, discount in lines
    )
    minor = sum(item.amount_minor for item in items) if total is None else total
    return msgspec.structs.replace(order(OrderState.PAID), items=items, total=Money(minor=minor, currency="CNY"))


def asked(of: Order, lines: tuple[LineShare, ...], **changes: object) -> RefundRequest:
    assert of.payment_id is not None
    values: dict[str, Any] = {
        "request_id": RefundRequestId(uuid7()),
        "order_id": of.order_id,
        "merchant_id": of.merchant_id,
        "payment_id": of.payment_id,
        "origin": Origin.ORDER,
        "amount": Money(minor=sum(share.minor for share in lines), currency="CNY"),
        "lines": lines,
        "note": "returned",
        "state": RequestState.REQUESTED,
        "refund_id": None,
        "refund_seq": 0,
        "grants_recalled": 0,
        "code": None,
        "requested_at": NOW,
        "ended_at": None,
        "correlation_id": of.correlation_id,
        "version": 1,
    }
    return RefundRequest(**(values | changes))


def share(line: int, minor: int, quantity: int | None = None) -> LineShare:
    return LineShare(line=line, minor=minor, quantity=quantity)


def test_an_amount_falls_on_the_lines_by_what_is_left_of_each() -> None:
    of = sold((2, 100, 0), (1, 100, 0))
    first = allot_amount(account(of, []), 100)
    assert first == (share(1, 67), share(2, 33))
    rest = allot_amount(account(of, [asked(of, first)]), 200)
    assert rest == (share(1, 133), share(2, 67))


def test_units_of_a_line_add_up_to_the_line_whatever_is_rounded() -> None:
    of = sold((3, 40, 20))  # 100 for three
    requests: list[RefundRequest] = []
    for minor in (33, 33, 34):
        shares = allot_lines(account(of, requests), [LineWish(line=1, quantity=1)])
        assert shares == (share(1, minor, 1),)
        requests.append(asked(of, shares))
    refused = allot_lines(account(of, requests), [LineWish(line=1, quantity=1)])
    assert refused == RequestRefused(code=RefundRefusal.REFUND_EXCEEDS_LINE, field="lines[0].quantity")
    # One that failed gives its unit free; the last unit costs what is left.
    failed = msgspec.structs.replace(requests[0], state=RequestState.FAILED)
    assert allot_lines(account(of, [failed, *requests[1:]]), [LineWish(line=1, quantity=1)]) == (share(1, 33, 1),)


@pytest.mark.parametrize(
    ("wishes", "code", "field"),
    [
        ([LineWish(line=3, quantity=1)], "line_unknown", "lines[0].line"),
        ([LineWish(line=1, quantity=1), LineWish(line=1, quantity=1)], "line_repeated", "lines[1].line"),
        ([LineWish(line=1, quantity=3)], "refund_exceeds_line", "lines[0].quantity"),
        ([LineWish(line=1, minor=201)], "refund_exceeds_line", "lines[0].amount_minor"),
        ([LineWish(line=2, quantity=1)], "refund_of_nothing", "lines"),
    ],
)
def test_wishes_that_cannot_be_name_what_is_wrong(wishes: list[LineWish], code: str, field: str) -> None:
    of = account(sold((2, 100, 0), (1, 50, 50)), [])
    assert allot_lines(of, wishes) == RequestRefused(code=RefundRefusal(code), field=field)


def test_lines_of_an_order_with_a_discount_on_its_total_share_it() -> None:
    of = account(sold((1, 200, 0), (1, 100, 0), total=270), [])
    assert [line.paid_minor for line in of.lines] == [180, 90]
    refused = allot_lines(of, [LineWish(line=1, minor=181)])
    assert isinstance(refused, RequestRefused)


def test_more_than_is_left_of_the_order_is_refused_though_its_line_has_it() -> None:
    of = sold((1, 200, 0), (1, 100, 0))
    # The payment service knows of more than was asked here, on other lines.
    other = asked(of, (share(2, 100),), amount=Money(minor=250, currency="CNY"))
    refused = allot_lines(account(of, [other]), [LineWish(line=1, minor=51)])
    assert refused == RequestRefused(code=RefundRefusal.REFUND_EXCEEDS_PAID, field="lines")


def test_what_did_not_pay_the_order_counts_for_nothing() -> None:
    of = sold((1, 300, 0))
    late = asked(of, (), payment_id=uuid7(), amount=Money(minor=300, currency="CNY"), refund_id=RefundId(uuid7()))
    failed = asked(of, (share(1, 300),), state=RequestState.FAILED)
    assert account(of, [late, failed]).left_minor == 300


LINES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 400), st.integers(0, 30)).map(
        lambda line: (line[0], line[1], min(line[2], line[0] * line[1]))
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(lines=LINES, data=st.data())
def test_no_line_and_no_order_gives_back_more_than_was_paid(
    lines: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Any sequence of wishes by amount, by line, by units and by the payment service, some of which fail."""
    cost = sum(quantity * unit - discount for quantity, unit, discount in lines)
    of = sold(*lines, total=data.draw(st.integers(0, cost), label="total"))
    requests: list[RefundRequest] = []
    for _ in range(data.draw(st.integers(0, 8))):
        known = account(of, requests)
        shares = data.draw(wishes(known))
        if isinstance(shares, RequestRefused):
            continue
        state = data.draw(st.sampled_from([RequestState.SENT, RequestState.SUCCEEDED, RequestState.FAILED]))
        requests.append(asked(of, shares, state=state))
        left = account(of, requests)
        assert sum(line.paid_minor for line in left.lines) in {of.total.minor, 0}
        assert left.taken_minor <= of.total.minor
        for line in left.lines:
            assert line.by_amount_minor + line.by_units_minor <= line.paid_minor
            assert line.units <= line.quantity


def wishes(known: Account) -> st.SearchStrategy[tuple[LineShare, ...] | RequestRefused]:
    line = st.sampled_from([each.line for each in known.lines])
    by_units = st.builds(lambda number, units: [LineWish(line=number, quantity=units)], line, st.integers(1, 5))
    by_minor = st.builds(lambda number, minor: [LineWish(line=number, minor=minor)], line, st.integers(1, 500))
    named = st.one_of(by_units, by_minor).map(lambda wish: allot_lines(known, wish))
    if known.left_minor == 0:
        return named
    whole = st.integers(1, known.left_minor)
    return st.one_of(named, whole.map(lambda m: allot_amount(known, m)), whole.map(lambda m: allot_told(known, m)))
