"""The catalogue of bad input (reliability.md 4.1) over a real server: never a 5xx, the field is named, nothing changed."""

from __future__ import annotations

import asyncio
import json
import resource
import time

import pytest

from defray_kernel import fields, redaction, strict_json
from defray_kernel.db import Database
from defray_kernel.http import Limits
from shared.tests.edge import toy
from shared.tests.edge.conftest import Running, serving

CARD = "4111111111111111"


def note(**changes: object) -> bytes:
    body = {"title": "tea", "amount_minor": 100, "currency": "CNY"} | changes
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


def with_amount(text: str) -> bytes:
    return b'{"title": "tea", "currency": "CNY", "amount_minor": %s}' % text.encode()


MALFORMED = {
    "NaN": with_amount("NaN"),
    "Infinity": with_amount("Infinity"),
    "-Infinity": with_amount("-Infinity"),
    "1e400": with_amount("1e400"),
    "4000 digits": with_amount("1" * 4000),
    "21 digits": with_amount("1" * 21),
    "leading zero": with_amount("01"),
    "hex": with_amount("0x10"),
    "lone surrogate": note(title="X").replace(b"X", rb"\ud800"),
    "reversed pair": note(title="X").replace(b"X", rb"\ude00\ud83d"),
    "NUL escape": note(title="X").replace(b"X", rb"\u0000"),
    "NUL byte": note(title="X").replace(b"X", b"\0"),
    "NUL in key": b'{"a\\u0000": 1}',
    "duplicate key": b'{"title": "a", "title": "b", "amount_minor": 1, "currency": "CNY"}',
    "deep duplicate": b'{"title": "a", "parts": [{"sku": "a", "sku": "b", "quantity": 1}]}',
    "trailing data": note() + b"{}",
    "comment": b"/* x */" + note(),
    "trailing comma": b'{"title": "a",}',
    "single quotes": b"{'title': 'a'}",
    "BOM": b"\xef\xbb\xbf" + note(),
    "UTF-16": note().decode().encode("utf-16"),
    "bad UTF-8": note(title="X").replace(b"X", b"\xff\xfe"),
    "overlong UTF-8": note(title="X").replace(b"X", b"\xc0\x80"),
    "surrogate UTF-8": note(title="X").replace(b"X", b"\xed\xa0\x80"),
    "900 deep": b"[" * 900 + b"]" * 900,
    "30000 deep": b"[" * 30000,
    "21 deep": b'{"a":' * 21 + b"1" + b"}" * 21,
    "unterminated": b'{"title": "',
    "escaped quote": b'{"title": "\\',
    "raw newline": note(title="X").replace(b"X", b"\n"),
    "empty": b"",
    "space": b" ",
}

REFUSED = {
    "true": (with_amount("true"), "invalid_amount", "amount_minor"),
    "1.0": (with_amount("1.0"), "invalid_amount", "amount_minor"),
    "1e2": (with_amount("1e2"), "invalid_amount", "amount_minor"),
    "text": (with_amount('"100"'), "invalid_amount", "amount_minor"),
    "1_000": (with_amount('"1_000"'), "invalid_amount", "amount_minor"),
    "padded": (with_amount('" 100 "'), "invalid_amount", "amount_minor"),
    "arabic": (with_amount('"٣"'), "invalid_amount", "amount_minor"),
    "null": (with_amount("null"), "invalid_amount", "amount_minor"),
    "zero": (with_amount("0"), "invalid_amount", "amount_minor"),
    "-0": (with_amount("-0"), "invalid_amount", "amount_minor"),
    "-1": (with_amount("-1"), "invalid_amount", "amount_minor"),
    "10^12+1": (with_amount("1000000000001"), "invalid_amount", "amount_minor"),
    "2^63": (with_amount(str(2**63)), "invalid_amount", "amount_minor"),
    "20 digits": (with_amount("9" * 20), "invalid_amount", "amount_minor"),
    "usd": (note(currency="usd"), "unsupported_currency", "currency"),
    "XXX": (note(currency="XXX"), "unsupported_currency", "currency"),
    "XAU": (note(currency="XAU"), "unsupported_currency", "currency"),
    "long currency": (note(currency="CNYY"), "invalid_field", "currency"),
    "unknown field": (note(colour="red"), "unknown_field", "colour"),
    "read-only": (note(status="PAID"), "unknown_field", "status"),
    "merchant": (note(merchant_id="mer_1"), "unknown_field", "merchant_id"),
    "odd name": (note(**{"<script>": 1}), "unknown_field", "?"),
    "missing": (note(title=...), "missing_field", "title"),
    "wrong type": (note(title=5), "invalid_field", "title"),
    "too long": (note(title="x" * 41), "invalid_field", "title"),
    "empty text": (note(title=""), "invalid_field", "title"),
    "control": (note(title="a\x1b[31m"), "invalid_field", "title"),
    "not an object": (b"[]", "invalid_field", None),
    "null body": (b"null", "invalid_field", None),
    "nested": (note(parts=[{"sku": "a", "quantity": 1}, {"sku": "a"}]), "missing_field", "parts[1].quantity"),
    "nested bool": (note(parts=[{"sku": "a", "quantity": True}]), "invalid_field", "parts[0].quantity"),
    "card": (note(title=CARD), "pan_not_allowed", "title"),
    "card spaced": (note(title="4111 1111 1111 1111"), "pan_not_allowed", "title"),
    "card in words": (note(title=f"pay {CARD} now"), "pan_not_allowed", "title"),
    "card in unknown": (note(other=CARD), "pan_not_allowed", "other"),
    "card nested": (note(parts=[{"sku": CARD, "quantity": 1}]), "pan_not_allowed", "parts[0].sku"),
    "card escaped": (note(title="X").replace(b"X", rb"\u0034111111111111111"), "pan_not_allowed", "title"),
    "card as key": (note(**{CARD: 1}), "pan_not_allowed", None),
    "card as number": (note(amount_minor=int(CARD)), "pan_not_allowed", "amount_minor"),
}


