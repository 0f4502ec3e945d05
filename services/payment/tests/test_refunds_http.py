"""Refunds over HTTP against the channel's simulator: what was really given back, per number, is what we say it was."""

import asyncio
import datetime as dt
from typing import Any

import pytest

from defray_kernel.contracts.order_v1 import OrderClosing, OrderPlaced
from defray_kernel.ids import show
from defray_payment.commands import project_order
from defray_payment.domain.payable import OrderTerms
from defray_sandbox.simulators.process import WechatSimulator

from .conftest import Answer, Service, pay_at_channel, status_of
from .given import PRICE, order_event


async def paid(service: Service, simulator: WechatSimulator, of: OrderTerms | None = None) -> str:
    """A payment that was paid; returns its id."""
    begun = await service.pay(of or service.order())
    assert await pay_at_channel(simulator, begun) == [204]
    return str(begun.body["payment_id"])


async def given_back(simulator: WechatSimulator) -> tuple[int, int]:
    """How many refunds the channel really made, and of how much."""
    books = await simulator.control("/books")
    made = books["refunds"].get("CNY", {"count": 0, "amount_minor": 0})
    return made["count"], made["amount_minor"]


async def until(service: Service, refund_id: str, status: str) -> Answer:
    """Let the refunds' timer work over an hour of business time, until the refund is there."""
    for _ in range(12):
        answer = await service.call("GET", f"/v1/refunds/{refund_id}", by=service.one)
        if answer.body["status"] == status:
            return answer
        service.clock.ahead += dt.timedelta(minutes=5)
        await service.refund_due()
    raise AssertionError(f"the refund is {answer.body['status']}, not {status}")


async def end(service: Service, of: OrderTerms) -> None:
    """The order asks to end."""
    async with service.database.transaction() as tx:
        for event in (order_event(OrderPlaced, of, 1), order_event(OrderClosing, of, 2)):
            await project_order.lock([event], tx)
            handle: Any = project_order.placed if isinstance(event.data, OrderPlaced) else project_order.closing
            await handle([event], tx, service.clock)


async def test_a_partial_refund(service: Service, simulator: WechatSimulator) -> None:
    payment_id = await paid(service, simulator)
    asked = await service.refund(payment_id, 900, reason="one shirt returned", key="k")
    assert (asked.status, asked.body["status"], asked.body["reason"]) == (201, "PROCESSING", "merchant")
    again = await service.refund(payment_id, 900, reason="one shirt returned", key="k")
    assert again.body == asked.body
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await service.refund(payment_id, 901, key="k")
    assert (other.status, other.body["code"]) == (422, "idempotency_mismatch")
    done = await until(service, asked.body["refund_id"], "SUCCEEDED")
    assert done.body["note"] == "one shirt returned"
    assert (await service.get(payment_id)).body["refunded_minor"] == 900
    assert await given_back(simulator) == (1, 900)
    assert [type_ for type_, _ in (await service.events())[-2:]] == ["refund.requested.v1", "refund.succeeded.v1"]
    listed = await service.call("GET", f"/v1/payments/{payment_id}/refunds", by=service.one)
    assert listed.body == {"data": [done.body], "next_after": None}


async def test_pages_of_refunds(service: Service, simulator: WechatSimulator) -> None:
    payment_id = await paid(service, simulator)
    ids = [(await service.refund(payment_id, 100)).body["refund_id"] for _ in range(3)]
    path = f"/v1/payments/{payment_id}/refunds?limit=2"
    first = await service.call("GET", path, by=service.one)
    assert ([each["refund_id"] for each in first.body["data"]], first.body["next_after"]) == (ids[:2], ids[1])
    second = await service.call("GET", f"{path}&after={ids[1]}", by=service.one)
    assert ([each["refund_id"] for each in second.body["data"]], second.body["next_after"]) == (ids[2:], None)
    for bad in ("limit=0", "limit=101", "limit=00010000000", "limit=x", "after=rfd_1", "page=2"):
        answer = await service.call("GET", f"/v1/payments/{payment_id}/refunds?{bad}", by=service.one)
        assert (answer.status, answer.body["code"]) == (400, "invalid_parameter")


