"""What is asked of the order service in its catalogue of bad input: every POST route, a client that makes one mistake, and digests."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from defray_kernel.clock import SystemClock
from defray_kernel.ids import uuid7
from defray_kernel.timers import run_once
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.entrypoints.granting import granting_timer
from defray_sandbox.stack.provision import ProvisionedDatabase
from tests.e2e import corpus

from .running import ENVELOPE, Answer, Service, Shop, order_body
from .test_refund_requests_http import paid

Told = tuple[int, str, str | None]

ITEM: Final = {
    "sku": "tea", "title": "Tea MARK", "quantity": 2, "unit_amount_minor": 5_000, "discount_minor": 200,
    "benefits": ["bft_" + "0" * 32],
}  # fmt: skip
TIMES: Final = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00+08:00")
SENT: Final = ("41111111", "4111 1111", "x" * 60, str(2**63), str(10**12 + 1), "MARK", "CANARY", "sk_test")
"""What no answer may hold, wherever it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A POST route with a body whose every field is well-formed, but that is refused in the end; so no mistake gets through."""

    path: str
    body: dict[str, Any]
    required: set[str] = field(default_factory=set)
    keyed: bool = True
    blind: set[str] = field(default_factory=set)  # mistakes that are none, or that are told of another field


ROUTES: Final = (
    Route(
        path="/v1/orders",
        body={
            "merchant_order_no": "MARK-1", "currency": "CNY", "amount_minor": 9_800, "items": [ITEM], "expires_in_s": 600,
            "buyer": {"name": "MARK", "email": "MARK@example.com", "phone": "+8613800000000", "customer_ref": "MARK"},
            "coupon_codes": ["AAAAA-AAAAA-AAAAA-AAAAA"],
        },
        required={"merchant_order_no", "currency", "amount_minor", "items"},
        blind={f"buyer{name} = 'None'" for name in ("", ".name", ".email", ".phone", ".customer_ref")},
    ),
    Route(path="/v1/orders/{paid}/cancel", body={"reason": "MARK"}, keyed=False, blind={"reason = 'None'"}),
    Route(
        path="/v1/orders/{placed}/refund-requests", body={"amount_minor": 1, "reason": "MARK"}, required={"reason", "amount_minor"}
    ),
    Route(
        path="/v1/orders/{placed}/refund-requests",
        body={"lines": [{"line": 1, "quantity": 1}], "reason": "MARK"},
        blind={"lines = 'None'"},
    ),
    Route(
        path="/v1/benefits",
        body={
            "name": "MARK", "kind": "coupon", "currency": "EUR", "stock": 5,
            "coupon": {
                "value": "percent", "basis_points": 100, "cap_minor": 5, "minimum_minor": 0, "uses_max": 1,
                "valid_from": TIMES[0], "valid_until": TIMES[1], "valid_days": 3,
            },
            "rule": {"minimum_minor": 1, "starts_at": TIMES[0], "ends_at": TIMES[1]},
        },
        required={"name", "kind", "coupon", "currency"},
        blind={
            "stock = 'None'", "coupon.cap_minor = 'None'", "coupon.valid_from = 'None'", "coupon.valid_until = 'None'",
            "coupon.valid_days = 'None'", "coupon.basis_points = 'None'", "rule = 'None'", "rule.starts_at = 'None'",
            "rule.ends_at = 'None'",
        },
    ),
    Route(path="/v1/buyers/erase", body={"email": "MARK@example.com"}, keyed=False, blind={"email = 'None'"}),
)  # fmt: skip
WITHOUT_JSON: Final = {"/v1/orders/{order_id}/fulfil", "/v1/benefits/{benefit_id}/archive"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Both merchants have an order that waits, one that was paid and a request to refund some of it, a benefit, a coupon."""

    service: Service
    ids: dict[str, dict[str, str]]  # by API key, by kind

    async def ask(
        self, method: str, path: str, raw: bytes = b"", *, by: Shop | None = None, **headers: str | None
    ) -> Answer:
        """One request as a good client makes it, but for what is given; None leaves a header out."""
        shop = by or self.service.one
        sent: dict[str, str | None] = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {shop.api_key}",
            "Idempotency-Key": uuid7().hex,
        }
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in sent.items() if value is not None}
        url = self.service.url + path.format_map(self.ids[shop.api_key])
        async with self.service.http.request(
            method, url, data=raw, headers=kept, skip_auto_headers=["Content-Type"]
        ) as reply:
            text = await reply.text()
            assert reply.status < 500, (method, path[:100], text)
            if reply.status >= 400:
                assert not [each for each in SENT if each in text], (method, path[:100], text)
                assert reply.headers["Content-Type"] == "application/problem+json"
            return Answer(
                reply.status, json.loads(text) if "json" in reply.headers["Content-Type"] else text, reply.headers
            )

    async def post(self, path: str, body: object, **headers: str | None) -> Told:
        return told(await self.ask("POST", path, json.dumps(body).encode(), **headers))

    async def get(self, path: str, *, by: Shop | None = None) -> Told:
        return told(await self.ask("GET", path, by=by))

    def head(self, path: str) -> bytes:
        """The beginning of a good request to a POST route."""
        shop = self.service.one
        line = f"POST {path.format_map(self.ids[shop.api_key])} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
        return f"{line}Authorization: Bearer {shop.api_key}\r\nContent-Type: application/json\r\n".encode()

    async def raw(self, data: bytes, *, within_s: float = 15) -> bytes:
        """What is answered to these bytes before the connection is closed."""
        host, port = self.service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.timeout(within_s):
                writer.write(data)
                return await reader.read()
        finally:
            writer.close()


