"""Commands on a real database: one effect each, whatever comes twice, late, wrong or in another order."""

import datetime as dt
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from defray_kernel.contracts.order_v1 import OrderClosing, OrderPlaced
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.idempotency import Mismatch, Replay, Running
from defray_kernel.ids import show
from defray_kernel.money import Money
from defray_payment.commands import (
    ask_close,
    keep_undecided,
    record_answer,
)
from defray_payment.commands.apply_channel_report import Action
from defray_payment.commands.ask_close import AskClose
from defray_payment.commands.record_answer import RecordAnswer
from defray_payment.commands.start_payment import Send, Told
from defray_payment.domain.reports import Report, Source

from .given import NOW, callback, order_event, report, start, terms
from .world import World


@pytest.fixture
def world(database: Database, envelope: Envelope) -> World:
    return World(database, envelope)


async def test_a_payment_and_its_attempt_are_there_before_the_channel_is_called(world: World) -> None:
    of = terms()
    begun = await world.begun(of)
    assert (begun.payment.status, begun.attempt.status, begun.again) == ("CREATED", "SENDING", False)
    assert begun.payment.correlation_id == "cid-1"
    assert await world.told(of) == [("payment.created", 1)]
    assert await world.rows("SELECT to_status, version FROM payment_transition") == [("CREATED", 1)]


async def test_the_same_key_again(world: World) -> None:
    of = terms()
    first = start(of, key="k")
    (begun,) = await world.start(first)
    assert isinstance(begun, Send)
    # A twin with other ids while the first is at the channel; another body; the first itself after a lost COMMIT.
    (twin,) = await world.start(start(of, key="k"))
    assert isinstance(twin, Running)
    (other,) = await world.start(start(of, key="k", product="jsapi"))
    assert isinstance(other, Mismatch)
    (again,) = await world.start(first)
    assert again == replace(begun, again=True)
    # Its worker died: when the lease is over, a twin goes on with the same payment under the same number.
    world.clock.advance(dt.timedelta(seconds=61))
    (resumed,) = await world.start(start(of, key="k"))
    assert isinstance(resumed, Send)
    assert (resumed.attempt.attempt_no, resumed.again) == (begun.attempt.attempt_no, True)
    record = RecordAnswer(key=first.key, report=report(Report.OPENED, begun.attempt.attempt_no))
    async with world.database.transaction() as tx:
        resolved = await record_answer.resolve([record], tx)
        (told,) = await record_answer.handle(resolved, tx, world.clock, answers=world.answers)
    (replay,) = await world.start(start(of, key="k"))
    assert replay == Replay(status=told.status, body=told.body)
    # The one whose lease was taken over hears the answer that was given.
    async with world.database.transaction() as tx:
        (late,) = await record_answer.handle(resolved, tx, world.clock, answers=world.answers)
    assert late == told
    assert await world.told(of) == [("payment.created", 1), ("payment.pending", 2)]


async def test_another_key_while_the_same_way_to_pay_is_open(world: World) -> None:
    of = terms()
    begun = await world.opened(of)
    (reused,) = await world.start(start(of))
    assert isinstance(reused, Told)
    assert reused.status == 201
    assert msgspec.json.decode(reused.body)["payment_id"] == show("pay", begun.payment.payment_id)
    assert await world.status(of) == ["PENDING"]
    # Another product while the first is open: its own payment. While that one is unclear: none.
    second = await world.begun(of, product="jsapi")
    await world.apply(report(Report.UNCLEAR, second.attempt.attempt_no))
    (refused,) = await world.start(start(of, product="h5"))
    assert isinstance(refused, Told)
    assert (refused.status, msgspec.json.decode(refused.body)["code"]) == (409, "attempt_unknown")


@pytest.mark.parametrize("case", ["order_paid", "order_closed", "order_expired", "order_mismatch"])
async def test_no_payment_is_started(world: World, case: str) -> None:
    of, wish = terms(), None
    match case:
        case "order_paid":
            begun = await world.opened(of)
            await world.apply(report(Report.PAID, begun.attempt.attempt_no))
        case "order_closed":
            await world.hear(order_event(OrderClosing, of, 1))
        case "order_expired":
            world.clock.advance(dt.timedelta(hours=2))
        case "order_mismatch":
            await world.hear(order_event(OrderPlaced, of, 1))
            wish = start(replace(of, amount=Money(minor=1, currency="CNY")))
    before = await world.rows("SELECT count(*) FROM payment")
    (told,) = await world.start(wish or start(of))
    assert isinstance(told, Told)
    assert (told.status, msgspec.json.decode(told.body)["code"]) == (409, case)
    assert await world.rows("SELECT count(*) FROM payment") == before


