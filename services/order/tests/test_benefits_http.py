"""Benefits over HTTP: templates defined once per key, orders placed with them and with coupons, each merchant its own."""

from typing import Any

import pytest

from defray_kernel.clock import SystemClock
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.ids import OrderId, parse, show, uuid7
from defray_kernel.timers import run_once
from defray_order.commands import mark_order_paid
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.entrypoints.granting import granting_timer

from .running import ENVELOPE, Answer, Service, order_body
from .test_reports import event, payment

COUPON = {
    "name": "1 off",
    "kind": "coupon",
    "currency": "CNY",
    "coupon": {"value": "fixed", "amount_minor": 100, "valid_days": 30},
}


async def define(service: Service, *, key: str | None = None, **changes: Any) -> Answer:  # noqa: ANN401
    body = {k: v for k, v in (COUPON | changes).items() if v is not None}
    return await service.call("POST", "/v1/benefits", by=service.one, body=body, key=key or uuid7().hex)


async def look(service: Service, path: str) -> Answer:
    return await service.call("GET", path, by=service.one)


async def pay(service: Service, order: dict[str, Any]) -> None:
    """Pay an order and give what it brings."""
    order_id = OrderId(parse("ord", order["order_id"]))
    minor, merchant = order["amount_minor"], order["merchant_id"]
    paid = payment(v1.PaymentSucceeded, order_id, merchant_id=merchant, amount_minor=minor, paid_minor=minor)
    clock = SystemClock()
    async with service.database.transaction() as tx:
        await mark_order_paid.handle([event(paid)], tx, clock)
    await run_once(
        service.database, granting_timer(service.database, clock, CouponCodes(service.database, ENVELOPE), None), clock
    )


async def sold_with_coupon(service: Service) -> tuple[dict[str, Any], dict[str, Any]]:
    """An order that brought a coupon, and the grant."""
    benefit = (await define(service)).body["benefit_id"]
    body = order_body("first")
    body["items"][0]["benefits"] = [benefit]
    placed = await service.place(body)
    assert placed.status == 201, placed.body
    await pay(service, placed.body)
    (grant,) = (await look(service, f"/v1/orders/{placed.body['order_id']}/grants")).body["data"]
    return placed.body, grant


