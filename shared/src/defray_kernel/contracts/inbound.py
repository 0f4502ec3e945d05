"""How a stranger's record is read: CloudEvents attributes and a strict body, or the one field that is wrong and why."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from defray_kernel import money, redaction, strict_json
from defray_kernel.contracts.envelope import NOT_TEXT, SPEC_VERSION
from defray_kernel.contracts.order_inbound_v1 import OrderCancelRequested, OrderRequested, RequestData, total_mismatch

R = TypeVar("R", bound=RequestData)
Headers = Sequence[tuple[str, bytes]]

REQUESTS: Final[dict[str, type[RequestData]]] = {each.TYPE: each for each in (OrderRequested, OrderCancelRequested)}
ID_MAX: Final = 128
SOURCE_MAX: Final = 256
_CORRELATION_MAX: Final = 128
_HEADERS_BYTES_MAX: Final = 16 * 1024
_KEY_BYTES_MAX: Final = 256
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED: Final = re.compile(r"^Object (missing required|contains unknown) field `([^`]*)`")
_AMOUNTS: Final = frozenset({"amount_minor", "unit_amount_minor", "discount_minor"})
_LONE: Final = re.compile(r"[\ud800-\udfff\x00]")


class Unusable(Exception):
    """A record that can never be used: a stable `code`, the `field` that is wrong, and our own words, never the input."""

    def __init__(self, code: str, field: str, detail: str) -> None:
        super().__init__(f"{field}: {code}: {detail}")
        self.code, self.field, self.detail = code, field, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Generic[R]):
    """One request. `source` and `id` together tell a repeat; `correlation_id` is None where the publisher gave none."""

    source: str
    id: str
    correlation_id: str | None
    traceparent: str | None
    data: R


def key_of(merchant_id: str, merchant_order_no: str) -> str:
    """The Kafka key of everything about one order: `<merchant_id>/<merchant_order_no>`."""
    return f"{merchant_id}/{merchant_order_no}"


def read(headers: Headers, key: bytes | None, value: bytes | None) -> Request[Any]:
    """The request in a record. Raises Unusable for the first thing that is wrong: headers, then body, then key."""
    attributes = _attributes(headers)
    data_class = REQUESTS.get(attributes["ce_type"])
    if data_class is None:
        raise Unusable("unknown_type", "ce_type", f"must be one of {', '.join(REQUESTS)}")
    data = _body(value, data_class)
    if key is None or key != key_of(data.merchant_id, data.merchant_order_no).encode():
        raise Unusable("key_mismatch", "key", "must be <merchant_id>/<merchant_order_no> of the body")
    trace = attributes.get("traceparent")
    return Request(
        source=attributes["ce_source"],
        id=attributes["ce_id"],
        correlation_id=attributes.get("ce_correlationid"),
        # A broken trace is no reason to lose an order.
        traceparent=trace if trace is not None and _TRACEPARENT.fullmatch(trace) else None,
        data=data,
    )


def _attributes(headers: Headers) -> Mapping[str, str]:
    if sum(len(name) + len(value or b"") for name, value in headers) > _HEADERS_BYTES_MAX:
        raise Unusable("too_large", "headers", f"more than {_HEADERS_BYTES_MAX} bytes")
    if any(NOT_TEXT in name for name, _ in headers):
        raise Unusable("headers_unreadable", "headers", "the name of a header is not UTF-8 text")
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith("ce_") or name in {"content-type", "traceparent"}:
            if name in found:
                raise Unusable("invalid_header", _plain(name), "stands twice")
            found[name] = _text(name, value)
    for name, length_max in (("ce_specversion", 8), ("ce_id", ID_MAX), ("ce_source", SOURCE_MAX), ("ce_type", 200)):
        if name not in found:
            raise Unusable("missing_header", name, "is missing")
        if not 1 <= len(found[name]) <= length_max:
            raise Unusable("invalid_header", name, f"must have 1 to {length_max} characters")
    if found["ce_specversion"] != SPEC_VERSION:
        raise Unusable("invalid_header", "ce_specversion", f"must be {SPEC_VERSION}")
    if found.get("content-type", "application/json").partition(";")[0].strip().lower() != "application/json":
        raise Unusable("invalid_header", "content-type", "must be application/json (CloudEvents binary mode)")
    if not 1 <= len(found.get("ce_correlationid", "-")) <= _CORRELATION_MAX:
        raise Unusable("invalid_header", "ce_correlationid", f"must have 1 to {_CORRELATION_MAX} characters")
    _check_time(found.get("ce_time"))
    return found


def _text(name: str, value: bytes | None) -> str:
    try:
        text = (value or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable("invalid_header", _plain(name), "is not UTF-8 text") from None
    if _CONTROL.search(text):
        raise Unusable("invalid_header", _plain(name), "holds a control character")
    return text


def _check_time(text: str | None) -> None:
    if text is None:
        return
    try:
        if dt.datetime.fromisoformat(text).tzinfo is not None:
            return
    except ValueError:
        pass
    raise Unusable("invalid_header", "ce_time", "must be a time of RFC 3339 with its offset")


def _body(value: bytes | None, data_class: type[R]) -> R:
    if not value:
        raise Unusable("malformed_json", "value", "the body is empty")
    if len(value) > strict_json.BYTES_MAX:
        raise Unusable("too_large", "value", f"more than {strict_json.BYTES_MAX} bytes")
    try:
        tree = strict_json.loads(value)
    except strict_json.MalformedJson as error:
        raise Unusable("malformed_json", malformed_field(value), error.detail) from None
    return _checked(tree, data_class)


def _checked(tree: object, data_class: type[R]) -> R:
    _refuse_card_numbers(tree, "")
    try:
        data = msgspec.convert(tree, data_class)
    except msgspec.ValidationError as error:
        raise _unusable(str(error)) from None
    if isinstance(data, OrderRequested):
        if data.currency not in money.EXPONENTS:
            raise Unusable("unsupported_currency", "currency", "is no currency of ISO 4217 with a minor unit")
        wrong = total_mismatch(data.items, data.amount_minor, with_coupons=bool(data.coupon_codes))
        if wrong is not None:
            raise Unusable("amount_mismatch", wrong, "the amounts do not add up to the minor unit")
    return data


def _unusable(message: str) -> Unusable:
    """From msgspec's message, which names path and expectation and never the value (an unknown field's name is one)."""
    at = _PATH.search(message)
    path = at.group(1) if at else ""
    named = _NAMED.match(message)
    if named is not None:
        field = f"{path}.{_plain(named.group(2))}".lstrip(".")
        missing = named.group(1).startswith("missing")
        return Unusable(
            "missing_field" if missing else "unknown_field", field, "is missing" if missing else "is not known"
        )
    name = path.rpartition(".")[2]
    code = "invalid_amount" if name in _AMOUNTS else "unsupported_currency" if name == "currency" else "invalid_field"
    detail = _PATH.sub("", message).replace("`", "")
    # The one message that repeats what was sent.
    return Unusable(code, path or "value", "is none of the known words" if "enum value" in detail else detail[:200])


def _refuse_card_numbers(value: object, path: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if redaction.has_card_number(name):
                raise Unusable("pan_not_allowed", path or "value", "holds a card number")
            _refuse_card_numbers(item, f"{path}.{_plain(name)}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_card_numbers(item, f"{path}[{index}]")
    elif isinstance(value, (str, int)) and redaction.has_card_number(str(value)):
        raise Unusable("pan_not_allowed", path, "holds a card number")


def _plain(name: str) -> str:
    """A name as it may be shown: the publisher's own text only where it is a plain word."""
    plain = len(name) <= 64 and name.isascii() and name.replace("-", "_").isidentifier()
    return name if plain and redaction.clean(name) == name else "?"