async def digest(database: Database) -> tuple[int, int]:
    async with database.read() as connection:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM note) AS notes, (SELECT count(*) FROM idempotency_key) AS keys"
        )
    return (row["notes"], row["keys"]) if row else (-1, -1)


async def test_every_malformed_body_is_refused_and_changes_nothing(toy_service: Running) -> None:
    for name, body in MALFORMED.items():
        status, answer, headers = await toy_service.post(body)
        assert status == 400, (name, status, answer)
        problem = json.loads(answer)
        assert problem["code"] == "malformed_json", (name, problem)
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-correlation-id"] == problem["correlation_id"]
    assert await digest(toy_service.database) == (0, 0)


async def test_every_wrong_value_names_its_field_and_never_the_value(toy_service: Running) -> None:
    for name, (body, code, field) in REFUSED.items():
        status, answer, _ = await toy_service.post(body)
        problem = json.loads(answer)
        assert (status, problem["code"], problem.get("field")) == (422, code, field), (name, problem)
        assert CARD.encode() not in answer
        assert b"script" not in answer
    assert await digest(toy_service.database) == (0, 0)


async def test_what_is_strict_and_right_passes(toy_service: Running) -> None:
    good = [
        note(),
        note(title="茶 🍵"),
        note(title="X").replace(b"X", rb"\ud83c\udf75"),
        note(title=r"back \ slash \u0000 text"),
        note(title="order 2024010112345678"),
        note(amount_minor=10**12, currency="JPY", parts=[{"sku": str(i), "quantity": 1} for i in range(100)]),
    ]
    for number, body in enumerate(good):
        status, answer, _ = await toy_service.post(body, key=f"good-{number}")
        assert status == 201, answer
    assert await digest(toy_service.database) == (len(good), len(good))


async def test_media_types_and_encodings(toy_service: Running) -> None:
    for headers in (
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/json; charset=utf-16"},
        {"Content_Encoding": "gzip"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ):
        status, answer, _ = await toy_service.post(note(), **headers)
        assert (status, json.loads(answer)["code"]) == (415, "unsupported_media_type"), headers
    status, _, _ = await toy_service.post(note(), Content_Type="application/json; charset=UTF-8")
    assert status == 201


async def test_idempotency_key_forms(toy_service: Running) -> None:
    for key, code in (
        (None, "idempotency_key_missing"),
        ("k" * 256, "idempotency_key_invalid"),
        ("a b", "idempotency_key_invalid"),
    ):
        status, answer, _ = await toy_service.post(note(), key=key)
        assert (status, json.loads(answer)["code"]) == (400, code)
    head = b"POST /v1/notes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    head += f"Authorization: Bearer {toy.KEYS[0]}\r\n".encode()
    answer = await toy_service.raw(head + b"Idempotency-Key: \xc3\xa9\r\n\r\n{}")
    assert b" 400 " in answer
    assert b"idempotency_key_invalid" in answer


async def test_a_body_over_the_limit_is_cut_and_memory_stays_flat(toy_service: Running) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n"
    answer = await toy_service.raw(head + b"Content-Length: 65537\r\n\r\n")
    assert b" 413 " in answer
    assert b"connection: close" in answer
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, writer = await asyncio.open_connection("127.0.0.1", toy_service.port)
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
    sent = 0
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    try:
        while sent < 200 * 1024 * 1024:
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)
        pytest.fail("the connection was not cut")
    except ConnectionError:
        assert sent < 16 * 1024 * 1024
    writer.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
    status, _, _ = await toy_service.get("/v1/sleep?s=0")
    assert status == 200


