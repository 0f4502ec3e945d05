"""What strangers publish in tests: a request as a record, in Kafka's binary mode."""

import dataclasses
import itertools
import json
from typing import Any

import msgspec

from defray_kernel.contracts import inbound
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, parse, show, uuid7
from defray_kernel.parking import ParkedRecord

_offsets = itertools.count()


def request(merchant_id: MerchantId, number: str, **changes: object) -> dict[str, Any]:
    """The body of an acceptable order of 3.00 CNY."""
    lines = [
        {"sku": "tea", "title": "Tea 茶", "quantity": 2, "unit_amount_minor": 120},
        {"sku": "cup", "title": "Cup", "quantity": 1, "unit_amount_minor": 90, "discount_minor": 30},
    ]
    body = {
        "merchant_id": show("mer", merchant_id),
        "merchant_order_no": number,
        "currency": "CNY",
        "amount_minor": 300,
    }
    return body | {"items": lines} | changes


def cancel(merchant_id: MerchantId, number: str, **changes: object) -> dict[str, Any]:
    return {"merchant_id": show("mer", merchant_id), "merchant_order_no": number} | changes


def record(
    body: object, *, id_: str | None = None, type_: str = "order.requested.v1", **headers: bytes
) -> ParkedRecord:
    """A record as Kafka brings it; `headers` replace or add, under their names without `ce_`."""
    plain = isinstance(body, dict)
    key = inbound.key_of(body["merchant_id"], body["merchant_order_no"]).encode() if plain else b"key"  # type: ignore[index]
    attributes = {
        "specversion": b"1.0",
        "id": (id_ or uuid7().hex).encode(),
        "source": b"/shop",
        "type": type_.encode(),
    }
    return ParkedRecord(
        topic="order.inbound.v1",
        partition=0,
        offset=next(_offsets),
        timestamp=1_700_000_000_000,
        key=key,
        value=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers=[(f"ce_{name}", value) for name, value in (attributes | headers).items()],
    )


def changed(original: ParkedRecord, **changes: Any) -> ParkedRecord:  # noqa: ANN401 - whatever the record has
    return dataclasses.replace(original, **changes)


async def know(database: Database, state: MerchantState) -> None:
    """Put a merchant into the projection."""
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO merchant (merchant_id, sequence, status, state, changed_at) VALUES ($1, 1, $2, $3, now())"
            " ON CONFLICT (merchant_id) DO UPDATE SET status = excluded.status, state = excluded.state",
            parse("mer", state.merchant_id),
            state.status,
            msgspec.json.encode(state),
        )
