"""Orders that end before they are paid, raced with their money over all services: one decision, and no money is lost."""

import asyncio
from functools import partial
from typing import Any

import asyncpg
import pytest

from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from tests.e2e.world import Answer, World

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENDED = ("CANCELLED", "EXPIRED", "PAID")
AT_ONCE = 6


async def cancel(world: World, order: dict[str, Any], by: str) -> Answer:
    url = world.url("order", f"/v1/orders/{order['order_id']}/cancel")
    return await world.ask("POST", url, by=by, body={"reason": "no longer needed"})


async def shown(world: World, order: dict[str, Any], by: str | None = None) -> dict[str, Any]:
    answer = await world.ask("GET", world.url("order", f"/v1/orders/{order['order_id']}"), by=by or world.one.api_key)
    found: dict[str, Any] = answer.body
    return found


async def decided(world: World, order: dict[str, Any], by: str | None = None) -> dict[str, Any]:
    """The order once it is no longer open."""

    async def ended() -> dict[str, Any] | None:
        found = await shown(world, order, by)
        return found if found["status"] in ENDED else None

    found = await eventually(ended, within_s=40, what=f"{order['order_id']} to be decided")
    assert found is not None
    return found


async def open_payment(world: World, **changes: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """An order whose payer looks at a QR code."""
    order = (await world.place(**changes)).body  # type: ignore[arg-type]
    answer = await world.pay(order["payment_token"])
    assert answer.status == 201, answer
    return order, answer.body


async def steps(world: World, order: dict[str, Any]) -> list[dict[str, Any]]:
    url = world.url("order", f"/v1/orders/{order['order_id']}/timeline")
    found: list[dict[str, Any]] = (await world.ask("GET", url, by=world.one.api_key)).body["data"]
    return found


async def test_a_customer_cancels_and_nothing_can_be_paid_any_more(world: World) -> None:
    order, payment = await open_payment(world)
    asked = await cancel(world, order, order["payment_token"])
    assert (asked.status, asked.body["closing_reason"]) == (200, "customer")
    ended = await decided(world, order)
    assert (ended["status"], [p["status"] for p in ended["payments"]]) == ("CANCELLED", ["CLOSED"])
    refused = await world.pay(order["payment_token"])
    assert (refused.status, refused.body["code"]) == (409, "order_closed")
    again = await cancel(world, order, world.one.api_key)
    assert (again.status, again.body["status"]) == (200, "CANCELLED")
    await world.comes_to_rest()
    timeline = await steps(world, order)
    assert [step["what"] for step in timeline if step["kind"] == "moved"] == [
        "placed",
        "cancel_asked",
        "payable_cancelled",
    ]
    heard = {step["what"]: step for step in timeline if step["kind"] == "heard"}
    assert {"payment.created.v1", "payment.pending.v1", "payment.closed.v1", "payable.closed.v1"} <= set(heard)
    closing = next(step for step in timeline if step["what"] == "payable_cancelled")
    assert closing["causation_id"] == heard["payable.closed.v1"]["event_id"]
    assert {step["correlation_id"] for step in timeline} == {order["correlation_id"]}
    assert payment["payment_id"] == heard["payment.closed.v1"]["subject"]


async def test_an_operator_ends_an_order_and_both_acts_are_audited(world: World) -> None:
    order = (await world.place()).body
    path = f"/internal/v1/orders/{order['order_id']}"
    for _ in range(2):
        assert (await world.operate("order", f"{path}/cancel", {"reason": "fraud suspected"})).status == 204
    ended = await decided(world, order)
    assert (ended["status"], ended["closing_reason"]) == ("CANCELLED", "system")
    unknown = await world.operate("order", f"/internal/v1/orders/ord_{0:032x}/cancel", {})
    assert unknown.status == 404
    url = world.stack.addresses.services["order"].internal_url + f"{path}/timeline"
    viewer = world.stack.credentials.operator_token("e2e", ["viewer"])
    shown_steps = (await world.ask("GET", url, by=viewer)).body["data"]
    assert [step["note"] for step in shown_steps if step["what"] == "cancel_asked"] == ["fraud suspected"]
    connection = await asyncpg.connect(world.stack.site.database.admin_dsn)
    rows = await connection.fetch(
        "SELECT actor, action FROM orders.audit_log WHERE subject = $1 ORDER BY seq", order["order_id"]
    )
    await connection.close()
    assert [tuple(row) for row in rows] == [
        ("e2e", "order.order.cancel"),
        ("e2e", "order.order.cancel"),
        ("e2e", "order.timeline.read"),
    ]
    await world.comes_to_rest()


async def _each_has_its_money_or_none(world: World, orders: list[dict[str, Any]]) -> set[str]:
    """Paid orders keep one payment; ended ones keep none, and what came too late has gone back by rule."""

    async def settled(order: dict[str, Any]) -> bool:
        found = await shown(world, order)
        late = [p for p in found["payments"] if p["status"] == "PAID_LATE"]
        back = [r for r in found["refunds"] if r["status"] == "SUCCEEDED"]
        return len(late) == len(back)

    seen = set()
    for order in orders:
        found = await decided(world, order)
        await eventually(partial(settled, order), within_s=40, what="late money to go back")
        found = await shown(world, order)
        statuses = [p["status"] for p in found["payments"]]
        if found["status"] == "PAID":
            assert (statuses, found["refunds"]) == (["SUCCEEDED"], [])
        else:
            assert set(statuses) <= {"CLOSED", "FAILED", "PAID_LATE"}
        seen.add(found["status"])
    return seen


async def test_cancels_raced_with_payments_leave_each_order_with_one_end(world: World) -> None:
    pairs = [await open_payment(world) for _ in range(AT_ONCE)]

    async def pay(payment: dict[str, Any]) -> None:
        url = world.stack.addresses.channels["wechat"].internal_url + "/control/pay"
        # The channel refuses when its own close came first: the race is decided there.
        await world.ask("POST", url, body={"out_trade_no": payment["attempt_no"], "callbacks": 2})

    work = [pay(payment) for _, payment in pairs]
    work += [_asked(cancel(world, order, world.one.api_key)) for order, _ in pairs]
    await asyncio.gather(*work)
    seen = await _each_has_its_money_or_none(world, [order for order, _ in pairs])
    assert seen <= {"PAID", "CANCELLED"}
    await world.comes_to_rest()


async def _asked(asking: Any) -> None:  # noqa: ANN401 - a coroutine of an Answer
    answer: Answer = await asking
    assert answer.status in {200, 409}, answer


async def test_expiry_raced_with_payments_leaves_each_order_with_one_end(world: World) -> None:
    pairs = [await open_payment(world, expires_in_s=600) for _ in range(AT_ONCE)]

    async def pay(payment: dict[str, Any], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        url = world.stack.addresses.channels["wechat"].internal_url + "/control/pay"
        await world.ask("POST", url, body={"out_trade_no": payment["attempt_no"], "callbacks": 2})

    work = [pay(payment, 0.15 * number) for number, (_, payment) in enumerate(pairs)]
    await asyncio.gather(world.advance(601), *work)
    seen = await _each_has_its_money_or_none(world, [order for order, _ in pairs])
    assert seen <= {"PAID", "EXPIRED"}
    unpaid = (await world.place(expires_in_s=60)).body
    await world.advance(61)
    assert (await decided(world, unpaid))["status"] == "EXPIRED"
    await world.comes_to_rest()


async def test_late_money_reopens_the_order_of_a_merchant_who_wants_it(world: World) -> None:
    key = await _merchant_that_reopens(world)
    body = {"merchant_order_no": uuid7().hex, "currency": "CNY", "amount_minor": 500}
    body |= {"items": [{"sku": "a", "title": "A", "quantity": 1, "unit_amount_minor": 500}]}
    placed = await world.ask("POST", world.url("order", "/v1/orders"), by=key, body=body, key=uuid7().hex)
    order = placed.body
    payment = (await world.pay(order["payment_token"])).body
    await cancel(world, order, key)
    assert (await decided(world, order, key))["status"] == "CANCELLED"
    late = {"out_trade_no": payment["attempt_no"], "late": True, "wait": True}
    await world.channel("/control/pay", late)

    async def reopened() -> dict[str, Any] | None:
        found = await shown(world, order, key)
        return found if found["status"] == "PAID" else None

    found = await eventually(reopened, within_s=20, what="the order to be reopened")
    assert found is not None
    assert (found["reopened"], found["closing_reason"], found["payment_id"]) == (
        True,
        "merchant",
        payment["payment_id"],
    )
    assert [(p["status"], p["paid_minor"]) for p in found["payments"]] == [("PAID_LATE", 500)]
    # Whichever topic settlement heard first: 5.00 less 3 fen are the merchant's, and what goes back is too.
    await _booked(world, payment["payment_id"], key, {"paid_late": 0, "reopened": 497})
    back = {"amount_minor": 200, "reason": "one returned"}
    url = world.url("order", f"/v1/orders/{order['order_id']}/refund-requests")
    assert (await world.ask("POST", url, by=key, body=back, key=uuid7().hex)).status == 201
    await _booked(world, payment["payment_id"], key, {"paid_late": 0, "reopened": 497, "refunded": -200})
    await world.comes_to_rest()
    balances = (await world.ask("GET", world.url("settlement", "/v1/balance"), by=key)).body["data"]
    assert [each["amount_minor"] for each in balances] == [297]


async def _booked(world: World, payment_id: str, key: str, net: dict[str, int]) -> None:
    """The payment's entries once they are these, by kind with what the merchant gets; nothing of it is in suspense."""
    url = world.url("settlement", f"/v1/ledger/entries?payment_id={payment_id}")
    found: list[dict[str, Any]] = []

    async def booked() -> bool:
        nonlocal found
        found = (await world.ask("GET", url, by=key)).body["data"]
        return {each["kind"]: each["net_minor"] for each in found} == net

    await eventually(booked, within_s=20, what=f"the entries {net}")
    legs = [leg for each in found for leg in each["legs"]]
    assert sum(leg["amount_minor"] for leg in legs if leg["account_id"].startswith("suspense:")) == 0


async def _merchant_that_reopens(world: World) -> str:
    """The API key of a new merchant whose policy for late money is `reopen`."""
    wish = {"name": f"Reopening {uuid7().hex}", "currencies": ["CNY"], "fee_basis_points": 60, "mode": "test"}
    registered = await world.operate("settlement", "/internal/v1/merchants", wish | {"late_money": "reopen"})
    assert registered.status == 201, registered
    path = f"/internal/v1/merchants/{registered.body['merchant_id']}/api-keys"
    scopes = ["orders:read", "orders:write", "payments:read", "refunds:read", "refunds:write", "ledger:read"]
    issued = await world.operate("settlement", path, {"scopes": scopes})
    key: str = issued.body["api_key"]
    probes = {"order": "/v1/orders?merchant_order_no=none", "payment": f"/v1/payments?order_id=ord_{0:032x}"}
    probes |= {"settlement": "/v1/balance"}
    for service, probe in probes.items():
        known = partial(_known, world, world.url(service, probe), key)
        await eventually(known, within_s=25, every_s=0.2, what=f"{service} to know the merchant")
    return key


async def _known(world: World, url: str, key: str) -> bool:
    return (await world.ask("GET", url, by=key)).status not in {401, 503}
