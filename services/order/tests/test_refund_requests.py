"""Refund requests on a real database: reserved under the order's lock, answered once, whatever is told again."""

import asyncio

import msgspec
import pytest

from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.order_v1 import OrderRefundRequested
from defray_kernel.db import Database
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.idempotency import Mismatch, Replay
from defray_kernel.ids import OrderId, PaymentId, parse, show, uuid7
from defray_kernel.money import Money
from defray_order.announce import RefundRequestShown
from defray_order.commands import ask_refund
from defray_order.commands.ask_refund import LateMoney
from defray_order.commands.place_order import Told
from defray_order.domain.refund_request import LineWish
from defray_order.store import orders, refund_requests
from defray_order.wiring import asking_refunds

from .given import NOW
from .refunding import ask, asked, hear, paid, refund, refusal, refused, requests, steps, submit
from .test_reports import CLOCK, MERCHANT, payment, placed, reasons, state, told


async def test_a_request_is_reserved_grants_come_first_and_the_payment_service_is_told(database: Database) -> None:
    order_id, of = await paid(database)
    request = await asked(database, order_id, 100)
    assert [step.kind for step in request.steps] == ["asked", "grants_recalled", "money_asked"]
    assert (request.status, request.origin, request.payment_id) == ("REQUESTED", "order", of.payment_id)
    assert await told(database) == [("order.placed.v1", 1), ("order.paid.v1", 2), ("order.refund_requested.v1", 3)]
    async with database.read() as conn:
        payload = await conn.fetchval("SELECT payload FROM outbox WHERE event_type = 'order.refund_requested.v1'")
        order = (await orders.get(conn, [order_id]))[order_id]
    data = msgspec.json.decode(payload, type=OrderRefundRequested)
    assert (data.refund_request_id, data.refund_minor, data.refund_note) == (request.refund_request_id, 100, "returned")
    assert (data.status, data.refund_reason, [line.amount_minor for line in data.refund_lines]) == (
        "PAID",
        "merchant",
        [100],
    )
    assert (order.state, order.version, order.event_seq) == ("PAID", 3, 3)


async def test_the_same_key_is_one_request(database: Database) -> None:
    order_id, _ = await paid(database)
    (first,) = await submit(database, ask(order_id, 100, key="k"))
    (again,) = await submit(database, ask(order_id, 100, key="k"))
    assert isinstance(first, Told)
    assert again == Replay(status=201, body=first.body)
    (other,) = await submit(database, ask(order_id, 101, key="k"))
    assert other == Mismatch()
    assert len(await requests(database, order_id)) == 1


async def test_more_than_is_left_is_refused_and_what_failed_or_was_refused_is_free_again(database: Database) -> None:
    order_id, of = await paid(database)
    first, second = await asked(database, order_id, 200), await asked(database, order_id, 100)
    assert refusal((await submit(database, ask(order_id, 1)))[0]) == (409, "refund_exceeds_paid")
    await hear(database, refused(of, first))
    await hear(database, refund(v1.RefundFailed, of, 100, refund_request_id=second.refund_request_id), 2)
    assert await requests(database, order_id) == [
        ("order", "REFUSED", 200, "refund_window_over"), ("order", "FAILED", 100, "refund_refused"),
    ]  # fmt: skip
    await asked(database, order_id, 300)
    assert await reasons(database) == []


async def test_an_order_that_is_not_paid_gives_nothing_back(database: Database) -> None:
    unpaid, free = await placed(database), await placed(database, minor=0)
    for order_id in (unpaid, free):
        assert refusal((await submit(database, ask(order_id, 1)))[0]) == (409, "order_not_paid")
        assert await requests(database, order_id) == []


async def test_an_order_has_no_end_of_requests(database: Database) -> None:
    order_id, of = await paid(database)
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO refund_request (request_id, order_id, merchant_id, payment_id, origin, currency, amount_minor, note,"
            " state, grants_recalled, code, requested_at, ended_at, correlation_id, version)"
            " SELECT gen_random_uuid(), $1, $2, $3, 'order', 'CNY', 1, 'n', 'REFUSED', 0, 'c', $4, $4, 'c', 1"
            " FROM generate_series(1, 1000)",
            order_id,
            MERCHANT,
            parse("pay", of.payment_id),
            NOW,
        )
    assert refusal((await submit(database, ask(order_id, 1)))[0]) == (409, "too_many_refunds")


