"""Grants and coupons on a real schema: given once, used within their limits, recalled to the unit, raced on real locks."""

import asyncio
import dataclasses
import datetime as dt
from collections import Counter

import asyncpg
import msgspec
import pytest

from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.db import Database
from defray_kernel.timers import run_once
from defray_order.commands.place_order import NotWith
from defray_order.commands.recall_grants import Recalled
from defray_order.commands.told import Told
from defray_order.domain.benefit import BenefitKind, CouponTerms, CouponValue, Rule
from defray_order.domain.grant import TRIES_MAX
from defray_order.store import benefits, grants

from .granting import Till, define, template, wish
from .living import cancel, closed
from .living import wish as end
from .test_reports import event, mark_paid, mark_refunded, payment, refund, state

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def till(database: Database) -> Till:
    return Till(database)


# Giving


async def test_a_paid_order_brings_its_benefits_once_whatever_is_told_again(till: Till) -> None:
    coupon, points = template(), template(BenefitKind.POINTS, 7)
    always = template(BenefitKind.ENTITLEMENT, 1, rule=Rule(minimum_minor=300))
    await define(till.database, coupon, points, always, template(BenefitKind.POINTS, rule=Rule(minimum_minor=301)))
    order_id = await till.placed(sold=[coupon, points])
    assert await till.brought(order_id) == []
    paid = event(payment(v1.PaymentSucceeded, order_id))
    for _ in range(3):
        await mark_paid(till.database, paid)
        await till.grant()
    assert [(g.line, g.kind, g.state, g.units) for g in await till.brought(order_id)] == [
        (0, "entitlement", "GRANTED", 1),
        (1, "coupon", "GRANTED", 100),
        (1, "points", "GRANTED", 7),
    ]
    assert await till.told() == [("grant.granted.v1", 1)] * 3
    assert await till.grant() == 0


async def test_a_worker_that_dies_costs_its_grants_a_lease_and_gives_none_twice(till: Till) -> None:
    await define(till.database, template(rule=Rule(), stock_left=5))
    order_id = await till.placed()
    await till.pay(order_id)
    async with till.database.transaction() as tx:
        assert len(await grants.claim_due(tx, till.clock.now(), 10)) == 1
    assert await till.grant() == 0, "another worker has it"
    till.clock.advance(dt.timedelta(seconds=61))
    assert await till.grant() == 1
    assert [g.state for g in await till.brought(order_id)] == ["GRANTED"]
    async with till.database.read() as conn:
        assert await conn.fetchval("SELECT stock_left FROM benefit") == 4


async def test_twenty_orders_race_for_the_last_one_in_stock_and_one_wins(till: Till) -> None:
    last = template(rule=Rule(), stock_left=1)
    await define(till.database, last)
    ids = [await till.placed() for _ in range(20)]
    await till.pay(*ids)
    timer = dataclasses.replace(till.granting, batch_max=3)
    while sum(await asyncio.gather(*(run_once(till.database, timer, till.clock) for _ in range(4)))):
        pass
    given = Counter([(await till.brought(order_id))[0].state for order_id in ids])
    assert given == {"GRANTED": 1, "PENDING": 19}
    for _ in range(TRIES_MAX):
        till.clock.advance(2 * HOUR)
        await till.grant()
    ended = Counter([((g := (await till.brought(o))[0]).state, g.failure) for o in ids])
    assert ended == {("GRANTED", None): 1, ("FAILED", "stock_used_up"): 19}
    assert Counter(kind for kind, _ in await till.told()) == {"grant.granted.v1": 1, "grant.failed.v1": 19}
    async with till.database.read() as conn:
        assert (await benefits.get(conn, [last.benefit_id]))[last.benefit_id].stock_left == 0


