"""Lists and exports of orders: pages that miss and repeat nothing, cursors that open for nobody else, CSV in bounded memory."""

import csv
import datetime as dt
import io
import tracemalloc
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.order_inbound_v1 import OrderRequested
from defray_kernel.db import Database
from defray_kernel.ids import show
from defray_order.commands.wishes import FieldProblem, wish_from
from defray_order.store.inbound import KnownMerchant
from defray_sandbox.stack.provision import ProvisionedDatabase

from .running import Answer, Service, Shop, order_body, shop

T0 = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


@pytest_asyncio.fixture
async def owner(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as its owner has it."""
    async with Database.open(migrated.owner_dsn("order")) as opened:
        yield opened


async def plant(owner: Database, shop: Shop, count: int, *, number: str = "n-") -> list[str]:
    """Orders a second apart, all of them placed at T0 or later."""
    async with owner.transaction() as tx:
        rows = await tx.fetch(
            "INSERT INTO orders (order_id, merchant_id, merchant_order_no, state, currency, amount_minor, content_hash, "
            "correlation_id, placed_at, expires_at, version, event_seq) "
            "SELECT gen_random_uuid(), $1, $2::text || n, 'PLACED', 'CNY', n, sha256('x'), 'c', $3::timestamptz + n * interval '1 s', "
            "$3::timestamptz + interval '40 days', 1, 1 FROM generate_series(0, $4::integer - 1) AS n RETURNING order_id, amount_minor",
            shop.merchant_id,
            number,
            T0,
            count,
        )
    return [show("ord", row["order_id"]) for row in sorted(rows, key=lambda row: row["amount_minor"])]


async def listed(service: Service, by: Shop | None = None, /, **query: object) -> Answer:
    return await service.call("GET", f"/v1/orders?{urlencode(query)}", by=by or service.one)


async def walk(service: Service, **query: object) -> list[str]:
    """All pages, one after the other."""
    found: list[str] = []
    cursor: dict[str, object] = {}
    for _ in range(20):
        page = await listed(service, None, **query, **cursor)
        assert page.status == 200, page.body
        found += [each["order_id"] for each in page.body["data"]]
        if page.body["next_cursor"] is None:
            return found
        cursor = {"cursor": page.body["next_cursor"]}
    raise AssertionError("the pages do not end")


async def test_pages_join(service: Service, owner: Database) -> None:
    made = await plant(owner, service.one, 7)
    await plant(owner, service.other, 3)
    for limit in (1, 2, 3, 7, 100):
        assert await walk(service, limit=limit) == made


async def test_orders_of_one_moment_are_told_apart(service: Service, owner: Database) -> None:
    made = await plant(owner, service.one, 9)
    async with owner.transaction() as tx:
        await tx.execute("UPDATE orders SET placed_at = $1", T0)
    assert await walk(service, limit=2) == sorted(made)


async def test_what_is_new_comes_behind_and_nothing_shifts(service: Service, owner: Database) -> None:
    made = await plant(owner, service.one, 7)
    first = await listed(service, limit=3)
    new = (await service.place(order_body("new"))).body["order_id"]
    second = await listed(service, limit=100, cursor=first.body["next_cursor"])
    assert [each["order_id"] for each in second.body["data"]] == [*made[3:], new]


async def test_filters(service: Service, owner: Database) -> None:
    made = await plant(owner, service.one, 7)
    third = (await service.call("GET", f"/v1/orders/{made[2]}", by=service.one)).body
    assert await walk(service, created_from=third["placed_at"], limit=2) == made[2:]
    assert await walk(service, created_before=third["placed_at"]) == made[:2]
    assert await walk(service, merchant_order_no="n-4") == [made[4]]
    assert await walk(service, merchant_order_no="n-9") == []
    assert await walk(service, status="PLACED", limit=3) == made
    assert await walk(service, status="PAID") == []
    row = (await listed(service, limit=1)).body["data"][0]
    assert row["merchant_id"] == show("mer", service.one.merchant_id)
    assert (row["amount_minor"], row["currency"], row["refunded_minor"], row["status"]) == (0, "CNY", 0, "PLACED")


async def test_a_cursor_opens_for_its_caller_and_its_filters_only(service: Service, owner: Database) -> None:
    made = await plant(owner, service.one, 4)
    cursor = (await listed(service, limit=2)).body["next_cursor"]
    assert (await listed(service, limit=5, cursor=cursor)).status == 200
    assert made[1] not in bytes.fromhex(cursor).decode("latin-1")
    forged = cursor[:-2] + ("00" if cursor[-2:] != "00" else "01")
    attempts = [
        await listed(service, service.other, cursor=cursor),
        await listed(service, status="PAID", cursor=cursor),
        await listed(service, email="ann@example.cn", cursor=cursor),
        *[
            await listed(service, cursor=text)
            for text in (forged, cursor[2:], "", "zz", "00" * 60, "x" * 5000, made[0])
        ],
    ]
    for answer in attempts:
        assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_parameter", "cursor")


WRONG = (
    ("limit", "0"),
    ("limit", "101"),
    ("limit", "1e1"),
    ("limit", "٣"),
    ("status", "paid"),
    ("created_from", "yesterday"),
    ("created_from", "2026-01-01T00:00:00"),
    ("created_before", "9999-12-31T23:59:59-23:59"),
    ("merchant_order_no", ""),
    ("merchant_order_no", "x" * 65),
    ("email", "ann"),
    ("phone", "123"),
    ("customer_ref", ""),
)


async def test_a_bad_filter_is_named_and_an_unknown_one_refused(service: Service) -> None:
    for name, value in WRONG:
        answer = await listed(service, None, **{name: value})
        assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_parameter", name), value
    assert (await listed(service, page="2")).status == 400


async def test_a_suspended_merchant_places_nothing_sees_all_and_cancels(service: Service, owner: Database) -> None:
    refused = await service.place(order_body("no-1"), by=service.suspended)
    assert (refused.status, refused.body["code"]) == (403, "merchant_suspended")
    made = await plant(owner, service.suspended, 2)
    found = await listed(service, service.suspended)
    assert [each["order_id"] for each in found.body["data"]] == made
    assert (await service.call("GET", f"/v1/orders/{made[0]}", by=service.suspended)).status == 200
    ending = await service.call("POST", f"/v1/orders/{made[1]}/cancel", by=service.suspended, body={})
    assert (ending.status, ending.body["status"]) == (200, "CLOSING"), ending.body
    erasing = await service.call("POST", "/v1/buyers/erase", by=service.suspended, body={"customer_ref": "c-1"})
    assert erasing.status == 200


def test_a_suspended_merchant_places_nothing_by_event_either() -> None:
    seller = shop("suspended")
    asked = msgspec.convert(order_body("no-1") | {"merchant_id": show("mer", seller.merchant_id)}, OrderRequested)
    for suspended, refused in ((True, "merchant_suspended"), (False, None)):
        known = KnownMerchant(merchant_id=seller.merchant_id, state=seller.state(["orders:write"], suspended=suspended))
        wish = wish_from(asked, known, cause=Cause(correlation_id="c"))
        assert (wish.code if isinstance(wish, FieldProblem) else None) == refused


def export_url(service: Service, **query: str) -> str:
    span = {"created_from": T0.isoformat(), "created_before": (T0 + dt.timedelta(days=31)).isoformat()}
    return f"{service.url}/v1/orders/export.csv?{urlencode(span | query)}"


def key(shop: Shop) -> dict[str, str]:
    return {"Authorization": f"Bearer {shop.api_key}"}


async def exported(service: Service, **query: str) -> list[dict[str, str]]:
    async with service.http.get(export_url(service, **query), headers=key(service.one)) as reply:
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
        assert "Content-Length" not in reply.headers
        return list(csv.DictReader(io.StringIO((await reply.read()).decode())))


async def test_an_export_holds_what_the_list_holds(service: Service, owner: Database) -> None:
    made = await plant(owner, service.one, 2_345)
    await plant(owner, service.other, 3)
    rows = await exported(service)
    assert [row["order_id"] for row in rows] == made
    assert (rows[7]["merchant_order_no"], rows[7]["amount_minor"], rows[7]["currency"]) == ("n-7", "7", "CNY")
    assert (rows[7]["placed_at"], rows[7]["paid_at"]) == ("2026-03-01T00:00:07.000000Z", "")
    assert await exported(service, status="PAID") == []
    assert await exported(service, created_before="2026-03-01T00:00:02Z") == rows[:2]


async def test_no_cell_is_a_formula(service: Service, owner: Database) -> None:
    for number in ("=1+1", "+1", "-1", "@SUM(A1)", 'a,"b";=c', "'=d"):
        await plant(owner, service.one, 1, number=number)
    numbers = {row["merchant_order_no"] for row in await exported(service)}
    assert numbers == {"'=1+10", "'+10", "'-10", "'@SUM(A1)0", 'a,"b";=c0', "'=d0"}


async def test_an_export_needs_its_span(service: Service) -> None:
    late = (T0 + dt.timedelta(days=31, seconds=1)).isoformat()
    for query, field in (
        ({"created_from": "x"}, "created_from"),
        ({"created_before": late}, "created_before"),
        ({"created_before": T0.isoformat()}, "created_before"),
        ({"status": "x"}, "status"),
        ({"page": "1"}, None),
    ):
        async with service.http.get(export_url(service, **query), headers=key(service.one)) as reply:
            problem = await reply.json(content_type=None)
            assert (reply.status, problem["code"], problem.get("field")) == (400, "invalid_parameter", field)
    bare = await service.call("GET", "/v1/orders/export.csv", by=service.one)
    assert (bare.status, bare.body["field"]) == (400, "created_from")
    assert (await service.call("GET", "/v1/orders/export.csv")).status == 401


async def test_an_export_is_sent_in_bounded_memory_and_one_at_a_time(service: Service, owner: Database) -> None:
    await plant(owner, service.one, 40_000)
    async with service.http.get(export_url(service), headers=key(service.one)) as reply:
        assert reply.status == 200
        await reply.content.readany()
        async with service.http.get(export_url(service), headers=key(service.one)) as second:
            assert (second.status, second.headers["Retry-After"]) == (429, "10")
        async with service.http.get(export_url(service), headers=key(service.other)) as theirs:
            assert (theirs.status, (await theirs.read()).count(b"\n")) == (200, 1)
        tracemalloc.start()
        size = 0
        while part := await reply.content.readany():
            size += len(part)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert size > 4_000_000
    assert peak < size / 2, f"{size} bytes were sent, {peak} held at once"
    async with service.http.get(export_url(service, status="PAID"), headers=key(service.one)) as again:
        assert again.status == 200


async def test_an_export_that_fails_on_its_way_is_seen_to_be_cut(service: Service, owner: Database) -> None:
    await plant(owner, service.one, 30_000)
    async with service.http.get(export_url(service), headers=key(service.one)) as reply:
        assert reply.status == 200
        await reply.content.readany()
        async with owner.transaction() as tx:
            await tx.execute("REVOKE SELECT ON orders FROM defray_order")
        with pytest.raises(aiohttp.ClientPayloadError):
            while await reply.content.readany():
                pass
    async with owner.transaction() as tx:
        await tx.execute("GRANT SELECT ON orders TO defray_order")
    assert len(await exported(service)) == 30_000