async def test_many_orders_in_one_transaction(world: World) -> None:
    orders = [terms() for _ in range(50)]
    begun = await world.start(*(start(of) for of in orders))
    sent = [each for each in begun if isinstance(each, Send)]
    assert len(sent) == 50
    moved = await world.apply(*(callback(each.attempt.attempt_no, f"EV-{i}") for i, each in enumerate(sent)))
    assert {each.verdict for each in moved} == {"moved:SUCCEEDED"}
    assert [await world.told(of) for of in orders] == [[("payment.created", 1), ("payment.succeeded", 2)]] * 50
    claimed = await world.rows("SELECT order_id, claimed_by FROM payable ORDER BY order_id")
    assert sorted(claimed) == sorted((each.payment.order_id, each.payment.payment_id) for each in sent)


async def test_a_callback_before_the_create_reply(world: World) -> None:
    of = terms()
    begun = await world.begun(of)
    await world.apply(callback(begun.attempt.attempt_no, "EV-1"))
    (late,) = await world.apply(report(Report.OPENED, begun.attempt.attempt_no, source=Source.CREATE))
    assert late.verdict == "repeated"
    assert await world.status(of) == ["SUCCEEDED"]
    assert await world.told(of) == [("payment.created", 1), ("payment.succeeded", 2)]


async def test_the_same_money_again_by_every_way(world: World) -> None:
    of = terms()
    no = (await world.opened(of)).attempt.attempt_no
    verdicts = []
    for each in (callback(no, "EV-1"), callback(no, "EV-1"), callback(no, "EV-2"), report(Report.PAID, no)):
        verdicts += [applied.verdict for applied in await world.apply(each)]
    assert verdicts == ["moved:SUCCEEDED", "replayed", "repeated", "repeated"]
    assert (await world.told(of))[-1] == ("payment.succeeded", 3)
    assert len(await world.told(of)) == 3
    assert await world.cases() == []
    assert await world.rows("SELECT callback_id FROM callback ORDER BY 1") == [("EV-1",), ("EV-2",)]
    assert await world.rows("SELECT status, next_query_at FROM attempt") == [("PAID", None)]


async def test_other_content_under_one_callback_id_is_a_case(world: World) -> None:
    of = terms()
    no = (await world.opened(of)).attempt.attempt_no
    await world.apply(callback(no, "EV-1"))
    (second,) = await world.apply(callback(no, "EV-1", amount_minor=1))
    assert second.verdict == "replayed"
    assert await world.cases() == ["callback_conflict"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"amount_minor": 1}, "amount_mismatch"),
        ({"amount_minor": 0}, "amount_mismatch"),
        ({"amount_minor": -19900}, "amount_mismatch"),
        ({"amount_minor": 10**15}, "amount_mismatch"),
        ({"currency": "USD"}, "currency_mismatch"),
        ({"currency": "?"}, "currency_mismatch"),
        ({"merchant_ref": "1900000110"}, "merchant_mismatch"),
        ({"app_ref": None}, "app_mismatch"),
        ({"channel_txn_id": None}, "channel_txn_missing"),
    ],
)
async def test_wrong_money_never_moves_a_payment(world: World, changes: dict[str, Any], reason: str) -> None:
    of = terms()
    no = (await world.opened(of)).attempt.attempt_no
    (applied,) = await world.apply(callback(no, "EV-1", **changes))
    assert applied.verdict == f"refused:{reason}"
    assert await world.status(of) == ["PENDING"]
    assert await world.cases() == [reason]
    ((checks, verdict),) = await world.rows("SELECT checks, verdict FROM evidence WHERE source = 'callback'")
    assert verdict == f"refused:{reason}"
    failed = [check["reason"] for check in msgspec.json.decode(checks) if not check["passed"]]
    assert failed[0] == reason
    assert await world.rows("SELECT next_query_at IS NOT NULL FROM attempt") == [(True,)]
    # The truth still counts when it comes.
    await world.apply(callback(no, "EV-2"))
    assert await world.status(of) == ["SUCCEEDED"]


async def test_one_channel_transaction_pays_one_payment(world: World) -> None:
    of, other = terms(), terms()
    no = (await world.opened(of)).attempt.attempt_no
    second = (await world.opened(other)).attempt.attempt_no
    await world.apply(callback(no, "EV-1", channel_txn_id="T1"))
    (applied,) = await world.apply(callback(second, "EV-2", channel_txn_id="T1"))
    assert applied.verdict == "refused:channel_txn_reused"
    assert await world.status(other) == ["PENDING"]


async def test_a_callback_about_nothing_we_know_is_kept_with_a_case(world: World) -> None:
    (applied,) = await world.apply(callback("7" * 26, "EV-1"))
    assert (applied.verdict, applied.payment) == ("refused:unknown_attempt", None)
    assert await world.cases() == ["unknown_attempt"]
    assert await world.rows("SELECT attempt_no FROM callback") == [("7" * 26,)]
    await world.apply(callback("7" * 26, "EV-1"))
    assert await world.cases() == ["unknown_attempt"]