async def test_an_order_is_fulfilled_when_each_line_brought_something_and_all_of_it_is_given(till: Till) -> None:
    ticket = template(BenefitKind.ENTITLEMENT, 1)
    await define(till.database, ticket)
    both = wish(minor=500, lines=(300, 200))
    both = msgspec.structs.replace(both, benefits=((1, ticket.benefit_id), (2, ticket.benefit_id)))
    await till.place(both)
    one = await till.placed(minor=500, lines=(300, 200), sold=[ticket])
    for order_id in (both.order_id, one):
        await till.pay(order_id)
    await till.grant()
    assert [await state(till.database, o) for o in (both.order_id, one)] == ["FULFILLED", "PAID"]


# Going back


async def test_a_partial_refund_takes_the_coupons_share_while_it_is_unused(till: Till) -> None:
    source, code = await till.coupon()
    assert await till.recall(source, 100) == Recalled(order_id=source, grants=1, grant_debt_minor=0)
    using = await till.placed(minor=233, codes=[code])  # 1.00 less a third of it, rounded for the holder
    assert await till.uses(using) == [("RESERVED", 67, 0)]
    assert await till.told() == [("grant.granted.v1", 1), ("grant.revoked.v1", 2)]
    for again in (100, 50, 100):
        assert await till.recall(source, again) == Recalled(order_id=source, grants=0, grant_debt_minor=0)


async def test_what_was_used_before_the_money_goes_back_is_owed_to_the_minor_unit(till: Till) -> None:
    source, code = await till.coupon()
    using = await till.placed(minor=200, codes=[code])
    await till.pay(using)
    assert await till.recall(source, 100) == Recalled(order_id=source, grants=1, grant_debt_minor=33)
    assert await till.recall(source, 300) == Recalled(order_id=source, grants=1, grant_debt_minor=100)
    assert await till.recall(source, 300) == Recalled(order_id=source, grants=0, grant_debt_minor=100)
    assert await till.uses(using) == [("USED", 100, 100)]
    (grant,) = await till.brought(source)
    assert (grant.state, grant.worth) == ("USED", 0)
    assert [kind for kind, _ in await till.told()] == [
        "grant.granted.v1",
        "grant.used.v1",
        "grant.owed.v1",
        "grant.owed.v1",
    ]


async def test_what_was_only_reserved_is_owed_until_the_order_ends_unpaid(till: Till) -> None:
    source, code = await till.coupon()
    using = await till.placed(minor=200, codes=[code])
    assert (await till.recall(source, 300)).grant_debt_minor == 100
    (grant,) = await till.brought(source)
    assert grant.state == "REVOKED"
    await cancel(till.database, end(using))
    await closed(till.database, using)
    assert (await till.debt(source), await till.uses(using)) == (0, [("RELEASED", 100, 0)])
    assert await till.place(wish(minor=200, codes=[code])) == NotWith(
        code="coupon_not_applicable", field="coupon_codes[0]"
    )
    assert await till.told() == [("grant.granted.v1", 1), ("grant.owed.v1", 2), ("grant.owed.v1", 3)]


async def test_of_several_uses_the_free_ones_shrink_and_the_used_ones_are_owed(till: Till) -> None:
    source, code = await till.coupon(terms=CouponTerms(value=CouponValue.FIXED, uses_max=2))
    first = await till.placed(minor=200, codes=[code])
    await till.pay(first)
    assert (await till.recall(source, 150)).grant_debt_minor == 50
    second = await till.placed(minor=250, codes=[code])
    await till.pay(second)
    assert (await till.recall(source, 300)).grant_debt_minor == 150
    assert [await till.uses(o) for o in (first, second)] == [[("USED", 100, 100)], [("USED", 50, 50)]]


async def test_what_is_not_given_yet_is_given_smaller_or_not_at_all(till: Till) -> None:
    await define(till.database, template(BenefitKind.POINTS, 30, rule=Rule()))
    part, whole = await till.placed(), await till.placed()
    await till.pay(part, whole)
    await till.recall(part, 100)
    await till.recall(whole, 300)
    assert await till.grant() == 1
    assert [(g.state, g.units, g.worth) for o in (part, whole) for g in await till.brought(o)] == [
        ("GRANTED", 30, 20),
        ("REVOKED", 30, 0),
    ]
    assert sorted(await till.told()) == [("grant.granted.v1", 1), ("grant.revoked.v1", 1)]


