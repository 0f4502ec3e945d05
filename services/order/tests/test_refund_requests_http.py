"""Refund requests over HTTP: asked once per key, refused by name, seen by their merchant only, and on the order."""

import asyncio
from typing import Any

import pytest

from defray_kernel.clock import SystemClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import PaymentSucceeded
from defray_kernel.ids import parse, show, uuid7
from defray_order.commands import mark_order_paid

from .given import NOW
from .running import Answer, Service, Shop, order_body


async def paid(service: Service, *, by: Shop | None = None) -> str:
    """An order of 3.00 (two teas of 1.20, a cup of 0.60) that was paid; returns its id."""
    shop = by or service.one
    order_id: str = (await service.place(order_body(uuid7().hex), by=shop)).body["order_id"]
    data = PaymentSucceeded(
        payment_id=show("pay", uuid7()),
        order_id=order_id,
        merchant_id=show("mer", shop.merchant_id),
        status="SUCCEEDED",
        amount_minor=300,
        currency="CNY",
        channel="wechat",
        product="native",
        attempt_no="A" * 26,
        created_at=NOW,
        expires_at=NOW,
        paid_minor=300,
        paid_at=NOW,
    )
    event = Event(
        id=uuid7(),
        source="/payment",
        subject=data.payment_id,
        key=order_id,
        sequence=3,
        time=NOW,
        correlation_id="c" * 32,
        causation_id=None,
        traceparent=None,
        data=data,
    )
    async with service.database.transaction() as tx:
        await mark_order_paid.handle([event], tx, SystemClock())
    return order_id


async def ask(service: Service, order_id: str, *, key: str | None = None, by: Any = None, **body: object) -> Answer:  # noqa: ANN401
    path = f"/v1/orders/{order_id}/refund-requests"
    return await service.call(
        "POST", path, by=by or service.one, body={"reason": "returned"} | body, key=key or uuid7().hex
    )


async def test_a_request_is_answered_at_once_and_shown_on_the_order(service: Service) -> None:
    order_id = await paid(service)
    asked = await ask(service, order_id, key="k", lines=[{"line": 1, "quantity": 1}, {"line": 2, "amount_minor": 5}])
    assert asked.status == 201, asked
    assert (asked.body["status"], asked.body["amount_minor"], asked.body["reason"]) == ("REQUESTED", 125, "returned")
    assert asked.body["lines"] == [
        {"line": 1, "amount_minor": 120, "quantity": 1},
        {"line": 2, "amount_minor": 5, "quantity": None},
    ]
    again = await ask(service, order_id, key="k", lines=[{"line": 1, "quantity": 1}, {"line": 2, "amount_minor": 5}])
    assert (again.body, again.headers["Idempotency-Replayed"]) == (asked.body, "true")
    other = await ask(service, order_id, key="k", amount_minor=1)
    assert (other.status, other.body["code"]) == (422, "idempotency_mismatch")
    shown = await service.call("GET", f"/v1/orders/{order_id}", by=service.one)
    assert shown.body["refund_requests"] == [asked.body]
    one = await service.call("GET", f"/v1/refund-requests/{asked.body['refund_request_id']}", by=service.one)
    assert one.body == asked.body


async def test_pages_of_requests(service: Service) -> None:
    order_id = await paid(service)
    ids = [(await ask(service, order_id, amount_minor=10)).body["refund_request_id"] for _ in range(3)]
    path = f"/v1/orders/{order_id}/refund-requests?limit=2"
    first = await service.call("GET", path, by=service.one)
    assert ([each["refund_request_id"] for each in first.body["data"]], first.body["next_after"]) == (ids[:2], ids[1])
    second = await service.call("GET", f"{path}&after={ids[1]}", by=service.one)
    assert ([each["refund_request_id"] for each in second.body["data"]], second.body["next_after"]) == (ids[2:], None)
    for bad in ("limit=0", "limit=101", "limit=x", "after=rrq_1", "page=2"):
        answer = await service.call("GET", f"/v1/orders/{order_id}/refund-requests?{bad}", by=service.one)
        assert (answer.status, answer.body["code"]) == (400, "invalid_parameter"), bad


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 422, "missing_field", "amount_minor"),
        ({"amount_minor": 1, "lines": [{"line": 1, "quantity": 1}]}, 422, "invalid_field", "lines"),
        ({"amount_minor": 0}, 422, "invalid_amount", "amount_minor"),
        ({"amount_minor": 1.5}, 422, "invalid_amount", "amount_minor"),
        ({"amount_minor": 301}, 409, "refund_exceeds_paid", "amount_minor"),
        ({"amount_minor": 1, "reason": ""}, 422, "invalid_field", "reason"),
        ({"lines": []}, 422, "invalid_field", "lines"),
        ({"lines": [{"line": 1}]}, 422, "missing_field", "lines[0].quantity"),
        ({"lines": [{"line": 1, "quantity": 1, "amount_minor": 1}]}, 422, "invalid_field", "lines[0].amount_minor"),
        ({"lines": [{"line": 3, "quantity": 1}]}, 422, "line_unknown", "lines[0].line"),
        ({"lines": [{"line": 1, "quantity": 1}] * 2}, 422, "line_repeated", "lines[1].line"),
        ({"lines": [{"line": 2, "amount_minor": 61}]}, 409, "refund_exceeds_line", "lines[0].amount_minor"),
    ],
)
async def test_bad_wishes_are_refused_by_name(
    service: Service, body: dict[str, Any], status: int, code: str, field: str
) -> None:
    order_id = await paid(service)
    answer = await ask(service, order_id, **body)
    assert (answer.status, answer.body["code"], answer.body["field"]) == (status, code, field)
    listed = await service.call("GET", f"/v1/orders/{order_id}/refund-requests", by=service.one)
    assert listed.body == {"data": [], "next_after": None}


async def test_a_refusal_is_the_same_again_under_its_key(service: Service) -> None:
    order_id = (await service.place(order_body(uuid7().hex))).body["order_id"]
    first = await ask(service, order_id, key="k", amount_minor=1)
    assert (first.status, first.body["code"]) == (409, "order_not_paid")
    assert first.headers["Content-Type"].startswith("application/problem+json")
    again = await ask(service, order_id, key="k", amount_minor=1)
    assert (again.status, again.body) == (409, first.body)


async def test_twenty_at_once_take_no_more_than_was_paid(service: Service) -> None:
    order_id = await paid(service)
    answers = await asyncio.gather(*(ask(service, order_id, amount_minor=70) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 4 + [409] * 16
    assert {answer.body["code"] for answer in answers if answer.status == 409} == {"refund_exceeds_paid"}


async def test_what_belongs_to_another_merchant_is_not_there(service: Service) -> None:
    order_id = await paid(service)
    request = (await ask(service, order_id, amount_minor=1)).body["refund_request_id"]
    answers = [
        await ask(service, order_id, by=service.other, amount_minor=1),
        await service.call("GET", f"/v1/orders/{order_id}/refund-requests", by=service.other),
        await service.call("GET", f"/v1/refund-requests/{request}", by=service.other),
        await service.call("GET", "/v1/refund-requests/rrq_1", by=service.one),
        await service.call("GET", f"/v1/orders/{show('ord', uuid7())}/refund-requests", by=service.one),
    ]
    assert [(answer.status, answer.body["code"]) for answer in answers] == [(404, "not_found")] * 5
    assert parse("rrq", request).version == 7
    reader = await ask(service, order_id, by=service.reader, amount_minor=1)
    assert (reader.status, reader.body["code"]) == (403, "forbidden")