async def test_framing_that_two_servers_read_differently_is_refused(toy_service: Running) -> None:
    start = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\n"
    cases = {
        "CL and TE": start + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "two equal lengths": start + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "negative length": start + b"Content-Length: -1\r\n\r\n",
        "bad chunk": start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "chunk overflow": start + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n",
        "obs-fold": start + b"X-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
        "two hosts": start + b"Host: y\r\nContent-Length: 0\r\n\r\n",
        "HTTP/0.9": b"GET /v1/sleep\r\n\r\n",
        "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    }
    for name, data in cases.items():
        answer = await toy_service.raw(data)
        assert answer.startswith(b"HTTP/1.1 400 "), (name, answer[:200])


async def test_heads_are_bounded_in_size_and_number(toy_service: Running) -> None:
    start = b"GET /v1/sleep?s=0 HTTP/1.1\r\nHost: x\r\n"
    for name, data in {
        "16 KiB": start + b"X-Big: " + b"x" * 16384 + b"\r\n\r\n",
        "200 headers": start + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"\r\n",
        "endless": start + b"X-Big: " + b"x" * 60_000,
    }.items():
        answer = await toy_service.raw(data)
        assert answer.startswith(b"HTTP/1.1 431 "), (name, answer[:100])


async def test_methods_and_paths(toy_service: Running) -> None:
    for method, path, status in (
        ("TRACE", "/v1/notes", 405),
        ("OPTIONS", "/v1/notes", 405),
        ("HEAD", "/v1/notes", 405),
        ("DELETE", "/v1/notes/ord_1", 405),
        ("BREW", "/v1/notes", 400),
        ("GET", "/v1/nothing", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/notes/", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%00", 404),
        ("GET", "/%ff%fe", 404),
        ("GET", "http://other/v1/nothing", 404),
    ):
        answer = await toy_service.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (method, path, answer[:200])


async def test_query_parameters_are_strict(toy_service: Running) -> None:
    for query in ("s=0&s=1", "s=%ff", "s=%00", "&".join(f"p{i}=1" for i in range(30)), "s"):
        status, answer, _ = await toy_service.get(f"/v1/sleep?{query}")
        assert (status, json.loads(answer)["code"]) == (400, "invalid_parameter"), query


async def test_slow_bodies_and_slow_heads_end(database: Database) -> None:
    async with serving(database, limits=Limits(body_timeout_s=0.5)) as running:
        began = time.monotonic()
        answer = await running.raw(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 2


@pytest.mark.full
async def test_a_head_that_never_ends_is_cut_after_ten_seconds(toy_service: Running) -> None:
    for start in (b"", b"GET /v1/sleep?s=0 HTTP/1.1\r\nHost: x\r\nX-Slow: "):
        began = time.monotonic()
        answer = await toy_service.raw(start, within_s=15)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 9 < time.monotonic() - began < 12


async def test_too_many_at_once_are_told_to_come_back(database: Database) -> None:
    async with serving(database, limits=Limits(concurrent_max=5)) as running:
        replies = await asyncio.gather(*(running.get("/v1/sleep?s=0.3") for _ in range(20)))
        statuses = sorted(status for status, _, _ in replies)
        assert statuses == [200] * 5 + [503] * 15
        assert all(headers["retry-after"] == "1" for status, _, headers in replies if status == 503)
        status, _, _ = await running.get("/v1/sleep?s=0")
        assert status == 200


async def test_one_merchant_over_its_rate_does_not_slow_the_other(database: Database) -> None:
    async with serving(database, limits=Limits(merchant_rate_per_s=20)) as running:

        async def read(api_key: str) -> int:
            return (await running.get("/v1/notes/ord_1", api_key))[0]

        statuses = await asyncio.gather(*(read(toy.KEYS[0]) for _ in range(200)))
        assert statuses.count(404) >= 20
        assert statuses.count(429) >= 150
        status, _, headers = await running.get("/v1/notes/ord_1", toy.KEYS[0])
        left = int(headers["ratelimit"].partition("r=")[2].partition(";")[0])
        assert headers["ratelimit-policy"] == '"merchant";q=20;w=1'
        assert 0 <= left < 20
        assert (status == 429) == ("retry-after" in headers)
        assert [await read(toy.KEYS[1]) for _ in range(5)] == [404] * 5


async def test_our_own_failures_tell_nothing(toy_service: Running) -> None:
    status, answer, _ = await toy_service.get("/v1/fail/bug")
    assert status == 500
    assert json.loads(answer)["code"] == "internal"
    for word in (b"Traceback", b"asyncpg", b"SELECT", b'File "', b"sk_test"):
        assert word not in answer
    status, _, headers = await toy_service.get("/v1/fail/overloaded")
    assert (status, headers["retry-after"]) == (503, "1")


@pytest.mark.alone
def test_deep_checks_do_not_cost_the_limit_its_time() -> None:
    worst = b"[" + b"[]," * 21_000 + b"1]"
    began = time.perf_counter()
    strict_json.loads(worst)
    fields.refuse_card_numbers(strict_json.loads(b'["' + b"4111 1111 1111 1112 " * 3_000 + b'"]'))
    redaction.clean("-----BEGIN " * 5_000)
    strict_json.loads(b'"' + b'\\"' * 30_000 + b'"')
    assert time.perf_counter() - began < 0.5
