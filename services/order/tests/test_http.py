"""The merchant's API over a real server and a real schema."""

import asyncio
from collections import Counter
from typing import Any

import jwt

from defray_kernel.ids import show, uuid7

from .running import Service, order_body


async def rows(service: Service) -> dict[str, int]:
    """How many rows each table holds."""
    async with service.database.read() as conn:
        tables = ("orders", "order_item", "order_transition", "outbox")
        return {table: await conn.fetchval(f"SELECT count(*) FROM {table}") for table in tables}


async def test_an_order_is_placed_and_shown(service: Service) -> None:
    placed = await service.call(
        "POST",
        "/v1/orders",
        by=service.one,
        body=order_body("no-1"),
        key="k-1",
        headers={"X-Correlation-Id": "correlate-me-1"},
    )
    assert placed.status == 201
    assert (placed.body["status"], placed.body["amount_minor"], placed.body["currency"]) == ("PLACED", 300, "CNY")
    assert [item["amount_minor"] for item in placed.body["items"]] == [240, 60]
    assert placed.body["correlation_id"] == placed.headers["X-Correlation-Id"] == "correlate-me-1"
    token = placed.body.pop("payment_token")
    keys = await service.call("GET", "/.well-known/jwks.json")
    claims = jwt.decode(token, jwt.PyJWK(keys.body["keys"][0]), algorithms=["EdDSA"], audience="defray-payment")
    assert (claims["sub"], claims["cid"]) == (placed.body["order_id"], "correlate-me-1")
    assert (claims["amt"], claims["cur"], claims["mid"]) == (300, "CNY", show("mer", service.one.merchant_id))
    assert claims["oxp"] == placed.body["expires_at"]
    shown = await service.call("GET", f"/v1/orders/{placed.body['order_id']}", by=service.one)
    assert (shown.status, shown.body) == (200, placed.body)
    found = await service.call("GET", "/v1/orders?merchant_order_no=no-1", by=service.reader)
    assert found.body == {"data": [], "next_cursor": None}
    found = await service.call("GET", "/v1/orders?merchant_order_no=no-1", by=service.one)
    assert [order["order_id"] for order in found.body["data"]] == [placed.body["order_id"]]


async def test_fifty_twins_at_once_have_one_effect_and_one_answer(service: Service) -> None:
    answers = await asyncio.gather(*(service.place(order_body("no-1"), key="same") for _ in range(50)))
    assert {answer.status for answer in answers} == {201}
    assert len({str(answer.body) for answer in answers}) == 1
    assert Counter(answer.headers.get("Idempotency-Replayed") for answer in answers) == {None: 1, "true": 49}
    assert await rows(service) == {"orders": 1, "order_item": 2, "order_transition": 1, "outbox": 1}


async def test_the_merchants_number_is_a_key_too(service: Service) -> None:
    answers = await asyncio.gather(*(service.place(order_body("no-1")) for _ in range(30)))
    assert Counter(answer.status for answer in answers) == {201: 1, 200: 29}
    assert len({(answer.body["order_id"], answer.body["payment_token"]) for answer in answers}) == 1
    spelled = order_body("no-1", expires_in_s=7200)
    assert (await service.place(spelled, key="spelled")).status == 200
    assert (await service.place(spelled, key="spelled")).headers["Idempotency-Replayed"] == "true"
    assert (await rows(service))["orders"] == 1


async def test_other_content_is_a_conflict_or_a_mismatch(service: Service) -> None:
    assert (await service.place(order_body("no-1"), key="k-1")).status == 201
    other = order_body("no-1", expires_in_s=60)
    conflict = await service.place(other, key="k-2")
    assert (conflict.status, conflict.body["code"]) == (409, "order_conflict")
    assert (await service.place(other, key="k-2")).status == 409
    mismatch = await service.place(other, key="k-1")
    assert (mismatch.status, mismatch.body["code"]) == (422, "idempotency_mismatch")
    assert await rows(service) == {"orders": 1, "order_item": 2, "order_transition": 1, "outbox": 1}


