"""Requests broken in every way a publisher finds, each with the reason and the field that it must be told by."""

import json
from collections.abc import Callable
from typing import Any

from defray_kernel.ids import MerchantId, uuid7
from defray_kernel.parking import ParkedRecord

from .asking import changed, record, request

Break = Callable[[MerchantId, str], ParkedRecord]


def _text(merchant: MerchantId, number: str, old: str, new: str) -> ParkedRecord:
    good = record(request(merchant, number))
    assert good.value is not None
    text = good.value.decode()
    assert old in text
    return changed(good, value=text.replace(old, new, 1).encode())


def _body(merchant: MerchantId, number: str, change: Callable[[dict[str, Any]], object]) -> ParkedRecord:
    body = request(merchant, number)
    good = record(body)
    change(body)
    return changed(good, value=json.dumps(body).encode())


def _without_header(name: str) -> Break:
    def broken(merchant: MerchantId, number: str) -> ParkedRecord:
        good = record(request(merchant, number))
        return changed(good, headers=[(each, value) for each, value in good.headers if each != name])

    return broken


BREAKS: dict[str, tuple[Break, str, str]] = {
    "not JSON": (lambda m, n: changed(record(request(m, n)), value=b"<order/>"), "malformed_json", "value"),
    "empty": (lambda m, n: changed(record(request(m, n)), value=None), "malformed_json", "value"),
    "NaN": (lambda m, n: _text(m, n, '"amount_minor": 300', '"amount_minor": NaN'), "malformed_json", "amount_minor"),
    "a key twice": (
        lambda m, n: _text(m, n, '"quantity": 2', '"quantity": 2, "quantity": 3'), "malformed_json", "items[0].quantity",
    ),
    "a lone surrogate": (lambda m, n: _text(m, n, '"Cup"', '"\\ud800"'), "malformed_json", "items[1].title"),
    "a field missing": (lambda m, n: _body(m, n, lambda b: b["items"][0].pop("sku")), "missing_field", "items[0].sku"),
    "a field too many": (lambda m, n: _body(m, n, lambda b: b.update(expires=60)), "unknown_field", "expires"),
    "a wrong type": (lambda m, n: _body(m, n, lambda b: b.update(amount_minor="300")), "invalid_amount", "amount_minor"),
    "an unknown currency": (lambda m, n: _body(m, n, lambda b: b.update(currency="XYZ")), "unsupported_currency", "currency"),
    "a total off by one": (lambda m, n: _body(m, n, lambda b: b.update(amount_minor=301)), "amount_mismatch", "amount_minor"),
    "a bad quantity": (
        lambda m, n: _body(m, n, lambda b: b["items"][1].update(quantity=-1)), "invalid_field", "items[1].quantity",
    ),
    "no id": (_without_header("ce_id"), "missing_header", "ce_id"),
    "an unknown type": (lambda m, n: record(request(m, n), type_="order.paid.v1"), "unknown_type", "ce_type"),
    "too large": (
        lambda m, n: _body(m, n, lambda b: b["items"][0].update(title="x" * 70_000)), "too_large", "value",
    ),
    "an unknown merchant": (lambda _, n: record(request(MerchantId(uuid7()), n)), "unknown_merchant", "merchant_id"),
    "the key of another": (lambda m, n: changed(record(request(m, n)), key=b"another"), "key_mismatch", "key"),
}  # fmt: skip
"""By a name for people."""
