"""Coupons on a real schema: priced to the minor unit, reserved, used or released, raced for their last use."""

import asyncio
import datetime as dt
from collections import Counter
from typing import Any

import msgspec
import pytest

from defray_kernel import rounds
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.db import Database
from defray_kernel.ids import OrderId, uuid7
from defray_order import wiring
from defray_order.commands import place_order
from defray_order.commands.place_order import NotWith, PlaceOrder
from defray_order.commands.told import Told
from defray_order.domain.benefit import CouponTerms, CouponValue
from defray_order.domain.coupon import CODES_MAX
from defray_order.store import orders

from .granting import Till, define, template, wish
from .living import cancel, closed
from .living import wish as end
from .test_life import expire
from .test_life_after import merchant_is, paid_late
from .test_reports import payment, state

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def till(database: Database) -> Till:
    return Till(database)


# Using


async def test_a_coupon_is_reserved_at_placement_used_when_paid_and_not_again(till: Till) -> None:
    source, code = await till.coupon()
    using = await till.placed(minor=200, codes=[code])
    assert await till.uses(using) == [("RESERVED", 100, 0)]
    assert await till.place(wish(minor=200, codes=[code])) == NotWith(code="coupon_used_up", field="coupon_codes[0]")
    await till.pay(using)
    assert await till.uses(using) == [("USED", 100, 0)]
    (grant,) = await till.brought(source)
    assert (grant.state, grant.reserved, grant.used) == ("USED", 0, 1)
    assert await till.told() == [("grant.granted.v1", 1), ("grant.used.v1", 2)]
    async with till.database.read() as conn:
        order = (await orders.get(conn, [using]))[using]
    assert (order.coupons_minor, order.total.minor, order.state) == (100, 200, "PAID")


async def test_an_order_that_its_coupons_pay_is_paid_at_once_and_uses_them(till: Till) -> None:
    _, code = await till.coupon(500)
    using = await till.placed(minor=0, codes=[code])
    assert (await state(till.database, using), await till.uses(using)) == ("PAID", [("USED", 300, 0)])


@pytest.mark.parametrize("by", ["cancel", "expiry"])
async def test_a_coupon_is_free_again_when_the_order_ends_unpaid(till: Till, by: str) -> None:
    _, code = await till.coupon()
    using = await till.placed(minor=200, codes=[code])
    if by == "cancel":
        await cancel(till.database, end(using))
        await closed(till.database, using)
    else:
        till.clock.advance(3 * HOUR)
        assert await expire(till.database, till.clock) == 1
        await closed(till.database, using, "expired")
    assert await till.uses(using) == [("RELEASED", 100, 0)]
    again = await till.placed(minor=200, codes=[code])
    await till.pay(again)
    assert await till.uses(again) == [("USED", 100, 0)]


async def test_a_coupon_stays_reserved_while_the_order_is_closing(till: Till) -> None:
    _, code = await till.coupon()
    using = await till.placed(minor=200, codes=[code])
    await cancel(till.database, end(using))
    assert await till.uses(using) == [("RESERVED", 100, 0)]
    await till.pay(using)  # the money was first
    assert await till.uses(using) == [("USED", 100, 0)]


async def test_the_same_order_again_is_told_as_it_was_although_its_coupon_is_used_up(till: Till) -> None:
    _, code = await till.coupon()
    first = wish(minor=200, codes=[code])
    assert isinstance(await till.place(first), Told)
    again = msgspec.structs.replace(first, order_id=OrderId(uuid7()), idempotency_key="another")
    outcome = await till.place(again)
    assert isinstance(outcome, Told)
    assert outcome.status == 200
    other = msgspec.structs.replace(again, content_hash=bytes(31) + b"1", idempotency_key="third")
    assert await till.place(other) == place_order.Conflict()


REFUSED: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"minor": 201}, "amount_mismatch", "amount_minor"),
    ({"minor": 199}, "amount_mismatch", "amount_minor"),
    ({"minor": 150, "lines": (249,)}, "coupon_not_applicable", "coupon_codes[0]"),
)


