"""What leaves the process in words: log lines without secrets, problems from one registry, OpenAPI that others can read."""

from __future__ import annotations

import io
import json
import logging as std_logging
from collections.abc import Iterator

import pytest
import structlog
from jsonschema import Draft202012Validator

from defray_kernel import logging, metrics, problems, redaction, trace
from defray_kernel.db import Database
from shared.tests.edge import toy

CANARIES = {
    "api_key": "plainvalue-canary-1",
    "client_secret": "plainvalue-canary-2",
    "Authorization": "plainvalue-canary-3",
    "payment_token": "plainvalue-canary-4",
    "wechatpay_signature": "plainvalue-canary-5",
    "password": "plainvalue-canary-6",
    "database_dsn": "postgresql://u:canary-7@h/d",
    "key": "plainvalue-canary-8",
    "private_pem": "plainvalue-canary-9",
    "set_cookie": "plainvalue-canary-10",
    "text1": "used sk_live_canary11AAAA here",
    "text2": "used sk_test_canary12BBBB",
    "text3": "Bearer canary13.abc",
    "text4": "-----BEGIN PRIVATE KEY-----\ncanary14\n-----END PRIVATE KEY-----",
    "text5": "-----BEGIN RSA PRIVATE KEY-----\ncanary15 truncated",
    "text6": "card 4111 1111 1111 1111",
    "text7": "6222021234567890128",
    "text8": "whsec_canary16AAAA",
    "text9": "eyJhbGciOiJFZERTQSJ9.eyJjYW5hcnkiOjE3fQ.c2ln",
    "text10": "connecting to postgresql://user:canary18@host/db failed",
    "number": 4111111111111111,
}


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = std_logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    logging.configure("toy", "debug", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def leaked(text: str) -> bool:
    return any(word in text for word in ("canary", "4111 1111", "41111111", "622202", "eyJjYW5hcnk"))


def test_no_secret_reaches_the_log(stream: io.StringIO) -> None:
    log = structlog.get_logger()
    for name, value in CANARIES.items():
        log.info("plain", **{name: value})
        log.info("nested", outer={"list": [{name: value}]})
        log.info(str(value) if name.startswith("text") else "in_text")
        std_logging.getLogger("aiokafka").warning("library says %s", value if name.startswith("text") else "")
        try:
            raise ValueError(value if name.startswith("text") else "x")
        except ValueError:
            log.exception("failed")
            std_logging.getLogger("lib").exception("failed")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6 * len(CANARIES)
    for line in lines:
        assert not leaked(line), line
        assert json.loads(line)["service"] == "toy"


def test_control_characters_stay_on_one_line_and_cannot_break_out(stream: io.StringIO) -> None:
    evil = 'a\nb\r\n{"level":"critical"}\x1b[31m\x00\u2028\u202e"}'
    structlog.get_logger().warning(evil, field=evil, **{"na\nme": 1})
    std_logging.getLogger("lib").error(evil)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        entry = json.loads(line)
        assert entry["level"] in {"warning", "error"}
        assert not any(ord(character) < 32 for value in entry.values() for character in str(value))


def test_what_is_no_secret_is_logged_as_it_is(stream: io.StringIO) -> None:
    fine = {
        "order": "ord_" + "1" * 32,
        "merchant_order_no": "2024010112345678",
        "key_id": "k1",
        "amount": 1999,
        "at": 1.5,
        "ok": True,
        "none": None,
    }
    structlog.get_logger().info("fine", **fine)
    entry = json.loads(stream.getvalue())
    assert {name: entry[name] for name in fine} == fine


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4111111111111111", True), ("4111-1111-1111-1111", True), ("5500005555555559", True), ("6222021234567890128", True),
        ("4111111111111112", False), ("411111111111111", False), ("ord_41111111111111114111111111111111", False),
        ("2024010112345678", False), ("1700000000000000", False), ("٤١١١١١١١١١١١١١١١", False), ("a4111111111111111", False),
    ],
)  # fmt: skip
def test_card_numbers_are_told_from_other_numbers(text: str, found: bool) -> None:
    assert redaction.has_card_number(text) is found


async def test_the_openapi_document_names_every_route_and_resolves(database: Database) -> None:
    edge = toy.build(database).public
    document = edge.openapi()
    assert json.dumps(document) == json.dumps(toy.build(database).public.openapi())
    assert document["openapi"] == "3.1.0"
    declared = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert declared == {(spec.path, spec.method) for spec in edge.routes}
    place = document["paths"]["/v1/notes"]["post"]
    assert place["security"] == [{"api_key": []}]
    assert any(parameter["name"] == "Idempotency-Key" and parameter["required"] for parameter in place["parameters"])
    for status in ("201", "400", "401", "403", "404", "409", "413", "415", "422", "429", "503"):
        assert status in place["responses"], status
    references = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/')[1:]}
    for reference in references:
        node = document
        for part in reference.split("/"):
            node = node[part]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert document["components"]["schemas"]["PlaceNote"]["additionalProperties"] is False


def test_problem_codes_are_registered_once() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        problems.registry(problems.ProblemKind(code="not_found", status=404, title="again"))
    known = problems.registry(problems.ProblemKind(code="order_conflict", status=409, title="Conflict"))
    assert known.encode(problems.Problem("order_conflict", detail="d"), "c")[0] == 409
    status, body = known.encode(problems.Problem("never_declared", detail="secret"), "c")
    assert status == 500
    assert b"secret" not in body


def test_trace_context_continues_or_starts() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    ours = trace.continued(given)
    assert trace.trace_id(ours) == trace.trace_id(given)
    assert ours != given
    assert ours.endswith("-00")
    for bad in (
        None,
        "",
        "x",
        given + "-x",
        given.replace("4bf9", "4BF9"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{'a' * 32}-{'0' * 16}-01",
    ):
        assert trace.trace_id(trace.continued(bad)) not in {"0" * 32, "a" * 32}


def test_metrics_are_prometheus_text() -> None:
    metrics.count("security_events", kind="test")
    metrics.gauge("parked_keys", 3, consumer="c")
    metrics.observe("http_seconds", 0.02, route="r")
    text = metrics.exposition().decode()
    for line in (
        'defray_security_events_total{kind="test"} 1.0',
        'defray_parked_keys{consumer="c"} 3.0',
        'defray_http_seconds_count{route="r"} 1.0',
    ):
        assert line in text
