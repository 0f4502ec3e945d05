"""The catalogue of bad input against every public POST route: never a 5xx, the field is named, nothing has changed."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from defray_kernel.ids import uuid7
from defray_sandbox.stack.provision import SERVICES
from tests.contracts.openapi import documents
from tests.e2e import corpus
from tests.e2e.world import Answer, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A public POST route: a good body with the marker in it, and which fields it cannot do without."""

    service: str
    path: str
    good: dict[str, Any]
    required: set[str]
    api_key: bool = True
    keyed: bool = False  # needs an Idempotency-Key
    tolerated: set[str] = field(default_factory=set)  # mistakes of `corpus.mistakes` that this route may take


ORDER = {
    "merchant_order_no": "MARK-1",
    "currency": "CNY",
    "amount_minor": 9_800,
    "items": [{"sku": "tea", "title": "Tea MARK", "quantity": 2, "unit_amount_minor": 5_000, "discount_minor": 200}],
    "expires_in_s": 600,
}
PAYMENT = {"channel": "wechat", "product": "native", "order_id": "ord_1", "description": "MARK"}
BENEFIT = {"name": "MARK", "kind": "coupon", "currency": "ZAR", "coupon": {"value": "percent", "basis_points": 100}}
ENDPOINT = {"url": "http://127.0.0.1:1/MARK", "event_types": ["order.paid.v1"]}

ROUTES = (
    Route(
        service="order",
        path="/v1/orders",
        good=ORDER,
        required={"merchant_order_no", "currency", "amount_minor", "items"},
        keyed=True,
    ),
    Route(
        service="order",
        path="/v1/orders/{order_id}/cancel",
        good={"reason": "MARK"},
        required=set(),
        tolerated={"reason = 'None'"},
    ),
    Route(
        service="order",
        path="/v1/orders/{order_id}/refund-requests",
        good={"lines": [{"line": 1, "quantity": 1}], "reason": "MARK"},
        required={"reason"},
        keyed=True,
        tolerated={"lines = 'None'", "lines[0].quantity = 'None'"},
    ),
    Route(  # In a currency that the merchant does not sell in, so that no mistake gets through.
        service="order",
        path="/v1/benefits",
        good=BENEFIT,
        required={"name", "kind", "coupon", "currency"},
        keyed=True,
        tolerated={"coupon.basis_points = 'None'"},
    ),
    Route(
        service="order",
        path="/v1/buyers/erase",
        good={"email": "MARK@example.com"},
        required=set(),
        tolerated={"email = 'None'"},
    ),
    Route(
        service="payment",
        path="/v1/payments",
        good=PAYMENT,
        required={"channel", "product"},
        keyed=True,
        tolerated={"order_id = 'None'", "description = 'None'"},
    ),
    Route(
        service="payment",
        path="/v1/payments/{payment_id}/refunds",
        good={"amount_minor": 1, "reason": "MARK"},
        required={"amount_minor"},
        keyed=True,
        tolerated={"reason = 'None'"},
    ),
    Route(service="notifier", path="/v1/webhook-endpoints", good=ENDPOINT, required={"url", "event_types"}),
)
WITHOUT_JSON = {
    "/v1/orders/{order_id}/fulfil",
    "/v1/benefits/{benefit_id}/archive",
    "/v1/payments/{payment_id}/close",
    *(f"/v1/webhooks/{channel}{path}" for channel in ("wechat", "alipay") for path in ("", "/{account_id}")),
}


@pytest_asyncio.fixture(loop_scope="session")
async def untouched(world: World) -> AsyncIterator[None]:
    """Fails the test when any row of any service is another after it than before."""
    await world.comes_to_rest()
    before = await _digest(world)
    yield
    await asyncio.sleep(0.5)
    after = await _digest(world)
    assert [table for table in after if after[table] != before.get(table)] == []


async def test_no_public_post_route_is_forgotten() -> None:
    declared = {
        (service, path)
        for service in SERVICES
        for name, text in documents(service).items()
        if name.name == "openapi.json"
        for path, methods in json.loads(text)["paths"].items()
        if "post" in methods and path not in WITHOUT_JSON
    }
    assert declared == {(route.service, route.path) for route in ROUTES}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_bytes_that_are_no_json(world: World, route: Route) -> None:
    good = corpus.encoded(route.good)
    told = {what: _told(await _send(world, route, raw)) for what, raw in corpus.malformed(good).items()}
    assert {what: answer for what, answer in told.items() if answer[:2] != (400, "malformed_json")} == {}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_one_mistake_in_a_good_body_is_named(world: World, route: Route) -> None:
    wrong = {}
    for mistake in (*corpus.mistakes(route.good), *corpus.missing(route.good, route.required)):
        answer = await _send(world, route, corpus.encoded(mistake.body))
        if mistake.what in route.tolerated:
            assert answer.status in {404, 422}, (mistake.what, answer)
            continue
        named = str(answer.body.get("field") or "")
        # A list's or an object's mistake may be told at a place inside it; the place itself must be on the way.
        if answer.status != 422 or not (named.startswith(mistake.field) or mistake.field.startswith(named + "[")):
            wrong[mistake.what] = (_told(answer), mistake.field)
    assert wrong == {}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_requests_that_are_wrong_around_the_body(world: World, route: Route) -> None:
    good = corpus.encoded(route.good)
    told = {what: _told(answer)[:2] for what, answer in [pair async for pair in _around(world, route, good)]}
    expected = {
        "no type": (415, "unsupported_media_type"),
        "form": (415, "unsupported_media_type"),
        "gzip": (415, "unsupported_media_type"),
        "latin-1": (415, "unsupported_media_type"),
        "too large": (413, "body_too_large"),
        "no key": (401, "unauthenticated"),
        "wrong key": (401, "unauthenticated"),
        "basic": (401, "unauthenticated"),
        "DELETE": (405, "method_not_allowed"),
        "TRACE": (405, "method_not_allowed"),
        "OPTIONS": (405, "method_not_allowed"),
        "long path": (404, "not_found"),
    }
    if route.keyed:
        expected |= {
            "no idempotency key": (400, "idempotency_key_missing"),
            "empty idempotency key": (400, "idempotency_key_invalid"),
            "long idempotency key": (400, "idempotency_key_invalid"),
            "odd idempotency key": (400, "idempotency_key_invalid"),
        }
    assert told == expected


