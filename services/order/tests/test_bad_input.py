"""The catalogue of bad input for merchants' requests, row by row: refused by a stable code that names the field, nothing written.

Around every row stands a digest of the whole schema; no answer is a 5xx, and none holds what was sent.
"""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.http import Limits
from defray_kernel.ids import show, uuid7
from defray_order import wiring
from defray_sandbox.stack.provision import ProvisionedDatabase
from tests.e2e import corpus

from .badly import ROUTES, WITHOUT_JSON, Desk, Route, Told, changed, digests, seed, texts, told
from .running import Answer, Service, Shop, order_body, running


@pytest_asyncio.fixture
async def seeded(service: Service) -> Desk:
    return await seed(service)


@pytest_asyncio.fixture
async def desk(seeded: Desk, migrated: ProvisionedDatabase) -> AsyncIterator[Desk]:
    """Fails the test when any row of the schema is another after it than before."""
    before = await digests(migrated)
    yield seeded
    assert await changed(migrated, before) == set()


async def test_no_route_is_forgotten() -> None:
    paths = wiring.openapi()["paths"]
    declared = {path for path, methods in paths.items() if "post" in methods} - WITHOUT_JSON
    assert declared == {
        route.path.replace("{paid}", "{order_id}").replace("{placed}", "{order_id}") for route in ROUTES
    }


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_bytes_that_are_no_json(desk: Desk, route: Route) -> None:
    wrong = {}
    for what, raw in corpus.malformed(corpus.encoded(route.body)).items():
        answer = told(await desk.ask("POST", route.path, raw))
        if answer[:2] != (400, "malformed_json"):
            wrong[what] = answer
    assert wrong == {}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_one_mistake_is_named(desk: Desk, route: Route) -> None:
    wrong = {}
    for mistake in (*corpus.mistakes(route.body), *corpus.missing(route.body, route.required)):
        if mistake.what in route.blind:
            continue
        status, code, named = told(await desk.ask("POST", route.path, corpus.encoded(mistake.body)))
        shown = named or ""
        # A list's or an object's mistake may be told at a place inside it; the place itself must be on the way.
        if status != 422 or not (shown.startswith(mistake.field) or mistake.field.startswith(shown + "[")):
            wrong[mistake.what] = (status, code, named, mistake.field)
    assert wrong == {}


async def test_amounts_and_currencies(desk: Desk) -> None:
    item = {"sku": "s", "title": "T", "quantity": 1, "unit_amount_minor": 300}
    expected: dict[str, tuple[dict[str, Any], Told]] = {
        f"amount {value!r}": ({"amount_minor": value}, (422, "invalid_amount", "amount_minor"))
        for value in (True, 300.0, 1.5, "300", "3_00", " 300 ", "٣", None, [], -1, -0.0, 10**12 + 1, 2**63, 10**19)
    }
    expected |= {
        f"currency {value!r}": ({"currency": value}, (422, "unsupported_currency", "currency"))
        for value in ("cny", "XXX", "XAU", "XTS", "ZZZ", "EUR")
    }
    expected |= {
        "read-only status": ({"status": "PAID"}, (422, "unknown_field", "status")),
        "read-only merchant": ({"merchant_id": "mer_1"}, (422, "unknown_field", "merchant_id")),
        "read-only fee": ({"fee": 0}, (422, "unknown_field", "fee")),
        "one unit short": ({"amount_minor": 299}, (422, "amount_mismatch", "amount_minor")),
        # The same number in a currency without minor units is another sum: the lines say so.
        "wrong exponent": ({"currency": "JPY", "amount_minor": 3}, (422, "amount_mismatch", "amount_minor")),
        "discount over line": (
            {"items": [item | {"discount_minor": 301}]},
            (422, "amount_mismatch", "items[0].discount_minor"),
        ),
    }
    got = {what: await desk.post("/v1/orders", order_body("no-2", **body)) for what, (body, _) in expected.items()}
    assert {what: told for what, told in got.items() if told != expected[what][1]} == {}


async def test_sums_that_no_column_holds(desk: Desk) -> None:
    """Lines of 10^18 each, which a coupon over all of it takes down to nothing: no more may be sold than can be counted."""
    item = {"sku": "s", "title": "T", "quantity": 1_000_000, "unit_amount_minor": 10**12}
    for count in (1, 9, 10, 100):
        body = order_body(
            "no-3", items=[item] * count, amount_minor=0, coupon_codes=[desk.ids[desk.service.one.api_key]["code"]]
        )
        assert await desk.post("/v1/orders", body) == (422, "amount_mismatch", "items"), count


