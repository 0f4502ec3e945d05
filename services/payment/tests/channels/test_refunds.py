"""Money goes back through both channels: in parts, unknown, by rule; and what a notice of it may say."""

import datetime as dt
from typing import Any

import pytest

from .conftest import Lab
from .test_meaning import CHANNELS, PLAIN

PRICE_MINOR = 19_900


@pytest.fixture(params=CHANNELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def paid(lab: Lab, *names: str) -> list[str]:
    """One order, paid at each of these channels; returns its payments' ids."""
    if not lab.service.channels.lines:
        await lab.add(lab.alipay_wish())
        await lab.add(lab.wechat_wish())
    terms = lab.service.order()
    begun = [(name, await lab.service.pay(terms, channel=name, product=PLAIN[name])) for name in names]
    for name, answer in begun:
        await getattr(lab, name).control("/control/pay", {"out_trade_no": answer.body["attempt_no"], "wait": True})
    return [str(answer.body["payment_id"]) for _, answer in begun]


async def given_back(lab: Lab, name: str) -> tuple[int, int]:
    made = (await getattr(lab, name).control("/books"))["refunds"].get("CNY", {"count": 0, "amount_minor": 0})
    return made["count"], made["amount_minor"]


async def until_done(lab: Lab, refund_id: str) -> Any:  # noqa: ANN401 - JSON
    for _ in range(12):
        shown = await lab.service.call("GET", f"/v1/refunds/{refund_id}", by=lab.service.one)
        if shown.body["status"] == "SUCCEEDED":
            return shown.body
        lab.service.clock.ahead += dt.timedelta(minutes=5)
        await lab.service.refund_due()
    raise AssertionError(shown.body)


async def test_parts_up_to_the_whole(lab: Lab, name: str) -> None:
    (payment_id,) = await paid(lab, name)
    for minor in (5_000, 5_000, 9_900):
        asked = await lab.service.refund(payment_id, minor)
        assert asked.status in {201, 202}, asked.body
        await until_done(lab, asked.body["refund_id"])
    over = await lab.service.refund(payment_id, 1)
    assert (over.status, over.body["code"]) == (409, "refund_exceeds_paid")
    assert await given_back(lab, name) == (3, PRICE_MINOR)
    shown = await lab.service.get(payment_id)
    # All of it went back, and the payment is what it was: paid.
    assert (shown.body["status"], shown.body["refunded_minor"]) == ("SUCCEEDED", PRICE_MINOR)
    assert await lab.service.cases() == []


@pytest.mark.parametrize("moment", ["before_apply", "after_apply"])
async def test_an_unknown_outcome_is_one_refund(lab: Lab, name: str, moment: str) -> None:
    (payment_id,) = await paid(lab, name)
    fault = {"operation": "refund", "moment": moment, "action": "drop", "count": 1}
    await getattr(lab, name).control("/control/faults", fault)
    asked = await lab.service.refund(payment_id, 5_000)
    # A notice may tell of it before our call has given up.
    assert asked.status in {201, 202}
    done = await until_done(lab, asked.body["refund_id"])
    assert done["refund_no"] == asked.body["refund_no"]
    assert await given_back(lab, name) == (1, 5_000)


async def test_one_order_paid_on_two_channels(lab: Lab) -> None:
    await paid(lab, *CHANNELS)
    states = await lab.service.rows("SELECT channel, status FROM payment ORDER BY payment_id")
    assert [tuple(row.values()) for row in states] == [("wechat", "SUCCEEDED"), ("alipay", "DUPLICATE")]
    assert await lab.service.refund_due() == 1
    ((refund_id,),) = [tuple(row.values()) for row in await lab.service.rows("SELECT refund_id FROM refund")]
    await until_done(lab, f"rfd_{refund_id.hex}")
    assert [await given_back(lab, name) for name in CHANNELS] == [(0, 0), (1, PRICE_MINOR)]