@pytest.mark.usefixtures("untouched")
async def test_callbacks_that_prove_nothing(world: World) -> None:
    url = world.url("payment", "/v1/webhooks/wechat")
    signed = {
        "Wechatpay-Timestamp": "1", "Wechatpay-Nonce": "n", "Wechatpay-Signature": "c2ln", "Wechatpay-Serial": "S",
    }  # fmt: skip
    bodies = [*corpus.malformed(b'{"id": "MARK"}').values(), b'{"id": "MARK"}', b"\x00" * 1000]
    for raw in bodies:
        for headers in ({}, signed, dict.fromkeys(signed, "é" * 300)):
            answer = await world.ask("POST", url, raw=raw, headers=headers)
            assert (answer.status, answer.body["code"]) == (401, "FAIL"), (raw[:40], headers, answer)
    answer = await world.ask("POST", url, raw=b"x" * 70_000, headers=signed)
    assert answer.status == 413


@pytest.mark.usefixtures("untouched")
async def test_ids_that_are_none(world: World) -> None:
    odd = ("pay_1", "ord_" + "0" * 32, "pay_" + "0" * 31 + "G", "..%2f..%2fetc", "%00", "%f0%28", "pay_" + "0" * 5_000)
    for text in odd:
        url = world.url("payment", f"/v1/payments/{text}/close")
        answer = await world.ask("POST", url, by=world.one.api_key)
        assert (answer.status, answer.body["code"]) == (404, "not_found"), text


async def _send(
    world: World, route: Route, raw: bytes, *, method: str = "POST", path: str | None = None, **headers: str | None
) -> Answer:
    """One request as a good client makes it, but for what is given; None leaves a header out."""
    sent: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {world.one.api_key}",
        "Idempotency-Key": uuid7().hex if route.keyed else None,
    }
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: value for name, value in sent.items() if value is not None}
    return await world.ask(method, world.url(route.service, path or route.path), raw=raw, headers=kept)


async def _around(world: World, route: Route, good: bytes) -> AsyncIterator[tuple[str, Answer]]:
    yield "no type", await _send(world, route, good, Content_Type="application/octet-stream")
    yield "form", await _send(world, route, good, Content_Type="application/x-www-form-urlencoded")
    yield "gzip", await _send(world, route, good, Content_Encoding="gzip")
    yield "latin-1", await _send(world, route, good, Content_Type="application/json; charset=latin-1")
    yield "too large", await _send(world, route, good + b" " * 70_000)
    yield "no key", await _send(world, route, good, Authorization=None)
    yield "wrong key", await _send(world, route, good, Authorization="Bearer sk_test_wrong")
    yield "basic", await _send(world, route, good, Authorization="Basic dXNlcjpwYXNz")
    for method in ("DELETE", "TRACE", "OPTIONS"):
        yield method, await _send(world, route, b"", method=method)
    yield "long path", await _send(world, route, good, path="/v1/" + "x" * 10_000)
    if route.keyed:
        yield "no idempotency key", await _send(world, route, good, Idempotency_Key=None)
        yield "empty idempotency key", await _send(world, route, good, Idempotency_Key="")
        yield "long idempotency key", await _send(world, route, good, Idempotency_Key="x" * 256)
        yield "odd idempotency key", await _send(world, route, good, Idempotency_Key="a b")


def _told(answer: Answer) -> tuple[int, str, str | None]:
    body = answer.body or {}
    return answer.status, body.get("code", ""), body.get("field")


async def _digest(world: World) -> dict[str, str]:
    """One hash of each table's rows; offsets and the like, which move by themselves, hold no business."""
    connection = await asyncpg.connect(world.stack.site.database.admin_dsn)
    try:
        return {table: digest async for table, digest in _hashes(connection)}
    finally:
        await connection.close()


async def _hashes(connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[tuple[str, str]]:
    for table in await connection.fetch(
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables"
        " WHERE schemaname = ANY($1) AND tablename <> 'consumer_offset' ORDER BY 1",
        list(SERVICES.values()),
    ):
        text = f"SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {table['name']} AS t"
        yield table["name"], await connection.fetchval(text)
