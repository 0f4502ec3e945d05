"""Refunds on a real database: amounts are reserved and freed once, whatever comes twice, late, wrong or in another order."""

import datetime as dt

import pytest
from msgspec.structs import replace

from defray_kernel.contracts.order_v1 import OrderClosing
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.idempotency import Mismatch, Replay, Running
from defray_payment.commands import record_refund
from defray_payment.commands.ask_refund import SendRefund
from defray_payment.commands.record_refund import RecordRefund
from defray_payment.commands.start_payment import Told
from defray_payment.domain.refund import UNRESOLVED_AFTER, RefundStatus
from defray_payment.domain.reports import RefundReport, Report, Source

from .given import PRICE, ask, callback, order_event, refund, refund_report, report, terms
from .world import World


@pytest.fixture
def world(database: Database, envelope: Envelope) -> World:
    return World(database, envelope)


async def test_a_refund_is_there_and_its_amount_reserved_before_the_channel_is_called(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    asked = await world.asked(paid, 900)
    assert (asked.status, asked.refund_no, asked.doubt) == (RefundStatus.REQUESTED, asked.refund_no, True)
    assert await world.sums(paid) == (900, 0)
    assert (await world.told(of))[-1] == ("refund.requested", 1)
    assert await world.rows("SELECT to_status, version, cause FROM refund_transition") == [
        ("REQUESTED", 1, "ask_refund")
    ]


async def test_the_same_key_again(world: World) -> None:
    paid = await world.paid(terms())
    first = ask(paid, 900, key="k")
    (sent,) = await world.ask_refund(first)
    assert isinstance(sent, SendRefund)
    (twin,) = await world.ask_refund(ask(paid, 900, key="k"))
    assert isinstance(twin, Running)
    (other,) = await world.ask_refund(ask(paid, 901, key="k"))
    assert isinstance(other, Mismatch)
    # The answer to its COMMIT was lost; then its worker died: each time the same refund, the same number.
    (again,) = await world.ask_refund(first)
    assert again == SendRefund(refund=sent.refund, again=True)
    world.clock.advance(dt.timedelta(seconds=61))
    (resumed,) = await world.ask_refund(ask(paid, 900, key="k"))
    assert isinstance(resumed, SendRefund)
    assert (resumed.refund.refund_no, resumed.again) == (sent.refund.refund_no, True)
    record = RecordRefund(key=first.key, report=refund_report(sent.refund, RefundReport.PROCESSING))
    async with world.database.transaction() as tx:
        resolved = await record_refund.resolve([record], tx)
        (told,) = await record_refund.handle(resolved, tx, world.clock, answers=world.answers)
    assert told.status == 201
    (replay,) = await world.ask_refund(ask(paid, 900, key="k"))
    assert replay == Replay(status=told.status, body=told.body)
    assert await world.sums(paid) == (900, 0)


async def test_partial_refunds_never_exceed_what_was_paid_and_a_failed_one_frees_its_part(world: World) -> None:
    paid = await world.paid(terms())
    first = await world.asked(paid, PRICE.minor - 100)
    (refused,) = await world.ask_refund(ask(paid, 101))
    assert isinstance(refused, Told)
    assert refused.status == 409
    await world.hear_of_refund(refund_report(first, RefundReport.FAILED))
    assert await world.sums(paid) == (0, 0)
    whole = await world.asked(paid, PRICE.minor)
    await world.hear_of_refund(refund_report(whole, RefundReport.SUCCEEDED))
    assert await world.sums(paid) == (PRICE.minor, PRICE.minor)
    (refused,) = await world.ask_refund(ask(paid, 1))
    assert isinstance(refused, Told)
    assert refused.status == 409


async def test_two_equal_refunds_are_two(world: World) -> None:
    paid = await world.paid(terms())
    one, two = await world.asked(paid, 700), await world.asked(paid, 700)
    assert one.refund_no != two.refund_no
    for each in (one, two):
        await world.hear_of_refund(refund_report(each, RefundReport.SUCCEEDED))
    assert await world.sums(paid) == (1400, 1400)


async def test_a_refund_that_fails_days_after_it_was_accepted(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    asked = await world.asked(paid, 900)
    await world.hear_of_refund(refund_report(asked, RefundReport.PROCESSING))
    world.clock.advance(dt.timedelta(days=5))
    failed = refund_report(asked, RefundReport.FAILED, callback_id="R-1")
    await world.hear_of_refund(failed)
    await world.hear_of_refund(failed)
    await world.hear_of_refund(refund_report(asked, RefundReport.FAILED, callback_id="R-2"))
    assert await world.sums(paid) == (0, 0)
    assert (await world.told(of))[-2:] == [("refund.requested", 1), ("refund.failed", 2)]
    # A success after that is no move: the amount may have been used since.
    await world.hear_of_refund(refund_report(asked, RefundReport.SUCCEEDED))
    assert await world.cases() == ["contradiction"]
    assert await world.sums(paid) == (0, 0)


async def test_a_stuck_refund_keeps_its_amount_until_a_person_has_acted(world: World) -> None:
    of = terms()
    paid = await world.paid(of)
    asked = await world.asked(paid, 900)
    await world.hear_of_refund(refund_report(asked, RefundReport.ABNORMAL, callback_id="R-1"))
    assert await world.sums(paid) == (900, 0)
    assert await world.cases() == ["refund_abnormal"]
    await world.hear_of_refund(refund_report(asked, RefundReport.SUCCEEDED))
    assert await world.sums(paid) == (900, 900)
    assert [type_ for type_, _ in (await world.told(of))[-3:]] == [
        "refund.requested",
        "refund.abnormal",
        "refund.succeeded",
    ]


async def test_an_unclear_answer_keeps_the_number_and_the_amount(world: World) -> None:
    paid = await world.paid(terms())
    asked = await world.asked(paid, 900)
    for _ in range(3):
        (applied,) = await world.hear_of_refund(
            refund_report(asked, RefundReport.UNCLEAR, again=False, source=Source.CREATE)
        )
        assert applied.refund is not None
        assert (applied.refund.status, applied.refund.doubt) == (RefundStatus.REQUESTED, True)
    assert await world.sums(paid) == (900, 0)
    # A later call that for certain did nothing proves nothing of the first one.
    (applied,) = await world.hear_of_refund(refund_report(asked, RefundReport.UNSENT, again=True))
    assert applied.refund is not None
    assert applied.refund.doubt


async def test_a_first_call_that_for_certain_did_nothing_leaves_no_doubt(world: World) -> None:
    paid = await world.paid(terms())
    asked = await world.asked(paid, 900)
    (applied,) = await world.hear_of_refund(refund_report(asked, RefundReport.UNSENT, again=False, wait_s=30))
    assert applied.refund is not None
    assert (applied.refund.doubt, applied.refund.next_query_at) == (
        False,
        world.clock.now() + dt.timedelta(seconds=30),
    )


async def test_what_lasts_three_days_is_put_before_a_person_once(world: World) -> None:
    paid = await world.paid(terms())
    asked = await world.asked(paid, 900)
    world.clock.advance(UNRESOLVED_AFTER)
    for _ in range(3):
        await world.hear_of_refund(refund_report(asked, RefundReport.PROCESSING))
        world.clock.advance(dt.timedelta(days=1))
    assert await world.cases() == ["refund_unresolved"]


@pytest.mark.parametrize("changes", [{"amount_minor": 1}, {"currency": "USD"}, {"attempt_no": "0" * 26}])
async def test_a_wrong_claim_changes_nothing_but_is_seen(world: World, changes: dict[str, object]) -> None:
    paid = await world.paid(terms())
    asked = await world.asked(paid, 900)
    for _ in range(2):
        await world.hear_of_refund(refund_report(asked, RefundReport.SUCCEEDED, **changes))
    assert await world.refunds() == [("merchant", "REQUESTED", 900)]
    assert await world.sums(paid) == (900, 0)
    assert len(await world.cases()) == 1
    assert await world.rows("SELECT count(*) FROM refund_evidence WHERE verdict LIKE 'refused:%'") == [(2,)]


async def test_a_callback_that_says_another_thing_under_the_same_id(world: World) -> None:
    paid = await world.paid(terms())
    asked = await world.asked(paid, 900)
    await world.hear_of_refund(refund_report(asked, RefundReport.SUCCEEDED, callback_id="R-1"))
    await world.hear_of_refund(refund_report(asked, RefundReport.FAILED, callback_id="R-1"))
    assert await world.cases() == ["callback_conflict"]
    assert await world.sums(paid) == (900, 900)


class TestC6RefundCallbackBeforePaymentCallback:
    """A refund that was made at the channel itself, told before the payment: neither is lost, and the payment is asked."""

    async def test_the_payment_is_asked_at_once(self, world: World) -> None:
        of = terms()
        begun = await world.opened(of)
        stranger = refund(attempt_no=begun.attempt.attempt_no)
        await world.hear_of_refund(refund_report(stranger, RefundReport.SUCCEEDED, callback_id="R-1"))
        assert await world.cases() == ["unknown_refund"]
        due = await world.rows("SELECT next_query_at FROM attempt")
        assert due == [(world.clock.now(),)]
        await world.apply(report(Report.PAID, begun.attempt.attempt_no))
        assert await world.status(of) == ["SUCCEEDED"]
        assert await world.rows("SELECT count(*) FROM callback") == [(1,)]

    async def test_one_that_names_nothing_of_ours_is_kept(self, world: World) -> None:
        await world.hear_of_refund(refund_report(refund(), RefundReport.SUCCEEDED, callback_id="R-1"))
        assert await world.cases() == ["unknown_refund"]
        assert await world.rows("SELECT verdict FROM refund_evidence") == [("refused:unknown_refund",)]


class TestMoneyThatMayNotBeKept:
    """It goes back whole, by a refund that is born in the transaction that learned of the money."""

    async def test_c21_two_payments_of_one_order(self, world: World) -> None:
        of = terms()
        first = await world.opened(of)
        second = await world.begun(of, product="jsapi")
        await world.apply(report(Report.OPENED, second.attempt.attempt_no))
        await world.apply(callback(first.attempt.attempt_no, "EV-1"))
        await world.apply(callback(second.attempt.attempt_no, "EV-2"))
        await world.apply(callback(second.attempt.attempt_no, "EV-3"))
        assert await world.refunds() == [("duplicate", "REQUESTED", PRICE.minor)]
        assert [type_ for type_, _ in (await world.told(of))[-2:]] == ["payment.duplicate", "refund.requested"]
        ((due, doubt),) = await world.rows("SELECT next_query_at, doubt FROM refund")
        assert (due, doubt) == (world.clock.now(), False)

    async def test_c7_money_after_the_end(self, world: World) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        await world.hear(order_event(OrderClosing, of, 2))
        await world.apply(report(Report.CLOSED, no))
        (applied,) = await world.apply(callback(no, "EV-1"))
        assert applied.payment is not None
        assert await world.refunds() == [("late", "REQUESTED", PRICE.minor)]
        assert await world.sums(applied.payment) == (PRICE.minor, 0)
        assert [type_ for type_, _ in (await world.told(of))[-3:]] == [
            "payable.closed",
            "payment.paid_late",
            "refund.requested",
        ]

    async def test_a_return_that_fails_is_put_before_a_person_and_may_be_asked_for_again(self, world: World) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        await world.hear(order_event(OrderClosing, of, 2))
        await world.apply(report(Report.CLOSED, no))
        (applied,) = await world.apply(callback(no, "EV-1"))
        assert applied.payment is not None
        ((number,),) = await world.rows("SELECT refund_no FROM refund")
        mine = refund(applied.payment, refund_no=number, attempt_no=no)
        await world.hear_of_refund(refund_report(mine, RefundReport.REFUSED, source=Source.CREATE, again=False))
        assert await world.cases() == ["send_back_failed"]
        assert await world.sums(applied.payment) == (0, 0)
        assert (await world.asked(applied.payment, PRICE.minor)).refund_no != number

    async def test_c8_a_wrong_amount_by_callback_is_a_case_and_a_question(self, world: World) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        await world.apply(callback(no, "EV-1", amount_minor=1))
        assert (await world.status(of), await world.refunds()) == (["PENDING"], [])
        assert await world.cases() == ["amount_mismatch"]
        assert await world.rows("SELECT next_query_at FROM attempt") == [(world.clock.now(),)]

    @pytest.mark.parametrize("minor", [1, PRICE.minor - 1, PRICE.minor + 1])
    async def test_c8_a_wrong_amount_that_the_channel_states_when_asked_goes_back(
        self, world: World, minor: int
    ) -> None:
        of = terms()
        begun = await world.opened(of)
        for _ in range(2):
            await world.apply(report(Report.PAID, begun.attempt.attempt_no, amount_minor=minor))
        assert (await world.status(of), await world.refunds()) == (["PENDING"], [("mismatch", "REQUESTED", minor)])
        assert await world.sums(begun.payment) == (0, 0)
        assert await world.cases() == ["amount_mismatch"]
        ((number, total),) = await world.rows("SELECT refund_no, total_minor FROM refund")
        assert total == minor
        mine = refund(begun.payment, refund_no=number, amount=replace(PRICE, minor=minor))
        await world.hear_of_refund(refund_report(mine, RefundReport.SUCCEEDED))
        assert await world.refunds() == [("mismatch", "SUCCEEDED", minor)]
        assert await world.sums(begun.payment) == (0, 0)

    @pytest.mark.parametrize(
        "changes", [{"amount_minor": 0}, {"amount_minor": -5}, {"currency": "USD"}, {"merchant_ref": "1900000110"}]
    )
    async def test_c9_what_is_not_our_money_for_certain_is_not_sent_back(
        self, world: World, changes: dict[str, object]
    ) -> None:
        begun = await world.opened(terms())
        await world.apply(report(Report.PAID, begun.attempt.attempt_no, **changes))
        assert await world.refunds() == []
        assert len(await world.cases()) == 1


async def test_postgres_itself_refuses_more_than_was_paid(world: World) -> None:
    paid = await world.paid(terms())
    with pytest.raises(Exception, match="payment_refunds_within_paid"):
        async with world.database.transaction() as tx:
            await tx.execute(
                "UPDATE payment SET refund_reserved_minor = paid_minor + 1 WHERE payment_id = $1", paid.payment_id
            )
    assert await world.sums(paid) == (0, 0)