async def test_a_refund_that_began_at_the_payment_service_recalls_too(till: Till) -> None:
    """By event alone: the refund is recorded as a request, and its part of what was granted goes back."""
    sold = template(BenefitKind.POINTS, 30)
    await define(till.database, sold)
    order_id = await till.placed(sold=[sold])
    paid = payment(v1.PaymentSucceeded, order_id)
    await mark_paid(till.database, event(paid))
    await till.grant()
    back = refund(v1.RefundSucceeded, paid, amount=100, total=100)
    for _ in range(2):
        await mark_refunded(till.database, back)
    (grant,) = await till.brought(order_id)
    assert (grant.worth, await state(till.database, order_id)) == (20, "PARTIALLY_REFUNDED")
    assert await till.told() == [("grant.granted.v1", 1), ("grant.revoked.v1", 2)]


async def test_a_coupon_used_while_it_is_recalled_is_owed_or_refused_but_never_lost(till: Till) -> None:
    for _ in range(8):
        source, code = await till.coupon()
        using = wish(minor=200, codes=[code])
        outcome, recalled = await asyncio.gather(till.place(using), till.recall(source, 300))
        (grant,) = await till.brought(source)
        assert (grant.state, grant.worth) == ("REVOKED", 0)
        if isinstance(outcome, Told):
            assert (recalled.grant_debt_minor, await till.uses(using.order_id)) == (100, [("RESERVED", 100, 100)])
        else:
            assert outcome == NotWith(code="coupon_not_applicable", field="coupon_codes[0]")
            assert (recalled.grant_debt_minor, await till.debt(source)) == (0, 0)


async def test_orders_that_use_each_others_coupons_are_paid_and_recalled_at_once_without_a_deadlock(till: Till) -> None:
    sources = [await till.coupon(10) for _ in range(6)]
    using = [await till.placed(minor=280, codes=[code, sources[i - 1][1]])
             if i % 2 else await till.placed() for i, (_, code) in enumerate(sources)]  # fmt: skip
    await asyncio.gather(
        *(till.recall(order_id, 300) for order_id, _ in sources), *(till.pay(order_id) for order_id in using)
    )
    assert [await till.debt(order_id) for order_id, _ in sources] == [10] * 6
    assert Counter([u for o in using for u in await till.uses(o)]) == {("USED", 10, 10): 6}


# The schema


FORBIDDEN = (
    "DELETE FROM fulfilment_grant",
    "UPDATE fulfilment_grant SET units = 1",
    "UPDATE benefit SET units = 1",
    "DELETE FROM grant_step",
    "UPDATE grant_step SET kind = 'given'",
    "UPDATE coupon_code SET grant_id = grant_id",
    "UPDATE coupon_use SET amount_minor = 1",
    "DELETE FROM coupon_use",
    "DELETE FROM grant_debt",
    "UPDATE order_benefit SET line = 2",
)


async def test_the_running_role_cannot_rewrite_what_was_granted(database: Database) -> None:
    async with database.read() as conn:
        for statement in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
                await conn.execute(statement)


IMPOSSIBLE = (
    "UPDATE fulfilment_grant SET reserved = 2",
    "UPDATE fulfilment_grant SET recalled = units + 1",
    "UPDATE fulfilment_grant SET state = 'USED'",
    "UPDATE fulfilment_grant SET state = 'REVOKED'",
    "UPDATE fulfilment_grant SET state = 'FAILED'",
    "UPDATE fulfilment_grant SET due_at = planned_at",
    "UPDATE benefit SET stock_left = -1",
)


async def test_what_may_never_be_granted_is_refused(till: Till) -> None:
    await till.coupon()
    for statement in IMPOSSIBLE:
        with pytest.raises(asyncpg.CheckViolationError):
            async with till.database.transaction() as tx:
                await tx.execute(statement)