async def test_two_merchants_do_not_meet(service: Service) -> None:
    mine = await service.place(order_body("no-1"), key="k-1")
    theirs = await service.place(order_body("no-1"), key="k-1", by=service.other)
    assert (mine.status, theirs.status) == (201, 201)
    assert mine.body["order_id"] != theirs.body["order_id"]
    path = f"/v1/orders/{mine.body['order_id']}"
    answer = await service.call("GET", path, by=service.other)
    unknown = await service.call("GET", f"/v1/orders/{show('ord', uuid7())}", by=service.other)
    assert (answer.status, unknown.status) == (404, 404)
    assert {k: v for k, v in answer.body.items() if k != "correlation_id"} == {
        k: v for k, v in unknown.body.items() if k != "correlation_id"
    }
    assert (await service.call("GET", path)).status == 401
    forbidden = await service.place(order_body("no-2"), by=service.reader)
    assert (forbidden.status, forbidden.body["code"]) == (403, "forbidden")


async def test_an_order_that_costs_nothing_is_paid_at_once(service: Service) -> None:
    free = order_body("no-1", amount_minor=0)
    free["items"] = [{"sku": "s", "title": "Sample", "quantity": 1, "unit_amount_minor": 5, "discount_minor": 5}]
    answer = await service.place(free)
    assert (answer.status, answer.body["status"]) == (201, "PAID")
    assert "payment_token" not in answer.body
    async with service.database.read() as conn:
        told = await conn.fetch("SELECT event_type, aggregate_seq FROM outbox ORDER BY id")
        moves = await conn.fetch("SELECT from_state, to_state, report FROM order_transition ORDER BY version")
    assert [tuple(row) for row in told] == [("order.placed.v1", 1), ("order.paid.v1", 2)]
    assert [tuple(row) for row in moves] == [(None, "PLACED", None), ("PLACED", "PAID", "nothing_due")]


ITEM = {"sku": "s", "title": "T", "quantity": 1, "unit_amount_minor": 300}


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"amount_minor": 299}, "amount_mismatch", "amount_minor"),
    ({"items": [ITEM | {"discount_minor": 301}]}, "amount_mismatch", "items[0].discount_minor"),
    ({"items": []}, "invalid_field", "items"),
    ({"items": [ITEM] * 101}, "invalid_field", "items"),
    ({"items": [ITEM | {"quantity": 0}]}, "invalid_field", "items[0].quantity"),
    ({"items": [ITEM | {"quantity": 1_000_001}]}, "invalid_field", "items[0].quantity"),
    ({"items": [ITEM | {"unit_amount_minor": -1}]}, "invalid_amount", "items[0].unit_amount_minor"),
    ({"items": [ITEM | {"amount_minor": 300}]}, "unknown_field", "items[0].amount_minor"),
    ({"items": [{"sku": "s"}]}, "missing_field", "items[0].title"),
    ({"items": {}}, "invalid_field", "items"),
    ({"currency": "EUR"}, "unsupported_currency", "currency"),
    ({"currency": "cny"}, "unsupported_currency", "currency"),
    ({"currency": "XAU"}, "unsupported_currency", "currency"),
    ({"amount_minor": True}, "invalid_amount", "amount_minor"),
    ({"amount_minor": 300.0}, "invalid_amount", "amount_minor"),
    ({"amount_minor": "300"}, "invalid_amount", "amount_minor"),
    ({"amount_minor": 10**12 + 1}, "invalid_amount", "amount_minor"),
    ({"expires_in_s": 59}, "invalid_field", "expires_in_s"),
    ({"expires_in_s": 604_801}, "invalid_field", "expires_in_s"),
    ({"merchant_order_no": ""}, "invalid_field", "merchant_order_no"),
    ({"merchant_order_no": "a b"}, "invalid_field", "merchant_order_no"),
    ({"merchant_order_no": "x" * 65}, "invalid_field", "merchant_order_no"),
    ({"status": "PAID"}, "unknown_field", "status"),
    ({"items": [ITEM | {"title": "4111 1111 1111 1111"}]}, "pan_not_allowed", "items[0].title"),
)


async def test_what_is_wrong_is_named_and_nothing_is_written(service: Service) -> None:
    told = []
    for changes, _, _ in WRONG:
        answer = await service.place(order_body("no-1", **changes))
        told.append((answer.status, answer.body["code"], answer.body.get("field")))
    assert told == [(422, code, field) for _, code, field in WRONG]
    assert set((await rows(service)).values()) == {0}