async def test_lines_are_reserved_too(database: Database) -> None:
    order_id, _ = await paid(database)
    (outcome,) = await submit(database, ask(order_id, lines=[LineWish(line=1, quantity=1)]))
    assert isinstance(outcome, Told)
    shown = msgspec.json.decode(outcome.body, type=RefundRequestShown)
    assert (shown.amount_minor, shown.lines[0].quantity) == (300, 1)
    (again,) = await submit(database, ask(order_id, lines=[LineWish(line=1, minor=1)]))
    assert refusal(again) == (409, "refund_exceeds_line")
    assert isinstance(again, Told)
    assert msgspec.json.decode(again.body)["field"] == "lines[0].amount_minor"


async def test_twenty_requests_at_once_reserve_no_more_than_was_paid(database: Database) -> None:
    """On real locks: twenty connections, and twenty callers of two processes' group commits."""
    order_id, _ = await paid(database)
    outcomes = await asyncio.gather(*(submit(database, ask(order_id, 60)) for _ in range(20)))
    assert sorted(refusal(o)[1] if o.status == 409 else "taken" for (o,) in outcomes if isinstance(o, Told)) == [
        *["refund_exceeds_paid"] * 15, *["taken"] * 5,
    ]  # fmt: skip
    other, _ = await paid(database)
    groups = [asking_refunds(database, CLOCK, None) for _ in range(2)]
    async with asyncio.TaskGroup() as running:
        for group in groups:
            running.create_task(group.run())
        answers = await asyncio.gather(*(groups[n % 2].submit(ask(other, 70)) for n in range(20)))
        for group in groups:
            await group.stop()
    assert sum(isinstance(answer, Told) and answer.status == 201 for answer in answers) == 4
    assert await requests(database, other) == [("order", "REQUESTED", 70, None)] * 4


async def test_a_request_moves_with_its_refund_once_whatever_is_told_again(database: Database) -> None:
    order_id, of = await paid(database)
    request = await asked(database, order_id, 100)
    facts = {"refund_request_id": request.refund_request_id, "refund_id": show("rfd", uuid7())}
    tale = [
        (refund(v1.RefundRequested, of, 100, **facts), 1),
        (refund(v1.RefundAbnormal, of, 100, **facts), 2),
        (refund(v1.RefundSucceeded, of, 100, **facts), 3),
    ]
    for upto in (1, 2, 3):
        for data, sequence in tale[:upto]:
            for _ in range(2):
                await hear(database, data, sequence)
    assert await requests(database, order_id) == [("order", "SUCCEEDED", 100, None)]
    assert await steps(database, order_id) == [
        "asked", "grants_recalled", "money_asked", "taken", "abnormal", "succeeded",
    ]  # fmt: skip
    assert (await state(database, order_id), await reasons(database)) == ("PARTIALLY_REFUNDED", [])


async def recalled(database: Database) -> tuple[int, list[int]]:
    """How many of the order's points were taken back, and how many grants each request's recall touched."""
    async with database.read() as conn:
        units = await conn.fetchval("SELECT sum(recalled)::bigint FROM fulfilment_grant")
        rows = await conn.fetch("SELECT grants_recalled FROM refund_request ORDER BY request_id")
    return units, [row["grants_recalled"] for row in rows]


async def points_for_all(database: Database) -> None:
    """From now on every order of the merchant brings 300 points."""
    async with database.transaction() as tx:
        await tx.execute(
            "INSERT INTO benefit (benefit_id, merchant_id, name, kind, units, uses_max, by_rule, rule_minor, created_at)"
            " VALUES ($1, $2, 'points', 'points', 300, 1, true, 0, $3)",
            uuid7(),
            MERCHANT,
            NOW,
        )