class _Broken(str):  # noqa: SLOT000 - marks a place in a tree that is looked at once and thrown away
    """What strict reading refuses, where a tolerant reader met it."""


def malformed_field(raw: bytes) -> str:
    """Where strict JSON ends, for the publisher's eyes: the path of what is refused; `value` when it cannot be told."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, item in pairs:
            result[name] = _Broken() if name in result else item
        return result

    def constant(_: str) -> _Broken:
        return _Broken()

    def number(text: str) -> object:
        return _Broken() if Decimal(text).adjusted() > 307 else 0

    def integer(text: str) -> object:
        return _Broken() if len(text.lstrip("-")) > strict_json.INT_DIGITS_MAX else 0

    try:
        tree = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=members,
            parse_constant=constant,
            parse_float=number,
            parse_int=integer,
        )
        return _broken_at(tree, "") or "value"
    except (ValueError, RecursionError):
        return "value"


def _broken_at(value: object, path: str) -> str | None:
    if isinstance(value, _Broken) or (isinstance(value, str) and _LONE.search(value)):
        return path or "value"
    members: Sequence[tuple[str, object]] = ()
    if isinstance(value, dict):
        members = [
            (f"{path}.{_plain(name)}".lstrip("."), item) for name, item in cast("dict[str, object]", value).items()
        ]
    elif isinstance(value, list):
        members = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return next((found for inner, item in members if (found := _broken_at(item, inner)) is not None), None)
