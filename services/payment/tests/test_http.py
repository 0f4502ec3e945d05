"""The public port on a real server, at the channel's simulator: payments, callbacks, lost answers, forgeries, twins."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from defray_kernel.calls import RouteSpec
from defray_kernel.contracts.order_v1 import OrderPlaced
from defray_kernel.ids import show
from defray_kernel.money import Money
from defray_kernel.testing.eventually import eventually
from defray_payment import wiring
from defray_payment.commands import project_order
from defray_sandbox.simulators.process import SimulatorFailedError, WechatSimulator

from .conftest import TIMEOUT_S, Answer, Service, number, pay_at_channel, status_of
from .given import PRICE, order_event


async def test_a_payment_from_token_to_money(service: Service, simulator: WechatSimulator) -> None:
    of = service.order()
    begun = await service.pay(of)
    assert begun.status == 201
    shown = begun.body
    assert (shown["status"], shown["amount_minor"], shown["currency"]) == ("PENDING", PRICE.minor, "CNY")
    assert shown["order_id"] == show("ord", of.order_id)
    assert shown["correlation_id"] == "cid-order"
    assert shown["next_action"]["type"] == "qr"
    assert shown["next_action"]["data"]["code_url"].startswith("weixin://")
    assert shown["next_action"]["expires_at"].endswith("Z")
    assert shown["links"]["self"] == f"/v1/payments/{shown['payment_id']}"
    assert await pay_at_channel(simulator, begun) == [204]
    # Token and API key see the same.
    for by in (service.orders.token(of), service.one):
        paid = await service.get(shown["payment_id"], by=by)
        assert paid.status == 200
        assert (paid.body["status"], paid.body["paid_minor"]) == ("SUCCEEDED", PRICE.minor)
        assert paid.body["next_action"] is None
        listed = await service.call("GET", f"/v1/payments?order_id={shown['order_id']}", by=by)
        assert [each["payment_id"] for each in listed.body["data"]] == [shown["payment_id"]]
    assert await service.events() == [
        ("payment.created.v1", 1),
        ("payment.pending.v1", 2),
        ("payment.succeeded.v1", 3),
    ]
    (kept,) = await service.rows("SELECT raw_sealed FROM callback")
    assert b"resource" not in kept["raw_sealed"]
    refused = await service.pay(of)
    assert (refused.status, refused.body["code"]) == (409, "order_paid")


async def test_fifty_identical_callbacks_at_once_have_one_effect(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    assert await pay_at_channel(simulator, begun, callbacks=50, concurrent=True) == [204] * 50
    assert (await service.events())[-1] == ("payment.succeeded.v1", 3)
    assert len(await service.events()) == 3
    assert await service.rows("SELECT count(*) AS n FROM callback") == [{"n": 1}]
    assert await service.cases() == []


async def test_the_same_request_twice_and_fifty_times_at_once(service: Service, simulator: WechatSimulator) -> None:
    of = service.order()
    first = await service.pay(of, key="k1")
    again = await service.pay(of, key="k1")
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    mismatch = await service.pay(of, key="k1", description="other")
    assert (mismatch.status, mismatch.body["code"]) == (422, "idempotency_mismatch")
    other = service.order()
    twins = await asyncio.gather(*(service.pay(other, key="k1") for _ in range(50)))
    assert {each.status for each in twins} <= {201, 409}
    assert {each.body["code"] for each in twins if each.status == 409} <= {"in_progress"}
    made = {each.body["payment_id"] for each in twins if each.status == 201}
    assert len(made) == 1
    # A new key for the same way to pay: the open payment, no second attempt.
    reused = await service.pay(other, key="k2")
    assert (reused.status, reused.body["payment_id"]) == (201, made.pop())
    orders = (await simulator.control("/control/orders"))["orders"]
    assert [order["create_requests"] for order in orders] == [1, 1]


async def test_an_api_key_pays_what_the_projection_knows(service: Service) -> None:
    of = service.order()
    order_id = show("ord", of.order_id)
    missing = await service.pay(of, by=service.one)
    assert (missing.status, missing.body["code"], missing.body["field"]) == (422, "missing_field", "order_id")
    unknown = await service.pay(of, by=service.one, order_id=order_id, key="k")
    assert (unknown.status, unknown.body["code"]) == (404, "not_found")
    async with service.database.transaction() as tx:
        await project_order.placed([order_event(OrderPlaced, of, 1)], tx, service.clock)
    # The refusal was not remembered: the same key works once the order is known.
    begun = await service.pay(of, by=service.one, order_id=order_id, key="k")
    assert begun.status == 201
    assert begun.body["correlation_id"] == "cid-event"
    stranger = await service.pay(of, by=service.other, order_id=order_id)
    assert (stranger.status, stranger.body["code"]) == (404, "not_found")


async def test_two_merchants_and_two_orders_are_strictly_apart(service: Service) -> None:
    of, other = service.order(), service.order(service.other)
    begun = await service.pay(of)
    payment_id = begun.body["payment_id"]
    for by in (service.other, service.orders.token(other), service.orders.token(service.order())):
        assert (await service.get(payment_id, by=by)).status == 404
        close = await service.call("POST", f"/v1/payments/{payment_id}/close", by=by)
        assert close.status == 404
        listed = await service.call("GET", f"/v1/payments?order_id={show('ord', of.order_id)}", by=by)
        assert listed.body == {"data": [], "next_cursor": None}
    wrong_order = await service.pay(of, order_id=show("ord", other.order_id))
    assert wrong_order.status == 404
    for bad in ("pay_", "ord_" + "0" * 32, "x" * 300, "pay_" + "G" * 32):
        assert (await service.get(bad)).status == 404
    assert (await service.get(payment_id, by="x.y.z")).status == 401


@pytest.mark.parametrize(
    ("changes", "status", "code", "field"),
    [
        ({"channel": "paypal"}, 422, "unsupported_channel", "channel"),
        ({"product": "teleport"}, 422, "unsupported_product", "product"),
        ({"product": "jsapi"}, 422, "missing_field", "payer.payer_id"),
        ({"product": "jsapi", "payer": {"client_ip": "192.0.2.1"}}, 422, "missing_field", "payer.payer_id"),
        ({"payer": {"auth_code": "x"}}, 422, "invalid_field", "payer.auth_code"),
        ({"description": "`"}, 422, "invalid_field", "description"),
        ({"channel": None}, 422, "invalid_field", "channel"),
        ({"channel": ""}, 422, "invalid_field", "channel"),
        ({"description": "x" * 41}, 422, "invalid_field", "description"),
        ({"description": "a\u0000b"}, 400, "malformed_json", None),
        ({"description": "4111 1111 1111 1111"}, 422, "pan_not_allowed", "description"),
        ({"order_id": "ord_1"}, 422, "invalid_field", "order_id"),
        ({"amount_minor": 1}, 422, "unknown_field", "amount_minor"),
    ],
)
async def test_bad_wishes_name_the_field_and_change_nothing(
    service: Service, changes: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    answer = await service.pay(service.order(), **changes)
    assert (answer.status, answer.body["code"], answer.body.get("field")) == (status, code, field)
    assert await service.rows("SELECT * FROM payable") == []
    assert await service.rows("SELECT * FROM idempotency_key") == []


async def test_a_currency_that_the_channel_does_not_take(service: Service) -> None:
    answer = await service.pay(service.order(amount=Money(minor=1, currency="USD")))
    assert (answer.status, answer.body["code"]) == (422, "unsupported_currency")


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
@pytest.mark.parametrize("action", ["delay", "drop", "500", "unsigned"])
async def test_a_lost_answer_is_202_and_the_timer_finds_the_truth(
    service: Service, simulator: WechatSimulator, action: str, moment: str
) -> None:
    fault: dict[str, object] = {"action": action, "operation": "native", "moment": moment, "count": 1}
    await simulator.control("/control/faults", fault | ({"delay_s": 1.4} if action == "delay" else {}))
    of = service.order()
    begun = await service.pay(of, key="k")
    assert (begun.status, begun.body["status"], begun.body["next_action"]) == (202, "PENDING", None)
    again = await service.pay(of, key="k2")
    assert (again.status, again.body["payment_id"]) == (202, begun.body["payment_id"])
    if action == "delay":
        await asyncio.sleep(0.6)
    service.clock.ahead += dt.timedelta(seconds=TIMEOUT_S + 10)
    assert await service.query_due() == 1
    # The QR text is there, under the same number, and the channel holds one order.
    found = await service.get(begun.body["payment_id"])
    assert found.body["next_action"]["data"]["code_url"].startswith("weixin://")
    assert number(found) == number(begun)
    assert len((await simulator.control("/control/orders"))["orders"]) == 1
    assert await pay_at_channel(simulator, begun) == [204]
    assert await status_of(service, begun.body["payment_id"]) == "SUCCEEDED"
    assert await service.cases() == []


async def test_money_without_a_callback_is_found_by_the_timer(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    await simulator.control("/control/callbacks", {"never": True})
    await pay_at_channel(simulator, begun)
    assert await status_of(service, begun.body["payment_id"]) == "PENDING"
    assert await service.query_due() == 0
    service.clock.ahead = dt.timedelta(seconds=6)
    assert await service.query_due() == 1
    assert await status_of(service, begun.body["payment_id"]) == "SUCCEEDED"
    service.clock.ahead = dt.timedelta(hours=5)
    assert await service.query_due() == 0


async def test_a_definite_refusal_fails_the_payment(service: Service, simulator: WechatSimulator) -> None:
    fault = {"action": "refuse", "code": "PARAM_ERROR", "operation": "native", "moment": "before_apply", "count": 1}
    await simulator.control("/control/faults", fault)
    of = service.order()
    refused = await service.pay(of, key="k")
    assert (refused.status, refused.body["code"]) == (422, "channel_refused")
    assert refused.headers["Content-Type"] == "application/problem+json"
    again = await service.pay(of, key="k")
    assert (again.status, again.body) == (422, refused.body)
    assert (await service.events())[-1] == ("payment.failed.v1", 2)
    assert (await service.pay(of)).status == 201


async def test_a_limit_at_the_channel_is_tried_again_by_the_timer(service: Service, simulator: WechatSimulator) -> None:
    await simulator.control(
        "/control/faults", {"action": "429", "operation": "native", "moment": "before_apply", "count": 1}
    )
    begun = await service.pay(service.order())
    assert (begun.status, begun.body["status"]) == (202, "PENDING")
    service.clock.ahead = dt.timedelta(seconds=6)
    assert await service.query_due() == 1
    assert (await service.get(begun.body["payment_id"])).body["next_action"] is not None


class TestClosing:
    async def test_an_open_payment(self, service: Service, simulator: WechatSimulator) -> None:
        of = service.order()
        begun = await service.pay(of)
        for _ in range(2):
            closed = await service.close(begun.body["payment_id"])
            assert (closed.status, closed.body["status"]) == (200, "CLOSED")
        (order,) = (await simulator.control("/control/orders"))["orders"]
        assert order["state"] == "CLOSED"
        assert (await service.pay(of)).status == 201

    async def test_one_that_is_paid_meanwhile(self, service: Service, simulator: WechatSimulator) -> None:
        begun = await service.pay(service.order())
        await simulator.control("/control/callbacks", {"never": True})
        await pay_at_channel(simulator, begun)
        closed = await service.close(begun.body["payment_id"])
        assert (closed.status, closed.body["status"]) == (200, "SUCCEEDED")

    async def test_one_whose_channel_does_not_answer(self, service: Service, simulator: WechatSimulator) -> None:
        of = service.order()
        begun = await service.pay(of)
        await simulator.control("/control/faults", {"action": "500", "operation": "*", "moment": "before_apply"})
        asked = await service.close(begun.body["payment_id"])
        assert (asked.status, asked.body["status"], asked.body["next_action"]) == (202, "PENDING", None)
        refused = await service.pay(of)
        assert (refused.status, refused.body["code"]) == (409, "attempt_unknown")
        await simulator.control("/control/faults/clear", {})
        service.clock.ahead = dt.timedelta(seconds=60)
        await service.query_due()
        assert await status_of(service, begun.body["payment_id"]) == "CLOSED"

    async def test_one_that_has_expired(self, service: Service, simulator: WechatSimulator) -> None:
        begun = await service.pay(service.order())
        service.clock.ahead = dt.timedelta(hours=2, seconds=61)
        assert await service.query_due() == 1
        assert await status_of(service, begun.body["payment_id"]) == "CLOSED"
        (order,) = (await simulator.control("/control/orders"))["orders"]
        assert order["state"] == "CLOSED"

    async def test_one_that_never_reached_the_channel_and_has_expired(
        self, service: Service, simulator: WechatSimulator
    ) -> None:
        await simulator.control("/control/faults", {"action": "drop", "operation": "*", "moment": "before_apply"})
        begun = await service.pay(service.order())
        service.clock.ahead = dt.timedelta(hours=2, seconds=61)
        await service.query_due()
        assert await status_of(service, begun.body["payment_id"]) == "PENDING"
        await simulator.control("/control/faults/clear", {})
        service.clock.ahead += dt.timedelta(seconds=60)
        await service.query_due()
        assert await status_of(service, begun.body["payment_id"]) == "CLOSED"
        assert (await simulator.control("/control/orders"))["orders"] == []

    async def test_close_against_pay_never_loses_money(self, service: Service, simulator: WechatSimulator) -> None:
        begun = await asyncio.gather(*(service.pay(service.order()) for _ in range(20)))

        async def pay(one: Answer) -> None:
            with contextlib.suppress(SimulatorFailedError):  # the payer came too late
                await simulator.control("/control/pay", {"out_trade_no": number(one), "wait": True})

        await asyncio.gather(*(pay(one) for one in begun), *(service.close(one.body["payment_id"]) for one in begun))
        held = {o["out_trade_no"]: o["state"] for o in (await simulator.control("/control/orders"))["orders"]}
        ours = await service.rows("SELECT attempt_no, status FROM payment")
        agreed = {"SUCCESS": "SUCCEEDED", "CLOSED": "CLOSED"}
        assert {row["attempt_no"]: row["status"] for row in ours} == {no: agreed[state] for no, state in held.items()}


async def test_nothing_secret_is_logged(service: Service, simulator: WechatSimulator) -> None:
    of = service.order()
    fault = {"action": "unsigned", "operation": "native", "moment": "after_apply", "count": 1}
    await simulator.control("/control/faults", fault)
    await service.pay(of)
    service.clock.ahead = dt.timedelta(seconds=20)
    await service.query_due()
    written = service.log.getvalue()
    assert "channel_reply_unverified" in written
    for secret in (service.orders.token(of)[:40], "weixin://", "Authorization", service.one.api_key):
        assert secret not in written


async def test_a_key_whose_holder_died_is_taken_over_under_the_same_number(
    service: Service, simulator: WechatSimulator
) -> None:
    of = service.order()
    recording = service.edges.recording
    await recording.stop()
    lost = await service.pay(of, key="k")
    assert (lost.status, lost.body["code"]) == (503, "overloaded")
    running = await service.pay(of, key="k")
    assert (running.status, running.body["code"]) == (409, "in_progress")
    assert 1 <= int(running.headers["Retry-After"]) <= 60
    async with service.database.transaction() as tx:
        await tx.execute("UPDATE idempotency_key SET lease_until = now() - interval '1 second'")
    recording._stopping = False
    revived = asyncio.get_running_loop().create_task(recording.run())
    resumed = await service.pay(of, key="k")
    assert (resumed.status, resumed.body["status"]) == (201, "PENDING")
    (order,) = (await simulator.control("/control/orders"))["orders"]
    assert (order["out_trade_no"], order["create_requests"]) == (number(resumed), 2)
    await recording.stop()
    await eventually(revived.done, what="the write edge stops")


def test_every_write_has_an_example_that_its_model_takes() -> None:
    declared = [*edges()]
    assert len(declared) >= 7
    for spec in declared:
        assert spec.example is not None, spec.name
        assert spec.request is not None
        spec.request.model_validate(spec.example)
        documents = (wiring.openapi(), wiring.internal_openapi())
        found = [document["paths"].get(spec.path, {}).get(spec.method.lower()) for document in documents]
        (operation,) = [each for each in found if each is not None]
        assert operation["requestBody"]["content"]["application/json"]["example"] == spec.example


def edges() -> Iterator[RouteSpec]:
    """All routes of both ports that take a body."""
    for edge in (wiring.declared_public(), wiring.declared_internal()):
        yield from (spec for spec in edge.routes if spec.request is not None)