async def test_grants_go_back_before_money_and_stay_gone_when_the_money_does_not(database: Database) -> None:
    await points_for_all(database)
    order_id, of = await paid(database)
    first = await asked(database, order_id, 100)
    assert await recalled(database) == (100, [1])
    await hear(database, refused(of, first))
    assert (await recalled(database), await reasons(database)) == ((100, [1]), ["recalled_in_vain"])
    # What was recalled in vain counts for the next request, which recalls only what goes beyond it.
    await asked(database, order_id, 100)
    assert await recalled(database) == (100, [1, 0])
    await asked(database, order_id, 150)
    assert await recalled(database) == (250, [1, 0, 1])
    # The rest is asked for at the payment service: the same recall, after the fact.
    await hear(database, refund(v1.RefundRequested, of, 50), 1)
    assert await recalled(database) == (300, [1, 0, 1, 1])


async def test_the_timeline_shows_each_step_with_its_evidence(database: Database) -> None:
    order_id, of = await paid(database)
    request = await asked(database, order_id, 100)
    await hear(database, refund(v1.RefundRequested, of, 100, refund_request_id=request.refund_request_id), 1)
    async with database.read() as conn:
        shown = await refund_requests.timeline(conn, order_id, 10)
        event_id = await conn.fetchval("SELECT event_id FROM outbox WHERE event_type = 'order.refund_requested.v1'")
    assert [(step.what, step.status, step.event_id, step.subject) for step in shown] == [
        ("asked", "REQUESTED", None, request.refund_request_id),
        ("grants_recalled", "REQUESTED", None, request.refund_request_id),
        ("money_asked", "REQUESTED", event_id, request.refund_request_id),
        ("taken", "SENT", None, request.refund_request_id),
    ]
    assert shown[-1].causation_id is not None


async def test_an_end_that_is_heard_before_the_beginning(database: Database) -> None:
    order_id, of = await paid(database)
    request = await asked(database, order_id, 300)
    facts = {"refund_request_id": request.refund_request_id, "refund_id": show("rfd", uuid7())}
    await hear(database, refund(v1.RefundSucceeded, of, 300, **facts), 2)
    await hear(database, refund(v1.RefundRequested, of, 300, **facts), 1)
    assert await requests(database, order_id) == [("order", "SUCCEEDED", 300, None)]
    assert await state(database, order_id) == "REFUNDED"


async def test_a_refund_asked_at_the_payment_service_is_recorded_with_the_same_recall(database: Database) -> None:
    order_id, of = await paid(database)
    refund_id = show("rfd", uuid7())
    for _ in range(2):
        await hear(database, refund(v1.RefundRequested, of, 250, refund_id=refund_id), 1)
    assert await requests(database, order_id) == [("payment", "SENT", 250, None)]
    assert await steps(database, order_id) == ["taken", "grants_recalled"]
    assert refusal((await submit(database, ask(order_id, 51)))[0]) == (409, "refund_exceeds_paid")
    await hear(database, refund(v1.RefundSucceeded, of, 250, refund_id=refund_id), 2)
    assert await requests(database, order_id) == [("payment", "SUCCEEDED", 250, None)]
    # One whose beginning was never heard: it was under way before requests were recorded.
    await hear(database, refund(v1.RefundSucceeded, of, 50, payment_refunded_minor=300), 2)
    assert (await requests(database, order_id))[1:] == [("payment", "SUCCEEDED", 50, None)]
    assert await state(database, order_id) == "REFUNDED"
    assert "order.refund_requested.v1" not in dict(await told(database))


async def test_a_race_at_both_doors_is_decided_by_the_payment_service(database: Database) -> None:
    order_id, of = await paid(database)
    here = await asked(database, order_id, 300)
    await hear(database, refund(v1.RefundRequested, of, 200), 1)
    await hear(database, refused(of, here, "refund_exceeds_paid"))
    assert await requests(database, order_id) == [
        ("order", "REFUSED", 300, "refund_exceeds_paid"), ("payment", "SENT", 200, None),
    ]  # fmt: skip
    await asked(database, order_id, 100)