@pytest.mark.parametrize(("of", "code", "field"), REFUSED)
async def test_the_total_is_ours_to_the_minor_unit(till: Till, of: dict[str, Any], code: str, field: str) -> None:
    _, text = await till.coupon(terms=CouponTerms(value=CouponValue.FIXED, minimum_minor=250))
    assert await till.place(wish(codes=[text], **of)) == NotWith(code=code, field=field)
    assert await till.place(wish(minor=200, codes=[text, "A" * 20])) == NotWith(
        code="coupon_unknown", field="coupon_codes[1]"
    )
    assert isinstance(await till.place(wish(minor=200, codes=[text])), Told), "nothing of it was kept"


async def test_a_benefit_that_is_not_there_is_refused_by_its_place(till: Till) -> None:
    known = template()
    await define(till.database, known)
    assert await till.place(wish(sold=[known, template()])) == NotWith(
        code="benefit_unknown", field="items[0].benefits[1]"
    )


async def test_twenty_orders_race_for_a_coupons_last_use_and_one_wins(till: Till) -> None:
    """Two services with two connections each, as two replicas have them."""
    source, code = await till.coupon(terms=CouponTerms(value=CouponValue.FIXED, uses_max=2))
    await till.placed(minor=200, codes=[code])
    replicas = [wiring.placing(till.database, till.clock, after_commit=None) for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for replica in replicas:
            group.create_task(replica.run())
        wishes = [wish(minor=200, codes=[code]) for _ in range(20)]
        outcomes = await asyncio.gather(*(replicas[i % 2].submit(w) for i, w in enumerate(wishes)))
        for replica in replicas:
            await replica.stop()
    refused = NotWith(code="coupon_used_up", field="coupon_codes[0]")
    assert Counter(isinstance(outcome, Told) for outcome in outcomes) == {True: 1, False: 19}
    assert [outcome for outcome in outcomes if not isinstance(outcome, Told)] == [refused] * 19
    (grant,) = await till.brought(source)
    assert (grant.reserved, grant.used, grant.uses_max) == (2, 0, 2)


async def test_a_batch_of_requests_shares_a_coupon_within_its_limit(till: Till) -> None:
    """The inbound door places many in one transaction, without rounds by coupon."""
    source, code = await till.coupon(terms=CouponTerms(value=CouponValue.FIXED, uses_max=3))
    wishes = [wish(minor=200, codes=[code]) for _ in range(5)]
    async with till.database.transaction() as tx:
        outcomes = await place_order.handle(wishes, tx, till.clock)
    assert [isinstance(outcome, Told) for outcome in outcomes] == [True, True, True, False, False]
    (grant,) = await till.brought(source)
    assert grant.reserved == 3
    await till.pay(*(w.order_id for w in wishes[:3]))
    (grant,) = await till.brought(source)
    assert (grant.reserved, grant.used, grant.state) == (0, 3, "USED")
    assert await till.told() == [("grant.granted.v1", 1), *(("grant.used.v1", n) for n in (2, 3, 4))]


def test_orders_with_one_coupon_are_kept_in_rounds_apart() -> None:
    one, other = "A" * 20, "B" * 20
    wishes = [wish(codes=[one]), wish(codes=[one, other]), wish(codes=[other]), wish()]
    cut: list[list[PlaceOrder]] = rounds.cut(wishes, place_order.serial_keys)
    assert [[wishes.index(w) for w in each] for each in cut] == [[0, 3], [1], [2]]
    assert CODES_MAX == 5


# Late money


@pytest.mark.parametrize("taken", [False, True])
async def test_late_money_reopens_an_order_if_its_coupon_is_still_free(till: Till, taken: bool) -> None:
    _, code = await till.coupon()
    using = await till.placed(minor=200, codes=[code])
    await cancel(till.database, end(using))
    await closed(till.database, using)
    await merchant_is(till.database, "reopen")
    if taken:
        await till.placed(minor=200, codes=[code])
    await paid_late(
        till.database, payment(v1.PaymentPaidLate, using, status="PAID_LATE", amount_minor=200, paid_minor=200)
    )
    assert (await state(till.database, using), await till.uses(using)) == (
        ("CANCELLED", [("RELEASED", 100, 0)]) if taken else ("PAID", [("USED", 100, 0)])
    )