async def test_card_numbers_are_taken_nowhere(desk: Desk) -> None:
    wrong = {}
    for route in ROUTES:
        for card in ("4111111111111111", "5500 0000 0000 0004", "6304000000000000000"):
            for path, body in texts(route.body, card):
                answer = await desk.post(route.path, body)
                if answer != (422, "pan_not_allowed", path):
                    wrong[route.path, path, card] = answer
    assert wrong == {}


async def test_bodies_and_types(desk: Desk) -> None:
    good = corpus.encoded(ROUTES[0].body)
    expected = {
        "no body": (400, "malformed_json"),
        "gzip": (415, "unsupported_media_type"), "no type": (415, "unsupported_media_type"), "form": (415, "unsupported_media_type"),
        "latin-1": (415, "unsupported_media_type"),
    }  # fmt: skip
    for path in {route.path for route in ROUTES}:
        got = {
            "no body": told(await desk.ask("POST", path)),
            "gzip": told(await desk.ask("POST", path, good, Content_Encoding="gzip")),
            "no type": told(await desk.ask("POST", path, good, Content_Type=None)),
            "form": told(await desk.ask("POST", path, good, Content_Type="application/x-www-form-urlencoded")),
            "latin-1": told(await desk.ask("POST", path, good, Content_Type="application/json; charset=latin-1")),
        }
        assert {what: answer[:2] for what, answer in got.items()} == expected, path
        head = desk.head(path)
        for body in (b"Content-Length: 65537\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n10001\r\n" + b" " * 65_537):
            answer = await desk.raw(head + body)
            assert answer.startswith(b"HTTP/1.1 413 "), path
            assert b"body_too_large" in answer


async def test_two_hundred_megabytes_are_cut_and_not_held(desk: Desk) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host, port = desk.service.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(desk.head("/v1/orders") + b"Transfer-Encoding: chunked\r\n\r\n")
    sent, chunk = 0, b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with pytest.raises(ConnectionError):
        while sent < 200 * 1024 * 1024:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
    writer.close()
    assert sent < 16 * 1024 * 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