def told(answer: Answer) -> Told:
    body = answer.body if isinstance(answer.body, dict) else {}
    return answer.status, body.get("code", ""), body.get("field")


async def seed(service: Service) -> Desk:
    """Two merchants with what a desk has."""
    desk = Desk(service=service, ids={service.one.api_key: {}, service.other.api_key: {}})
    codes, clock = CouponCodes(service.database, ENVELOPE), SystemClock()
    for shop in (service.one, service.other):
        ids = desk.ids[shop.api_key]

        async def make(path: str, body: object, shop: Shop = shop) -> Any:  # noqa: ANN401 - its JSON
            answer = await service.call("POST", path, by=shop, body=body, key=uuid7().hex)
            assert answer.status == 201, answer
            return answer.body

        coupon = {"value": "percent", "basis_points": 10_000, "uses_max": 100}
        wanted = {"name": "all", "kind": "coupon", "currency": "CNY", "coupon": coupon, "rule": {}}
        ids["benefit"] = (await make("/v1/benefits", wanted))["benefit_id"]
        order = await make("/v1/orders", order_body("no-1", buyer={"email": "a@example.com"}))
        ids |= {
            "placed": order["order_id"],
            "token": order["payment_token"],
            "paid": await paid(service, by=shop),
            "part": await paid(service, by=shop),
        }
        await run_once(service.database, granting_timer(service.database, clock, codes, None), clock)
        brought = await service.call("GET", f"/v1/orders/{ids['paid']}/grants", by=shop)
        ids["code"] = brought.body["data"][0]["coupon_code"]
        wish = {"amount_minor": 100, "reason": "returned"}
        ids["request"] = (await make(f"/v1/orders/{ids['part']}/refund-requests", wish))["refund_request_id"]
    return desk


async def digests(database: ProvisionedDatabase) -> dict[str, str]:
    """One hash of each table's rows."""
    owner = await asyncpg.connect(database.owner_dsn("order"))
    try:
        tables = [row[0] for row in await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'orders'")]
        assert "orders" in tables
        text = "SELECT coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM orders.{} AS t"
        return {table: await owner.fetchval(text.format(table)) for table in tables}
    finally:
        await owner.close()


async def changed(database: ProvisionedDatabase, before: dict[str, str]) -> set[str]:
    """Tables of which any row is another now."""
    after = await digests(database)
    return {table for table in after if after[table] != before[table]}


def texts(body: dict[str, Any], card: str) -> list[tuple[str, dict[str, Any]]]:
    """The body with a card number in place of each of its texts, and where that is."""
    return [(mistake.field, mistake.body) for mistake in corpus.placed(body, card)]