async def test_money_that_goes_back_by_rule_is_no_request(database: Database) -> None:
    order_id, _ = await paid(database)
    second = payment(v1.PaymentDuplicate, order_id)
    await hear(database, refund(v1.RefundRequested, second, 300, reason="duplicate"), 1)
    assert await requests(database, order_id) == []
    # The merchant's own refund of money that never paid the order is one, without recall and without a claim on the order.
    await hear(database, refund(v1.RefundRequested, second, 300), 1)
    assert await requests(database, order_id) == [("payment", "SENT", 300, None)]
    assert await steps(database, order_id) == ["taken"]
    await asked(database, order_id, 300)


async def test_late_money_is_asked_back_once(database: Database) -> None:
    order_id = await placed(database)
    late = payment(v1.PaymentPaidLate, order_id, status="PAID_LATE")
    wish = LateMoney(
        order_id=order_id,
        payment_id=PaymentId(parse("pay", late.payment_id)),
        amount=Money(minor=300, currency="CNY"),
        cause=Cause(correlation_id="r" * 32, causation_id="late"),
    )
    for _ in range(2):
        async with database.transaction() as tx:
            await ask_refund.late_money([wish], tx, CLOCK)
    assert await requests(database, order_id) == [("late_money", "REQUESTED", 300, None)]
    assert await steps(database, order_id) == ["asked", "money_asked"]
    async with database.read() as conn:
        payload = await conn.fetchval("SELECT payload FROM outbox WHERE event_type = 'order.refund_requested.v1'")
        request = (await refund_requests.of_order(conn, order_id, limit=1))[0]
    data = msgspec.json.decode(payload, type=OrderRefundRequested)
    assert (data.refund_reason, data.refund_payment_id, data.refund_lines) == ("late_money", late.payment_id, [])
    facts = {"refund_request_id": show("rrq", request.request_id), "reason": "late"}
    await hear(database, refund(v1.RefundSucceeded, late, 300, **facts), 2)
    assert await requests(database, order_id) == [("late_money", "SUCCEEDED", 300, None)]
    assert (await state(database, order_id), await reasons(database)) == ("PLACED", [])


async def test_what_does_not_fit_opens_one_case_and_moves_nothing(database: Database) -> None:
    order_id, of = await paid(database)
    request = await asked(database, order_id, 100)
    facts = {"refund_request_id": request.refund_request_id, "refund_id": show("rfd", uuid7())}
    for _ in range(2):
        await hear(database, refund(v1.RefundRequested, of, 99, **facts), 1)
    assert (await requests(database, order_id), await reasons(database)) == (
        [("order", "REQUESTED", 100, None)],
        ["refund_differs"],
    )
    await hear(database, refused(of, request))
    await hear(database, refund(v1.RefundFailed, of, 100, **facts), 3)
    assert (await requests(database, order_id))[0][1] == "REFUSED"
    assert await reasons(database) == ["refund_contradicts", "refund_differs"]


async def test_what_is_not_known_waits_or_is_poison(database: Database) -> None:
    order_id, of = await paid(database)
    with pytest.raises(Poison):
        await hear(database, refund(v1.RefundRequested, of, 1, refund_request_id=show("rrq", uuid7())), 1)
    with pytest.raises(Poison):
        await hear(database, refund(v1.RefundRequested, of, 1, refund_request_id="rrq_1"), 1)
    strange = payment(v1.PaymentSucceeded, OrderId(uuid7()))
    with pytest.raises(RetryLater):
        await hear(database, refund(v1.RefundRequested, strange, 1), 1)
    assert await requests(database, order_id) == []


async def test_the_running_role_cannot_rewrite_what_was_done(database: Database) -> None:
    order_id, _ = await paid(database)
    await asked(database, order_id, 100)
    async with database.read() as conn:
        rights = await conn.fetch(
            "SELECT t, p FROM unnest(ARRAY['refund_request_step', 'refund_request_line', 'refund_request']) t,"
            " unnest(ARRAY['UPDATE', 'DELETE']) p WHERE has_table_privilege(t, p)"
        )
        amount = await conn.fetchval("SELECT has_column_privilege('refund_request', 'amount_minor', 'UPDATE')")
    assert (list(rights), amount) == ([], False)