async def test_c15_twenty_at_once_never_exceed_what_was_collected(service: Service, simulator: WechatSimulator) -> None:
    payment_id = await paid(service, simulator)
    each_minor = PRICE.minor // 7
    answers = await asyncio.gather(*(service.refund(payment_id, each_minor) for _ in range(20)))
    accepted = [answer for answer in answers if answer.status in {201, 202}]
    refused = [answer.body["code"] for answer in answers if answer.status == 409]
    assert (len(accepted), len(refused)) == (7, 13)
    assert set(refused) == {"refund_exceeds_paid"}
    for answer in accepted:
        await until(service, answer.body["refund_id"], "SUCCEEDED")
    assert await given_back(simulator) == (7, 7 * each_minor)
    assert (await service.get(payment_id)).body["refunded_minor"] == 7 * each_minor


async def test_what_is_refused_at_once(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    payment_id = begun.body["payment_id"]
    early = await service.refund(payment_id, 1)
    assert (early.status, early.body["code"]) == (409, "payment_not_paid")
    await pay_at_channel(simulator, begun)
    too_much = await service.refund(payment_id, PRICE.minor + 1)
    assert (too_much.status, too_much.body["code"]) == (409, "refund_exceeds_paid")
    for amount_minor in (0, -1, 10**13):
        bad = await service.refund(payment_id, amount_minor)
        assert (bad.status, bad.body["field"]) == (422, "amount_minor")
    strange = await service.refund(payment_id, 1, by=service.other)
    assert strange.status == 404
    token = await service.call(
        "POST", f"/v1/payments/{payment_id}/refunds", by="x.y.z", body={"amount_minor": 1}, key="k"
    )
    assert token.status == 401
    assert await service.rows("SELECT * FROM refund") == []
    mine = await service.refund(payment_id, 1)
    hidden = await service.call("GET", f"/v1/refunds/{mine.body['refund_id']}", by=service.other)
    assert hidden.status == 404


@pytest.mark.parametrize(
    ("moment", "action"),
    [
        ("after_apply", "drop"),  # C17, C2: done, and its answer lost
        ("after_apply", "500"),  # C3
        ("after_apply", "unsigned"),
        ("after_apply", "garbage"),
        ("before_apply", "drop"),  # C1: never arrived
        ("before_apply", "502"),
    ],
)
async def test_c17_an_unknown_outcome_is_asked_about_and_never_sent_under_another_number(
    service: Service, simulator: WechatSimulator, moment: str, action: str
) -> None:
    payment_id = await paid(service, simulator)
    await simulator.control("/control/faults", {"operation": "refund", "moment": moment, "action": action, "count": 1})
    asked = await service.refund(payment_id, 900)
    assert (asked.status, asked.body["status"]) == (202, "REQUESTED")
    assert (await service.refund(payment_id, PRICE.minor)).status == 409
    done = await until(service, asked.body["refund_id"], "SUCCEEDED")
    assert done.body["refund_no"] == asked.body["refund_no"]
    assert await given_back(simulator) == (1, 900)
    assert await service.rows("SELECT count(*) AS n FROM refund") == [{"n": 1}]


async def test_a_definite_refusal_frees_the_amount_and_the_next_wish_has_another_number(
    service: Service, simulator: WechatSimulator
) -> None:
    payment_id = await paid(service, simulator)
    await simulator.control(
        "/control/faults",
        {"operation": "refund", "action": "refuse", "moment": "before_apply", "code": "INVALID_REQUEST", "count": 1},
    )
    refused = await service.refund(payment_id, PRICE.minor, key="k")
    assert (refused.status, refused.body["code"]) == (422, "refund_refused")
    assert (await service.refund(payment_id, PRICE.minor, key="k")).body == refused.body
    asked = await service.refund(payment_id, PRICE.minor)
    assert asked.status == 201
    numbers = await service.rows("SELECT refund_no, status FROM refund ORDER BY refund_id")
    assert len({row["refund_no"] for row in numbers}) == 2
    await until(service, asked.body["refund_id"], "SUCCEEDED")
    assert await given_back(simulator) == (1, PRICE.minor)


async def test_a_channel_that_wants_to_be_asked_later(service: Service, simulator: WechatSimulator) -> None:
    payment_id = await paid(service, simulator)
    fault = {"operation": "refund", "action": "429", "moment": "before_apply", "count": 1, "retry_after_s": 1}
    await simulator.control("/control/faults", fault)
    asked = await service.refund(payment_id, 900)
    assert asked.status == 202
    assert await service.rows("SELECT doubt FROM refund") == [{"doubt": False}]
    await asyncio.sleep(1.1)
    await until(service, asked.body["refund_id"], "SUCCEEDED")
    assert await given_back(simulator) == (1, 900)


@pytest.mark.parametrize(
    ("outcome", "status"), [("success", "SUCCEEDED"), ("closed", "FAILED"), ("abnormal", "ABNORMAL")]
)
async def test_c16_what_becomes_of_a_refund_is_told_by_callback(
    service: Service, simulator: WechatSimulator, outcome: str, status: str
) -> None:
    payment_id = await paid(service, simulator)
    await simulator.control("/control/refunds", {"outcome": "pending"})
    asked = await service.refund(payment_id, 900)
    service.clock.ahead += dt.timedelta(days=4)
    settled = await simulator.control(
        "/control/refunds/settle", {"out_refund_no": asked.body["refund_no"], "outcome": outcome, "wait": True}
    )
    assert [each["status"] for each in settled["callbacks"]] == [204]
    shown = await service.call("GET", f"/v1/refunds/{asked.body['refund_id']}", by=service.one)
    assert shown.body["status"] == status
    left = await service.refund(payment_id, PRICE.minor)
    assert left.status == (201 if status == "FAILED" else 409)
    assert await service.cases() == (["refund_abnormal"] if status == "ABNORMAL" else [])


async def test_c7_late_money_is_sent_back_within_a_minute(service: Service, simulator: WechatSimulator) -> None:
    of = service.order()
    # The channel takes the order, its answer is lost, and it says ever since that there is no such order.
    await simulator.control("/control/faults", {"operation": "native", "action": "drop", "count": 1})
    begun = await service.pay(of)
    assert begun.status == 202
    not_there = {"operation": "query", "action": "refuse", "moment": "before_apply", "code": "ORDER_NOT_EXIST"}
    await simulator.control("/control/faults", not_there)
    service.clock.ahead = dt.timedelta(hours=3)
    await end(service, of)
    await service.query_due()
    assert await status_of(service, begun.body["payment_id"]) == "CLOSED"
    await simulator.control("/control/faults/clear", {})
    assert await pay_at_channel(simulator, begun) == [204]
    assert await status_of(service, begun.body["payment_id"]) == "PAID_LATE"
    assert await service.refund_due() == 1
    (sent,) = await service.rows("SELECT refund_id, reason, amount_minor FROM refund")
    assert (sent["reason"], sent["amount_minor"]) == ("late", PRICE.minor)
    # Sent at once: what is left is the channel's own time.
    assert len((await simulator.control("/control/refunds"))["refunds"]) == 1
    await until(service, show("rfd", sent["refund_id"]), "SUCCEEDED")
    assert await status_of(service, begun.body["payment_id"]) == "PAID_LATE"


async def test_c21_a_second_payment_of_one_order_goes_back(service: Service, simulator: WechatSimulator) -> None:
    of = service.order()
    first = await service.pay(of)
    second = await service.pay(of, product="h5", payer={"client_ip": "203.0.113.7"})
    for begun in (first, second):
        assert await pay_at_channel(simulator, begun) == [204]
    states = [await status_of(service, begun.body["payment_id"]) for begun in (first, second)]
    assert states == ["SUCCEEDED", "DUPLICATE"]
    assert await service.refund_due() == 1
    refunds = await service.call("GET", f"/v1/payments/{second.body['payment_id']}/refunds", by=service.one)
    assert [(each["reason"], each["amount_minor"]) for each in refunds.body["data"]] == [("duplicate", PRICE.minor)]
    await until(service, refunds.body["data"][0]["refund_id"], "SUCCEEDED")
    assert await given_back(simulator) == (1, PRICE.minor)


async def test_scopes(service: Service, simulator: WechatSimulator) -> None:
    payment_id = await paid(service, simulator)
    token = service.orders.token(service.order())
    for path in (f"/v1/payments/{payment_id}/refunds", f"/v1/refunds/{show('rfd', service.one.merchant_id)}"):
        assert (await service.call("GET", path, by=token)).status == 401
