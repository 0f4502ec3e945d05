"""A coupon that one order brings and the next one uses, over all services: given, spent, and owed when its money goes back."""

from typing import Any

import pytest

from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from tests.e2e.test_refund_requests import request_reaches
from tests.e2e.world import ITEM, Receiver, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(world: World, method: str, path: str, **body: object) -> Any:  # noqa: ANN401 - what is answered
    url = world.url("order", path)
    answer = await world.ask(method, url, by=world.one.api_key, body=body or None, key=uuid7().hex)
    assert answer.status in {200, 201}, answer
    return answer.body


async def paid(world: World, status: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An order that was paid through WeChat and is `status` then, and its payment."""
    order = (await world.place(**body)).body
    begun = await world.pay(order["payment_token"])
    await world.channel("/control/pay", {"out_trade_no": begun.body["attempt_no"], "wait": True})
    shown = await world.order_reaches(order["order_id"], status)
    return shown, await world.payment_reaches(begun.body["payment_id"], "SUCCEEDED")


async def given(world: World, order_id: str) -> dict[str, Any]:
    """The order's one grant once it is given."""

    async def there() -> list[dict[str, Any]]:
        grants: list[dict[str, Any]] = (await ask(world, "GET", f"/v1/orders/{order_id}/grants"))["data"]
        return [grant for grant in grants if grant["status"] != "PENDING"]

    return (await eventually(there, what="a grant that is given"))[0]


async def test_a_coupon_comes_with_one_payment_pays_part_of_the_next_and_is_owed_with_the_refund(
    world: World, receiver: tuple[Receiver, str]
) -> None:
    benefit = await ask(
        world, "POST", "/v1/benefits",
        name="10 off", kind="coupon", currency="CNY", coupon={"value": "fixed", "amount_minor": 1_000},
    )  # fmt: skip
    first, _ = await paid(world, "FULFILLED", {"items": [ITEM | {"benefits": [benefit["benefit_id"]]}]})
    grant = await given(world, first["order_id"])
    second, payment = await paid(world, "PAID", {"amount_minor": 8_800, "coupon_codes": [grant["coupon_code"]]})
    assert (second["coupons_minor"], payment["amount_minor"]) == (1_000, 8_800)
    assert (await given(world, first["order_id"]))["status"] == "USED"

    asked = await world.request_refund(first["order_id"], amount_minor=4_900)
    assert [(s["kind"], s["amount_minor"]) for s in asked.body["steps"]] == [
        ("asked", 4_900), ("grants_recalled", 500), ("money_asked", 4_900),
    ]  # fmt: skip
    await request_reaches(world, asked.body["refund_request_id"], "SUCCEEDED")
    assert (await world.order_reaches(first["order_id"], "PARTIALLY_REFUNDED"))["grant_debt_minor"] == 500
    await world.comes_to_rest()
    told = receiver[0].told(first["order_id"])
    assert {kind: len(found) for kind, found in told.items() if kind.startswith("grant.")} == {
        "grant.granted.v1": 1, "grant.used.v1": 1, "grant.owed.v1": 1,
    }  # fmt: skip