async def test_heads_and_framing(desk: Desk) -> None:
    start = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\n"
    cases = {
        "16 KiB": (start + b"X-Big: " + b"x" * 16_384 + b"\r\n\r\n", 431),
        "200 headers": (start + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n", 431),
        "CL and TE": (start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        "two lengths": (start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
        "HTTP/0.9": (b"GET /v1/orders\r\n\r\n", 400),
        "unknown verb": (b"BREW /v1/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        "TRACE": (b"TRACE /v1/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        "OPTIONS": (b"OPTIONS /v1/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        "DELETE": (b"DELETE /v1/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        "absolute form": (b"GET http://other/v1/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    }
    got = {what: (await desk.raw(data))[9:12] for what, (data, _) in cases.items()}
    assert got == {what: str(status).encode() for what, (_, status) in cases.items()}


@pytest.mark.full
async def test_who_is_slow_is_cut_after_ten_seconds(desk: Desk) -> None:
    start = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\n"
    body = desk.head("/v1/orders") + b"Content-Length: 100\r\n\r\n{"
    answers = await asyncio.gather(desk.raw(start + b"X-Slow: "), desk.raw(body))
    assert [answer[9:12] for answer in answers] == [b"408", b"408"]


async def test_credentials_all_fail_alike(desk: Desk) -> None:
    service = desk.service
    mine, theirs = desk.ids[service.one.api_key], desk.ids[service.other.api_key]
    for path in (*(route.path for route in ROUTES), "/v1/orders/{placed}/fulfil", "/v1/benefits/{benefit}/archive"):
        bodies = set()
        wrong = (
            None,
            "Bearer sk_test_CANARY",
            "Bearer CANARY",
            "Basic CANARY",
            "Bearer",
            f"Bearer {mine['token'][:-4]}AAAA",
        )
        for credential in wrong:
            answer = await desk.ask("POST", path, b"{}", Authorization=credential)
            assert told(answer)[:2] == (401, "unauthenticated"), (path, credential)
            bodies.add(str({name: value for name, value in answer.body.items() if name != "correlation_id"}))
        assert len(bodies) == 1
        if not path.endswith("cancel"):
            assert (await desk.post(path, {}, Authorization=f"Bearer {mine['token']}"))[0] == 401
    for path in ("/v1/orders", "/v1/orders/export.csv", "/v1/benefits", "/v1/coupons/{code}"):
        assert told(await desk.ask("GET", path, Authorization=f"Bearer {mine['token']}"))[0] == 401
    # A payment token is good for its own order's cancel alone.
    assert (await desk.post("/v1/orders/{placed}/cancel", {}, Authorization=f"Bearer {theirs['token']}"))[0] == 404
    reader = f"Bearer {service.reader.api_key}"
    for route in ROUTES:
        assert await desk.post(route.path, route.body, Authorization=reader) == (403, "forbidden", None)


async def test_ids_that_are_not_ones_own(desk: Desk) -> None:
    ids, theirs = desk.ids[desk.service.one.api_key], desk.ids[desk.service.other.api_key]
    odd = [
        show("ord", uuid7()),
        "ord_1",
        "..%2f..%2fetc",
        "%00",
        "%f0%28",
        "ord_" + "0" * 31 + "G",
        "x" * 10_240,
        quote("٣" * 32),
    ]
    foreign = {
        "order_id": theirs["placed"],
        "benefit_id": theirs["benefit"],
        "refund_request_id": theirs["request"],
        "code": theirs["code"],
    }
    own = {
        "order_id": ids["request"],
        "benefit_id": ids["paid"],
        "refund_request_id": ids["benefit"],
        "code": ids["paid"],
    }
    bodies, asked = set(), 0
    for path, methods in wiring.openapi()["paths"].items():
        for method in methods:
            for name in [name for name in foreign if "{" + name + "}" in path]:
                body = b'{"amount_minor": 1, "reason": "returned"}' if path.endswith("refund-requests") else b"{}"
                for text in (foreign[name], own[name], *odd):
                    answer = await desk.ask(method.upper(), path.replace("{" + name + "}", text), body)
                    assert told(answer) == (404, "not_found", None), (method, path, text[:60])
                    bodies.add(str({each: value for each, value in answer.body.items() if each != "correlation_id"}))
                    asked += 1
    # Nothing tells what is another's from what is not there.
    assert (len(bodies), asked > 100) == (1, True)


async def test_idempotency_keys(desk: Desk) -> None:
    for route in ROUTES:
        if route.keyed:
            for key, code in ((None, "idempotency_key_missing"), ("", "idempotency_key_invalid"), ("x" * 256, "idempotency_key_invalid"),
                              ("a b", "idempotency_key_invalid"), ("é", "idempotency_key_invalid")):  # fmt: skip
                assert await desk.post(route.path, route.body, Idempotency_Key=key) == (400, code, None), key


async def test_a_key_and_a_number_mean_one_thing(seeded: Desk, migrated: ProvisionedDatabase) -> None:
    service = seeded.service
    assert (await service.place(order_body("no-7"), key="k")).status == 201
    before = await digests(migrated)
    wish = {"amount_minor": 1, "reason": "returned"}
    assert await seeded.post("/v1/orders", order_body("no-8"), Idempotency_Key="k") == (
        422,
        "idempotency_mismatch",
        None,
    )
    assert await seeded.post("/v1/orders", order_body("no-7", expires_in_s=60)) == (
        409,
        "order_conflict",
        "merchant_order_no",
    )
    # The key of a refused wish stays bound to it, and nothing else is kept.
    assert await changed(migrated, before) <= {"idempotency_key"}
    # Another merchant's key is new, and so is the same key on another route.
    assert (await service.place(order_body("no-7"), key="k", by=service.other)).status == 201
    assert (await seeded.post("/v1/orders/{paid}/refund-requests", wish, Idempotency_Key="k"))[0] == 201
    assert await seeded.post("/v1/orders/{paid}/refund-requests", wish | {"amount_minor": 2}, Idempotency_Key="k") == (
        422, "idempotency_mismatch", None,
    )  # fmt: skip


async def test_what_an_orders_state_does_not_allow(seeded: Desk, migrated: ProvisionedDatabase) -> None:
    before = await digests(migrated)
    asking, wish = "/refund-requests", {"reason": "returned"}
    expected: dict[tuple[str, str], Told] = {
        ("/v1/orders/{paid}/cancel", "{}"): (409, "invalid_state", None),
        ("/v1/orders/{placed}/fulfil", "{}"): (409, "invalid_state", None),
        ("/v1/orders/{placed}" + asking, '{"amount_minor": 1}'): (409, "order_not_paid", None),
        ("/v1/orders/{paid}" + asking, '{"amount_minor": 301}'): (409, "refund_exceeds_paid", "amount_minor"),
        ("/v1/orders/{paid}" + asking, '{"lines": [{"line": 2, "quantity": 2}]}'): (
            409,
            "refund_exceeds_line",
            "lines[0].quantity",
        ),
        ("/v1/orders/{paid}" + asking, '{"lines": [{"line": 3, "quantity": 1}]}'): (
            422,
            "line_unknown",
            "lines[0].line",
        ),
        ("/v1/orders/{paid}" + asking, '{"amount_minor": 0}'): (422, "invalid_amount", "amount_minor"),
        ("/v1/orders/{paid}" + asking, '{"amount_minor": -1}'): (422, "invalid_amount", "amount_minor"),
    }
    got = {
        (path, text): await seeded.post(path, json.loads(text) | (wish if path.endswith(asking) else {}))
        for path, text in expected
    }
    assert got == expected
    # A refusal is the answer of its key, and a replay must tell the same.
    assert await changed(migrated, before) == {"idempotency_key"}


async def test_pages_cursors_and_spans(desk: Desk) -> None:
    service = desk.service
    first = await desk.ask("GET", "/v1/orders?limit=1")
    cursor = first.body["next_cursor"]
    lists = ("/v1/orders", "/v1/benefits", "/v1/orders/{paid}/refund-requests")
    limits = ("0", "-1", "101", "1000000000", "00010000000000", "0" * 30 + "1", "1.0", "%D9%A3", "", "1e2", "9" * 40)
    expected: dict[str, str | None] = {f"{path}?limit={text}": "limit" for path in lists for text in limits}
    expected |= {f"{path}?CANARY=1": None for path in (*lists, "/v1/orders/export.csv")}
    expected |= {f"{path}?limit=1&limit=2": None for path in lists}
    expected |= {f"{path}?after={show('ord', uuid7())}": "after" for path in lists[1:]}
    flipped = cursor[:-1] + ("0" if cursor[-1] != "0" else "1")
    expected |= {f"/v1/orders?cursor={text}": "cursor" for text in (cursor, flipped, "CANARY", "", "0" * 9_000, "zz")}
    expected |= {
        f"/v1/orders?{name}={value}": name
        for name, values in {
            "status": ("CANARY", "paid", ""), "created_from": ("CANARY", "2026-01-01", "2026-01-01T00:00:00", "9999-12-31T23:59:59-14:00"),
            "created_before": ("0001-01-01T00:00:00%2B14:00",), "merchant_order_no": ("", "x" * 65), "email": ("CANARY", ""),
            "phone": ("123", "CANARY"), "customer_ref": ("", "x" * 65),
        }.items()
        for value in values
    }  # fmt: skip
    span = "/v1/orders/export.csv?created_from=2026-01-01T00:00:00Z&created_before="
    expected |= {
        span + until: "created_before"
        for until in ("2126-01-01T00:00:00Z", "2026-02-01T00:00:01Z", "2025-01-01T00:00:00Z", "x")
    }
    expected |= {"/v1/orders/export.csv": "created_from", span[: -len("&created_before=")]: "created_before"}
    got = {path: await desk.get(path) for path in expected}
    # The same cursor without its filters, or of another merchant.
    assert await desk.get(f"/v1/orders?limit=1&cursor={cursor}", by=service.other) == (
        400,
        "invalid_parameter",
        "cursor",
    )
    assert await desk.get(f"/v1/orders?limit=1&status=PAID&cursor={cursor}") == (400, "invalid_parameter", "cursor")
    good = f"/v1/orders?cursor={cursor}"
    assert got.pop(good) == (200, "", None)
    assert {path: told for path, told in got.items() if told != (400, "invalid_parameter", expected[path])} == {}


async def test_ten_times_the_rate(migrated: ProvisionedDatabase) -> None:
    async with Database.open(migrated.dsn("order")) as database:
        placing = wiring.placing(database, SystemClock(), after_commit=None)
        async with running(database, placing, limits=Limits(merchant_rate_per_s=20)) as service:
            before = await digests(migrated)

            async def read(shop: Shop) -> Answer:
                return await service.call("GET", f"/v1/orders/{show('ord', uuid7())}", by=shop)

            answers = await asyncio.gather(*(read(service.one) for _ in range(200)))
            counted = Counter(answer.status for answer in answers)
            assert set(counted) == {404, 429}
            assert counted[429] > 100
            assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status == 429)
            assert [(await read(service.other)).status for _ in range(5)] == [404] * 5
            assert await changed(migrated, before) == set()


async def test_the_digest_sees_a_row(seeded: Desk, migrated: ProvisionedDatabase) -> None:
    before = await digests(migrated)
    assert (await seeded.post("/v1/orders", order_body("no-9")))[0] == 201
    assert await changed(migrated, before) >= {"orders", "order_item", "order_transition", "outbox"}
