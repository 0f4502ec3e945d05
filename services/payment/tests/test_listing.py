"""The list of payments: pages that miss and repeat nothing, filters, and cursors that open for nobody else."""

import datetime as dt
from urllib.parse import urlencode

import pytest

from .conftest import Answer, Service, Shop


async def listed(service: Service, by: Shop | str | None = None, **query: object) -> Answer:
    return await service.call("GET", f"/v1/payments?{urlencode(query)}", by=by or service.one)


async def walk(service: Service, **query: object) -> list[str]:
    """All pages, one after the other."""
    found: list[str] = []
    cursor: dict[str, object] = {}
    for _ in range(20):
        page = await listed(service, **query, **cursor)
        assert page.status == 200, page.body
        found += [each["payment_id"] for each in page.body["data"]]
        if page.body["next_cursor"] is None:
            return found
        cursor = {"cursor": page.body["next_cursor"]}
    raise AssertionError("the pages do not end")


@pytest.fixture
async def made(service: Service) -> list[str]:
    """Seven payments of one shop, a second apart, and two of another."""
    ids = []
    for second in range(7):
        service.clock.ahead = dt.timedelta(seconds=second)
        ids.append((await service.pay(service.order())).body["payment_id"])
    for _ in range(2):
        await service.pay(service.order(service.other))
    return ids


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_join(service: Service, made: list[str], limit: int) -> None:
    assert await walk(service, limit=limit) == made


async def test_what_is_new_comes_behind_and_nothing_shifts(service: Service, made: list[str]) -> None:
    first = await listed(service, limit=3)
    new = (await service.pay(service.order())).body["payment_id"]
    rest = await walk(service, limit=3)
    second = await listed(service, limit=100, cursor=first.body["next_cursor"])
    assert [each["payment_id"] for each in second.body["data"]] == [*made[3:], new]
    assert rest == [*made, new]


async def test_filters(service: Service, made: list[str]) -> None:
    third = (await service.get(made[2])).body
    assert await walk(service, order_id=third["order_id"]) == [made[2]]
    assert await walk(service, created_from=third["created_at"], limit=2) == made[2:]
    assert await walk(service, created_before=third["created_at"]) == made[:2]
    await service.close(made[4])
    assert await walk(service, status="CLOSED") == [made[4]]
    assert await walk(service, status="PENDING", limit=1) == [*made[:4], *made[5:]]
    assert await walk(service, status="SUCCEEDED") == []


async def test_a_token_lists_its_own_order_only(service: Service, made: list[str]) -> None:
    of = service.order()
    own = (await service.pay(of)).body["payment_id"]
    token = service.orders.token(of)
    assert [each["payment_id"] for each in (await listed(service, by=token)).body["data"]] == [own]
    other = (await service.get(made[0])).body["order_id"]
    assert (await listed(service, by=token, order_id=other)).body == {"data": [], "next_cursor": None}


async def test_a_cursor_opens_for_its_caller_and_its_filters_only(service: Service, made: list[str]) -> None:
    cursor = (await listed(service, limit=2)).body["next_cursor"]
    assert (await listed(service, limit=5, cursor=cursor)).status == 200
    assert made[1] not in bytes.fromhex(cursor).decode("latin-1")
    forged = cursor[:-2] + ("00" if cursor[-2:] != "00" else "01")
    attempts = [
        await listed(service, by=service.other, cursor=cursor),
        await listed(service, status="PENDING", cursor=cursor),
        await listed(service, created_from="2026-01-01T00:00:00Z", cursor=cursor),
        *[
            await listed(service, cursor=text)
            for text in (forged, cursor[2:], "", "zz", "00" * 60, "x" * 5000, made[0])
        ],
    ]
    for answer in attempts:
        assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_parameter", "cursor")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "1e1"),
        ("limit", "-1"),
        ("status", "PAID"),
        ("order_id", "ord_1"),
        ("order_id", "pay_" + "0" * 32),
        ("created_from", "yesterday"),
        ("created_from", "2026-01-01T00:00:00"),
        ("created_before", "9999-12-31T23:59:59-23:59"),
    ],
)
async def test_a_bad_filter_is_named(service: Service, name: str, value: str) -> None:
    answer = await listed(service, **{name: value})
    assert (answer.status, answer.body["code"], answer.body["field"]) == (400, "invalid_parameter", name)


async def test_an_unknown_filter_is_refused(service: Service) -> None:
    assert (await listed(service, page="2")).status == 400


async def test_replies_tell_what_is_left_of_the_merchants_rate(service: Service) -> None:
    first, second = await listed(service), await listed(service, by=service.other)
    assert first.headers["RateLimit-Policy"] == '"merchant";q=5000;w=1'
    assert first.headers["RateLimit"] == '"merchant";r=4999;t=1'
    assert second.headers["RateLimit"] == '"merchant";r=4999;t=1'
    missing = await service.get("pay_" + "0" * 32)
    assert (missing.status, "RateLimit" in missing.headers) == (404, True)
    nobody = await service.get("pay_" + "0" * 32, by="sk_test_nobody")
    assert (nobody.status, "RateLimit" in nobody.headers) == (401, False)