async def test_a_second_payment_of_one_order_is_a_duplicate(world: World) -> None:
    of = terms()
    first = await world.opened(of)
    second = await world.begun(of, product="jsapi")
    await world.apply(report(Report.OPENED, second.attempt.attempt_no))
    await world.apply(callback(second.attempt.attempt_no, "EV-2"))
    await world.apply(callback(first.attempt.attempt_no, "EV-1"))
    assert await world.status(of) == ["DUPLICATE", "SUCCEEDED"]
    told = [type_ for type_, _ in await world.told(of)]
    assert told[-3:] == ["payment.succeeded", "payment.duplicate", "refund.requested"]


async def test_money_on_a_closed_payment_of_an_open_order_is_kept(world: World) -> None:
    of = terms()
    no = (await world.opened(of)).attempt.attempt_no
    await world.apply(report(Report.CLOSED, no))
    assert await world.status(of) == ["CLOSED"]
    await world.apply(callback(no, "EV-1"))
    assert await world.status(of) == ["SUCCEEDED"]
    assert [s for _, s in await world.told(of)] == [1, 2, 3, 4]


async def test_money_that_the_channel_sent_back_on_our_word_is_a_case_and_moves_nothing(world: World) -> None:
    of = terms()
    no = (await world.opened(of)).attempt.attempt_no
    await world.apply(report(Report.RETURNED, no, source=Source.CLOSE))
    assert (await world.status(of), await world.cases()) == (["CLOSED"], [])
    told = await world.told(of)
    await world.apply(callback(no, "EV-1"))
    assert (await world.status(of), await world.cases()) == (["CLOSED"], ["money_returned"])
    assert await world.told(of) == told
    assert await world.rows("SELECT status FROM attempt") == [("RETURNED",)]


async def test_money_that_went_back_without_our_word_closes_the_payment_and_is_a_case(world: World) -> None:
    of = terms()
    no = (await world.opened(of)).attempt.attempt_no
    await world.apply(report(Report.RETURNED, no))
    assert (await world.status(of), await world.cases()) == (["CLOSED"], ["money_returned"])


async def test_a_refusal_fails_the_payment_and_another_may_start(world: World) -> None:
    of = terms()
    no = (await world.begun(of)).attempt.attempt_no
    (applied,) = await world.apply(report(Report.REFUSED, no, source=Source.CREATE, failure_code="channel_refused"))
    assert applied.payment is not None
    assert (applied.payment.status, applied.payment.failure_code) == ("FAILED", "channel_refused")
    assert isinstance((await world.start(start(of)))[0], Send)


async def test_the_next_action_survives_sealed(world: World) -> None:
    of = terms()
    begun = await world.begun(of)
    no = begun.attempt.attempt_no
    ends = NOW + dt.timedelta(hours=1)
    plain = msgspec.json.encode({"type": "qr", "data": {"code_url": "weixin://x"}, "expires_at": ends})
    sealed = world.envelope.seal(plain, f"attempt.action:{no}")
    opened = replace(report(Report.OPENED, no), action=Action(sealed=sealed, expires_at=ends))
    (applied,) = await world.apply(opened)
    assert applied.payment is not None
    assert applied.attempt is not None
    shown = world.answers.show(applied.payment, applied.attempt)
    assert shown.next_action is not None
    assert shown.next_action.data == {"code_url": "weixin://x"}
    assert await world.rows("SELECT position('weixin'::bytea IN action_sealed) FROM attempt") == [(0,)]


async def test_an_order_that_differs_from_its_token_is_a_case(world: World) -> None:
    of = terms()
    await world.begun(of)
    await world.hear(order_event(OrderPlaced, of, 1, amount_minor=1))
    assert await world.cases() == ["order_mismatch"]


async def test_asking_for_a_close_marks_live_attempts_only(world: World) -> None:
    of = terms()
    begun = await world.opened(of)
    wish = AskClose(order_id=of.order_id, payment_id=begun.payment.payment_id)
    async with world.database.transaction() as tx:
        (asked,) = await ask_close.handle([wish], tx, world.clock)
    assert asked.attempt.closing
    await world.apply(report(Report.CLOSED, begun.attempt.attempt_no))
    async with world.database.transaction() as tx:
        (again,) = await ask_close.handle([wish], tx, world.clock)
    assert again.payment.status == "CLOSED"


async def test_an_undecided_callback_is_kept_once(world: World) -> None:
    heard = callback("7" * 26, "EV-1")
    for _ in range(2):
        async with world.database.transaction() as tx:
            await keep_undecided.handle([heard], tx, world.clock)
    assert await world.cases() == ["decision_failed"]
    assert await world.rows("SELECT callback_id FROM callback") == [("EV-1",)]