async def test_a_template_is_defined_once_per_key_and_shown_listed_and_archived(service: Service) -> None:
    made = await define(service, key="k", stock=5, rule={"minimum_minor": 300, "ends_at": "2030-01-01T00:00:00+08:00"})
    assert made.status == 201
    again = await define(service, key="k", stock=5, rule={"minimum_minor": 300, "ends_at": "2030-01-01T00:00:00+08:00"})
    assert (again.body, again.headers["Idempotency-Replayed"]) == (made.body, "true")
    assert (await define(service, key="k")).body["code"] == "idempotency_mismatch"
    assert made.body["rule"] == {"minimum_minor": 300, "starts_at": None, "ends_at": "2029-12-31T16:00:00Z"}
    assert (made.body["coupon"]["amount_minor"], made.body["stock_left"]) == (100, 5)
    other = (await define(service, kind="points", coupon=None, points=7)).body
    path = f"/v1/benefits/{made.body['benefit_id']}"
    assert (await look(service, path)).body == made.body
    first = (await look(service, "/v1/benefits?limit=1")).body
    assert first == {"data": [made.body], "next_after": made.body["benefit_id"]}
    assert (await look(service, f"/v1/benefits?after={first['next_after']}")).body == {
        "data": [other],
        "next_after": None,
    }
    archived = await service.call("POST", f"{path}/archive", by=service.one)
    assert archived.body["archived_at"] is not None
    assert (await service.call("POST", f"{path}/archive", by=service.one)).body == archived.body
    assert (await service.call("GET", path, by=service.other)).status == 404
    assert (await service.call("POST", f"{path}/archive", by=service.other)).status == 404
    assert (await service.call("GET", "/v1/benefits", by=service.other)).body["data"] == []
    assert (await service.call("GET", path, by=service.reader)).status == 403


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"coupon": None}, "missing_field", "coupon"),
    ({"points": 1}, "invalid_field", "points"),
    ({"kind": "points", "coupon": None}, "missing_field", "points"),
    ({"kind": "points", "points": 1}, "invalid_field", "coupon"),
    ({"kind": "gift"}, "invalid_field", "kind"),
    ({"currency": None}, "missing_field", "currency"),
    ({"currency": "USD"}, "unsupported_currency", "currency"),
    ({"currency": "cny"}, "unsupported_currency", "currency"),
    ({"kind": "entitlement", "coupon": None, "currency": None, "rule": {"minimum_minor": 1}}, "missing_field", "currency"),
    ({"coupon": {"value": "fixed"}}, "missing_field", "coupon.amount_minor"),
    ({"coupon": {"value": "fixed", "amount_minor": 0}}, "invalid_amount", "coupon.amount_minor"),
    ({"coupon": {"value": "fixed", "amount_minor": 1, "cap_minor": 1}}, "invalid_field", "coupon.cap_minor"),
    ({"coupon": {"value": "percent", "amount_minor": 1}}, "missing_field", "coupon.basis_points"),
    ({"coupon": {"value": "percent", "basis_points": 10_001}}, "invalid_field", "coupon.basis_points"),
    ({"coupon": {"value": "percent", "basis_points": 1, "amount_minor": 1}}, "invalid_field", "coupon.amount_minor"),
    ({"coupon": {"value": "fixed", "amount_minor": 1, "uses_max": 0}}, "invalid_field", "coupon.uses_max"),
    ({"coupon": {"value": "fixed", "amount_minor": 1, "valid_until": 1}}, "invalid_field", "coupon.valid_until"),
    ({"coupon": {"value": "fixed", "amount_minor": 1, "valid_until": "2030-01-01T00:00:00"}},
     "invalid_field", "coupon.valid_until"),
    ({"rule": {"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}},
     "invalid_field", "rule.ends_at"),
    ({"stock": 0}, "invalid_field", "stock"),
    ({"stock_left": 1}, "unknown_field", "stock_left"),
    ({"name": ""}, "invalid_field", "name"),
)  # fmt: skip


@pytest.mark.parametrize(("changes", "code", "field"), WRONG)
async def test_a_template_that_makes_no_sense_is_refused_by_field(
    service: Service, changes: dict[str, Any], code: str, field: str
) -> None:
    answer = await define(service, **changes)
    assert (answer.status, answer.body["code"], answer.body["field"]) == (422, code, field)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=-1", "after=x", "after=ord_" + "0" * 32, "page=2"])
async def test_a_list_asked_for_wrongly_is_refused(service: Service, query: str) -> None:
    answer = await look(service, f"/v1/benefits?{query}")
    assert (answer.status, answer.body["code"]) == (400, "invalid_parameter")


async def test_only_so_many_rules_are_looked_at_by_every_order(service: Service) -> None:
    for _ in range(50):
        assert (await define(service, rule={})).status == 201
    answer = await define(service, rule={})
    assert (answer.status, answer.body["code"], answer.body["field"]) == (409, "too_many_rules", "rule")
    assert (await define(service)).status == 201


async def test_a_coupon_comes_with_one_order_and_pays_part_of_the_next(service: Service) -> None:
    first, grant = await sold_with_coupon(service)
    code = grant["coupon_code"]
    assert (grant["status"], grant["line"], grant["unit"], grant["units"], grant["debt_minor"]) == (
        "GRANTED", 1, "minor", 100, 0,
    )  # fmt: skip
    coupon = (await look(service, f"/v1/coupons/{code.lower().replace('-', '')}")).body
    assert (coupon["coupon_code"], coupon["amount_minor"], coupon["uses_left"]) == (code, 100, 1)
    assert (await service.call("GET", f"/v1/coupons/{code}", by=service.other)).status == 404
    assert (await look(service, "/v1/coupons/" + "A" * 20)).status == 404
    body = order_body("second", amount_minor=200, coupon_codes=[code])
    second = await service.place(body, key="k")
    assert (second.status, second.body["amount_minor"], second.body["coupons_minor"]) == (201, 200, 100)
    assert (await service.place(body, key="k")).body == second.body
    assert (await service.place(body)).status == 200
    third = await service.place(order_body("third", amount_minor=200, coupon_codes=[code]))
    assert (third.status, third.body["code"], third.body["field"]) == (409, "coupon_used_up", "coupon_codes[0]")
    await pay(service, second.body)
    asked = await service.call(
        "POST",
        f"/v1/orders/{first['order_id']}/refund-requests",
        by=service.one,
        body={"amount_minor": 150, "reason": "one returned"},
        key=uuid7().hex,
    )
    assert asked.status == 201, asked.body
    recalled = asked.body["steps"][1]
    shown = (await look(service, f"/v1/orders/{first['order_id']}")).body
    grants = (await look(service, f"/v1/orders/{first['order_id']}/grants")).body
    # Line 1 bears 120 of the 150 (2.40 of 3.00): half of it, and so half of the coupon.
    assert (recalled["kind"], recalled["amount_minor"], shown["grant_debt_minor"]) == ("grants_recalled", 50, 50)
    assert (grants["debt_minor"], grants["data"][0]["status"], grants["data"][0]["recalled_units"]) == (50, "USED", 50)


async def test_each_step_stands_in_the_timeline_of_both_orders(service: Service) -> None:
    first, grant = await sold_with_coupon(service)
    second = await service.place(order_body("second", amount_minor=200, coupon_codes=[grant["coupon_code"]]))
    await pay(service, second.body)
    expected = {
        first["order_id"]: ["coupon_planned", "coupon_given", "coupon_reserved", "coupon_used"],
        second.body["order_id"]: ["coupon_reserved", "coupon_used"],
    }
    for order_id, steps in expected.items():
        timeline = (await look(service, f"/v1/orders/{order_id}/timeline")).body["data"]
        own = [step for step in timeline if step["kind"] == "grant"]
        assert [step["what"] for step in own] == steps
        assert {step["subject"] for step in own} == {grant["grant_id"]}
        assert [step["event_type"] for step in own if step["event_id"]][-1] == "grant.used.v1"


async def test_orders_with_wrong_codes_or_benefits_are_refused_by_field(service: Service) -> None:
    wrong: dict[str, tuple[str, dict[str, Any]]] = {
        "coupon_codes[0]": ("coupon_unknown", {"coupon_codes": ["nothing"]}),
        "coupon_codes[1]": ("invalid_field", {"coupon_codes": ["A" * 20, ""]}),
        "coupon_codes": ("invalid_field", {"coupon_codes": ["A" * 20] * 6}),
        "amount_minor": ("amount_mismatch", {"coupon_codes": ["A" * 20], "amount_minor": 301}),
    }
    for field, (code, changes) in wrong.items():
        answer = await service.place(order_body("x", **changes))
        assert (answer.body["code"], answer.body["field"]) == (code, field)
    for benefit in ("bft_x", show("bft", uuid7())):
        body = order_body("x")
        body["items"][1]["benefits"] = [benefit]
        answer = await service.place(body)
        assert (answer.body["code"], answer.body["field"]) == ("benefit_unknown", "items[1].benefits[0]")


async def test_codes_are_kept_nowhere(service: Service) -> None:
    """Neither in the clear nor as text in any table of the schema: only their digests are."""
    _, grant = await sold_with_coupon(service)
    code, plain = grant["coupon_code"], grant["coupon_code"].replace("-", "")
    texts = [plain, code, plain.encode().hex(), code.encode().hex()]
    async with service.database.read() as conn:
        tables = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
            " AND relnamespace = current_schema()::regnamespace"
        )
        for row in tables:
            for each in await conn.fetch(f'SELECT t::text AS text FROM "{row["relname"]}" t'):
                assert not any(text in each["text"] for text in texts), row["relname"]
        assert len(tables) > 20
