"""What strangers may ask: released samples still parse, schema and reader agree, and each mistake is told by its field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from defray_kernel.contracts import inbound
from defray_kernel.contracts.inbound import REQUESTS, Unusable
from tests.architecture.sources import ROOT
from tests.contracts import asyncapi, generate

SAMPLES = ROOT / "shared/tests/samples/inbound"


def sample(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return content


def record(event: dict[str, Any]) -> tuple[list[tuple[str, bytes]], bytes, bytes]:
    """The event in Kafka's binary mode."""
    headers = [
        (f"ce_{name}", str(value).encode()) for name, value in event.items() if name not in {"data", "datacontenttype"}
    ]
    data = event["data"]
    key = inbound.key_of(data["merchant_id"], data["merchant_order_no"]).encode()
    return [*headers, ("content-type", b"application/json")], key, json.dumps(data).encode()


def told(headers: list[tuple[str, bytes]], key: bytes | None, value: bytes | None) -> tuple[str, str]:
    with pytest.raises(Unusable) as refused:
        inbound.read(headers, key, value)
    return refused.value.code, refused.value.field


def test_every_request_has_a_sample_and_a_page() -> None:
    assert {path.stem.partition("+")[0] for path in SAMPLES.glob("*.json")} == set(REQUESTS)
    pages = {path.name for path in (ROOT / "docs/events").glob("*.md")}
    assert pages == {f"{name.removesuffix('.v1')}.md" for name in REQUESTS}


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_sample_is_read_and_fits_the_committed_schema(path: Path) -> None:
    event = sample(path.stem)
    read = inbound.read(*record(event))
    assert (read.source, read.id, read.data.TYPE) == (event["source"], event["id"], event["type"])
    committed = json.loads((generate.SCHEMAS / f"{event['type']}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(committed)
    assert list(Draft202012Validator(committed).iter_errors(event["data"])) == []


def item(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["items"][0].update(changes)


def field(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(changes)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


WRONG: tuple[tuple[Callable[[dict[str, Any]], None], str, str], ...] = (
    (without("currency"), "missing_field", "currency"),
    (lambda data: data["items"][0].pop("sku"), "missing_field", "items[0].sku"),
    (field(amount_minor="12800"), "invalid_amount", "amount_minor"),
    (field(amount_minor=True), "invalid_amount", "amount_minor"),
    (field(amount_minor=10**12 + 1), "invalid_amount", "amount_minor"),
    (item(quantity=0), "invalid_field", "items[0].quantity"),
    (item(title="a\u0007b"), "invalid_field", "items[0].title"),
    (item(sku="x" * 65), "invalid_field", "items[0].sku"),
    (field(merchant_order_no="with space"), "invalid_field", "merchant_order_no"),
    (field(merchant_order_no="line-end\n"), "invalid_field", "merchant_order_no"),
    (field(merchant_id="mer_1"), "invalid_field", "merchant_id"),
    (field(items=[]), "invalid_field", "items"),
    (field(expires_in_s=59), "invalid_field", "expires_in_s"),
    (field(currency="cny"), "unsupported_currency", "currency"),
    (field(expires_in=60), "unknown_field", "expires_in"),
    (lambda data: data.update({"a name of the publisher's": 1}), "unknown_field", "?"),
)


@pytest.mark.parametrize(("change", "code", "where"), WRONG)
def test_reader_and_schema_refuse_the_same(change: Callable[[dict[str, Any]], None], code: str, where: str) -> None:
    event = sample("order.requested.v1")
    headers, key, _ = record(event)
    change(event["data"])
    assert told(headers, key, json.dumps(event["data"]).encode()) == (code, where)
    committed = json.loads((generate.SCHEMAS / "order.requested.v1.json").read_text(encoding="utf-8"))
    assert list(Draft202012Validator(committed).iter_errors(event["data"])) != []


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        (field(amount_minor=12801), "amount_mismatch", "amount_minor"),
        (field(amount_minor=12800.0), "invalid_amount", "amount_minor"),
        (item(discount_minor=13801), "amount_mismatch", "items[0].discount_minor"),
        (field(currency="XAU"), "unsupported_currency", "currency"),
        (item(title="4111 1111 1111 1111"), "pan_not_allowed", "items[0].title"),
        (field(merchant_order_no="another"), "key_mismatch", "key"),
    ],
)
def test_what_no_schema_can_say_is_refused_too(change: Callable[[dict[str, Any]], None], code: str, where: str) -> None:
    event = sample("order.requested.v1")
    headers, key, _ = record(event)
    change(event["data"])
    assert told(headers, key, json.dumps(event["data"]).encode()) == (code, where)


@pytest.mark.parametrize(
    ("value", "code", "where"),
    [
        (b"", "malformed_json", "value"),
        (b"{", "malformed_json", "value"),
        (b"\xff\xfe{}", "malformed_json", "value"),
        (b'{"amount_minor": NaN}', "malformed_json", "amount_minor"),
        (b'{"items": [{"quantity": 1e999}]}', "malformed_json", "items[0].quantity"),
        (b'{"amount_minor": 1, "amount_minor": 2}', "malformed_json", "amount_minor"),
        (b'{"items": [{"title": "\\ud800"}]}', "malformed_json", "items[0].title"),
        (b'{"items": [{"title": "\\u0000"}]}', "malformed_json", "items[0].title"),
        (b'{"amount_minor": 111111111111111111111}', "malformed_json", "amount_minor"),
        (b"[" * 21 + b"]" * 21, "malformed_json", "value"),
        (b"[]", "invalid_field", "value"),
        (b'{"a": "' + b"x" * 65_536 + b'"}', "too_large", "value"),
    ],
)
def test_a_body_that_is_no_strict_json_is_refused_where_it_ends(value: bytes, code: str, where: str) -> None:
    headers, key, _ = record(sample("order.requested.v1"))
    assert told(headers, key, value) == (code, where)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        *((name, None, "missing_header") for name in ("ce_specversion", "ce_id", "ce_source", "ce_type")),
        ("ce_specversion", b"0.3", "invalid_header"),
        ("ce_id", b"", "invalid_header"),
        ("ce_id", b"x" * 129, "invalid_header"),
        ("ce_source", b"\xff", "invalid_header"),
        ("ce_source", b"a\x00b", "invalid_header"),
        ("ce_type", b"order.placed.v1", "unknown_type"),
        ("ce_time", b"2026-03-14T01:59:26", "invalid_header"),
        ("ce_correlationid", b"x" * 129, "invalid_header"),
        ("content-type", b"application/cloudevents+json", "invalid_header"),
    ],
)
def test_a_header_that_is_wrong_is_named(name: str, value: bytes | None, code: str) -> None:
    headers, key, body = record(sample("order.requested.v1"))
    changed = [(each, text) for each, text in headers if each != name]
    if value is not None:
        changed.append((name, value))
    assert told(changed, key, body) == (code, name)


def test_ids_are_any_text_and_a_broken_trace_loses_no_order() -> None:
    event = sample("order.requested.v1") | {"id": "订单 № 1 / ' \" \\", "source": "茶馆", "traceparent": "broken"}
    headers, key, body = record(event)
    read = inbound.read(headers, key, body)
    assert (read.id, read.source, read.traceparent) == (event["id"], event["source"], None)
    assert told([*headers, ("ce_id", b"again")], key, body) == ("invalid_header", "ce_id")


def test_the_order_service_is_asked_and_nobody_tells() -> None:
    assert [request.TYPE for request in asyncapi.asked("order")] == list(REQUESTS)
    operations = asyncapi.document("order")["operations"]
    assert operations["receive-order-inbound-v1"]["action"] == "receive"
    assert "send-order-inbound-v1" not in operations
