"""The channel's fault matrix by its numbers, each fault scripted so many times and seen so many times; C27 and C28 are the
settlement service's.
"""

import ast
import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from defray_kernel.contracts.order_v1 import OrderClosing
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_payment.commands import project_order
from defray_payment.domain.payable import OrderTerms
from defray_payment.domain.reports import Report
from defray_sandbox.simulators.process import WechatSimulator

from .conftest import Answer, Service, number, pay_at_channel, status_of
from .given import PRICE, callback, order_event, report, terms
from .world import World

TIMES = 4  # five in a row would open the circuit, which C24 is about
# Where the numbers that are proven elsewhere are proven.
ELSEWHERE = {
    "C6": "test_refund_commands.py::TestC6RefundCallbackBeforePaymentCallback",
    "C7": "test_refunds_http.py::test_c7_late_money_is_sent_back_within_a_minute",
    "C15": "test_refunds_http.py::test_c15_twenty_at_once_never_exceed_what_was_collected",
    "C16": "test_refunds_http.py::test_c16_what_becomes_of_a_refund_is_told_by_callback",
    "C17": "test_refunds_http.py::test_c17_an_unknown_outcome_is_asked_about_and_never_sent_under_another_number",
    "C21": "test_refunds_http.py::test_c21_a_second_payment_of_one_order_goes_back",
    "C24": "channels/test_guard.py::test_the_backlog_of_an_outage_drains_without_a_storm",
}
CASES = {f"C{n}" for n in (*range(1, 27), 29)}


def test_every_case_has_a_test() -> None:
    here = Path(__file__).parent
    named = {
        name.split("_")[1].upper() for name in _functions(here / "test_fault_matrix.py") if name.startswith("test_c")
    }
    assert named | set(ELSEWHERE) == CASES
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        assert name in _functions(here / file), where


def _functions(path: Path) -> set[str]:
    kinds = (ast.AsyncFunctionDef, ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, kinds)}


async def orders(simulator: WechatSimulator) -> dict[str, dict[str, Any]]:
    """What was really done at the channel, per number."""
    listed = await simulator.control("/control/orders")
    return {each["out_trade_no"]: each["applied"] for each in listed["orders"]}


async def silent(simulator: WechatSimulator) -> None:
    await simulator.control("/control/callbacks", {"never": True})


async def send(simulator: WechatSimulator, begun: Answer, *kinds: str, **overrides: object) -> list[int]:
    """Callbacks now; `overrides` makes the channel lie."""
    wish: dict[str, object] = {"out_trade_no": number(begun), "kinds": list(kinds or ("genuine",))}
    told = await simulator.control("/control/callbacks/send", wish | ({"overrides": overrides} if overrides else {}))
    return [each["status"] for each in told["callbacks"]]


async def paid_in_silence(service: Service, simulator: WechatSimulator) -> Answer:
    begun = await service.pay(service.order())
    await silent(simulator)
    await simulator.control("/control/pay", {"out_trade_no": number(begun), "wait": True})
    return begun


async def tried(service: Service, simulator: WechatSimulator, moment: str, action: str) -> list[Answer]:
    """Payments whose first call meets the same fault, one after the other."""
    fault = {"operation": "native", "moment": moment, "action": action, "count": TIMES}
    await simulator.control("/control/faults", fault)
    begun = [await service.pay(service.order()) for _ in range(TIMES)]
    assert [(each.status, each.body["status"]) for each in begun] == [(202, "PENDING")] * TIMES
    return begun


async def each_paid_once(service: Service, simulator: WechatSimulator, begun: list[Answer]) -> bool:
    """Let the timer look, and the payers pay."""
    service.clock.ahead += dt.timedelta(seconds=30)
    assert await service.query_due() == TIMES
    for each in begun:
        assert await pay_at_channel(simulator, each) == [204]
        assert await status_of(service, each.body["payment_id"]) == "SUCCEEDED"
    made = await orders(simulator)
    # As many as were scripted, each once, under the number of its first call.
    return {no: (done["created"], done["paid"]) for no, done in made.items()} == {number(e): (1, 1) for e in begun}


async def test_c1_a_call_that_never_arrived_is_sent_again_under_its_number(
    service: Service, simulator: WechatSimulator
) -> None:
    begun = await tried(service, simulator, "before_apply", "drop")
    assert await orders(simulator) == {}
    assert await each_paid_once(service, simulator, begun)


async def test_c2_a_call_that_was_done_and_not_answered(service: Service, simulator: WechatSimulator) -> None:
    assert await each_paid_once(service, simulator, await tried(service, simulator, "after_apply", "drop"))


async def test_c3_an_error_after_it_was_done(service: Service, simulator: WechatSimulator) -> None:
    assert await each_paid_once(service, simulator, await tried(service, simulator, "after_apply", "500"))


async def test_c4_a_callback_before_the_answer_to_the_call(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    await simulator.control("/control/callbacks", {"before_answer": True})
    assert await pay_at_channel(simulator, begun) == [204]
    service.clock.ahead = dt.timedelta(seconds=30)
    await service.query_due()
    events = await service.events()
    assert events == [("payment.created.v1", 1), ("payment.pending.v1", 2), ("payment.succeeded.v1", 3)]


async def test_c5_the_same_callback_fifty_times_at_once(service: Service, simulator: WechatSimulator) -> None:
    for _ in range(TIMES):
        begun = await service.pay(service.order())
        assert await pay_at_channel(simulator, begun, callbacks=50, concurrent=True) == [204] * 50
    assert await service.rows("SELECT count(*) AS n FROM callback") == [{"n": TIMES}]
    assert [type_ for type_, _ in await service.events()].count("payment.succeeded.v1") == TIMES


@pytest.mark.parametrize("total", [PRICE.minor - 1, PRICE.minor + 1, 0, -PRICE.minor])
async def test_c8_a_wrong_amount(service: Service, simulator: WechatSimulator, total: int) -> None:
    begun = await paid_in_silence(service, simulator)
    assert await send(simulator, begun, amount={"total": total, "currency": "CNY"}) == [204]
    assert await service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]
    assert (await service.cases(), await service.rows("SELECT * FROM refund")) == (["amount_mismatch"], [])


async def test_c9_a_wrong_currency_with_the_right_digits(service: Service, simulator: WechatSimulator) -> None:
    begun = await paid_in_silence(service, simulator)
    assert await send(simulator, begun, amount={"total": PRICE.minor, "currency": "USD"}) == [204]
    assert await service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]
    assert await service.cases() == ["currency_mismatch"]


async def test_c10_what_proves_nothing_is_refused_counted_and_leaves_no_row(
    service: Service, simulator: WechatSimulator
) -> None:
    begun = await paid_in_silence(service, simulator)
    kinds = ("forged_key", "no_signature", "unknown_serial", "tampered", "wrong_apiv3_key", "probe")
    assert await send(simulator, begun, *kinds) == [401] * len(kinds)
    for table in ("callback", "exception_case"):
        assert await service.rows(f"SELECT * FROM {table}") == []
    assert await service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]


async def test_c11_a_valid_callback_an_hour_and_a_day_later(service: Service, simulator: WechatSimulator) -> None:
    begun = await service.pay(service.order())
    assert await pay_at_channel(simulator, begun) == [204]
    before = await service.events()
    # The same bytes are too old; signed anew, the id is known.
    assert await send(simulator, begun, "stale") == [401]
    for ahead in (dt.timedelta(hours=1), dt.timedelta(days=1)):
        service.clock.ahead = ahead
        assert await send(simulator, begun) == [204]
    assert await service.events() == before
    assert await service.rows("SELECT count(*) AS n FROM callback") == [{"n": 1}]


async def test_c12_the_same_money_under_a_new_id(database: Database, envelope: Envelope) -> None:
    world, of = World(database, envelope), terms()
    no = (await world.opened(of)).attempt.attempt_no
    for each in range(TIMES):
        await world.apply(callback(no, f"EV-{each}"))
    assert await world.rows("SELECT count(*) FROM callback") == [(TIMES,)]
    assert [type_ for type_, _ in await world.told(of)].count("payment.succeeded") == 1
    assert await world.cases() == []


@pytest.mark.parametrize("no", ["7" * 26, "0" * 32])
async def test_c13_a_callback_for_a_payment_that_is_not_ours(
    service: Service, simulator: WechatSimulator, no: str
) -> None:
    begun = await paid_in_silence(service, simulator)
    assert await send(simulator, begun, out_trade_no=no) == [204]
    assert await service.cases() == ["unknown_attempt"]
    (kept,) = await service.rows("SELECT attempt_no FROM callback")
    assert kept == {"attempt_no": no}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [({"mchid": "1900000110"}, "merchant_mismatch"), ({"appid": "wx0000000000000000"}, "app_mismatch")],
)
async def test_c14_a_callback_for_another_merchants_payment(
    service: Service, simulator: WechatSimulator, overrides: dict[str, object], reason: str
) -> None:
    begun = await paid_in_silence(service, simulator)
    assert await send(simulator, begun, **overrides) == [204]
    assert await service.cases() == [reason]
    assert await service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]


async def test_c18_not_found_and_half_a_minute_later_success(service: Service, simulator: WechatSimulator) -> None:
    await simulator.control("/control/faults", {"operation": "native", "action": "drop", "count": 1})
    begun = await service.pay(service.order())
    not_there = {"operation": "query", "action": "refuse", "moment": "before_apply", "code": "ORDER_NOT_EXIST"}
    await simulator.control("/control/faults", not_there | {"count": 1})
    await silent(simulator)
    service.clock.ahead = dt.timedelta(seconds=30)
    assert await service.query_due() == 1
    assert await service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]
    await simulator.control("/control/pay", {"out_trade_no": number(begun)})
    service.clock.ahead += dt.timedelta(seconds=30)
    assert await service.query_due() == 1
    assert await status_of(service, begun.body["payment_id"]) == "SUCCEEDED"
    assert await orders(simulator) == {number(begun): {"created": 1, "paid": 1}}


async def test_c19_query_and_callback_disagree(service: Service, simulator: WechatSimulator) -> None:
    begun = await paid_in_silence(service, simulator)
    service.clock.ahead = dt.timedelta(seconds=30)
    assert await service.query_due() == 1
    assert await status_of(service, begun.body["payment_id"]) == "SUCCEEDED"
    assert await send(simulator, begun, transaction_id="4200009999202600000000000001") == [204]
    assert await service.cases() == ["second_money"]
    assert [type_ for type_, _ in await service.events()].count("payment.succeeded.v1") == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Report.CLOSED, "contradiction"),
        (Report.REFUSED, "contradiction"),
        (Report.NOT_FOUND, "contradiction"),
        (Report.OPENED, None),  # the answer to an older question
        (Report.UNCLEAR, None),
    ],
)
async def test_c20_a_status_that_goes_back(
    database: Database, envelope: Envelope, said: Report, reason: str | None
) -> None:
    world, of = World(database, envelope), terms()
    no = (await world.opened(of)).attempt.attempt_no
    await world.apply(callback(no, "EV-1"))
    for _ in range(TIMES):
        await world.apply(report(said, no))
    assert await world.status(of) == ["SUCCEEDED"]
    assert await world.cases() == ([reason] if reason else [])
    assert [type_ for type_, _ in await world.told(of)][-1] == "payment.succeeded"


async def test_c22_a_close_that_is_refused_because_it_is_paid(service: Service, simulator: WechatSimulator) -> None:
    for _ in range(TIMES):
        begun = await paid_in_silence(service, simulator)
        closed = await service.close(begun.body["payment_id"])
        assert (closed.status, closed.body["status"]) == (200, "SUCCEEDED")
    assert await service.rows("SELECT status, count(*) AS n FROM payment GROUP BY 1") == [
        {"status": "SUCCEEDED", "n": TIMES}
    ]


async def test_c23_two_orders_and_one_transaction_of_the_channel(service: Service, simulator: WechatSimulator) -> None:
    first = await service.pay(service.order())
    assert await pay_at_channel(simulator, first) == [204]
    (paid,) = await service.rows("SELECT channel_txn_id FROM payment")
    second = await paid_in_silence(service, simulator)
    assert await send(simulator, second, transaction_id=paid["channel_txn_id"]) == [204]
    assert await service.cases() == ["channel_txn_reused"]
    states = await service.rows("SELECT status FROM payment ORDER BY payment_id")
    assert [row["status"] for row in states] == ["SUCCEEDED", "PENDING"]


@pytest.mark.parametrize("action", ["garbage", "truncated", "unsigned", "wrong_key", "502"])
async def test_c25_an_answer_that_is_none_is_unknown(service: Service, simulator: WechatSimulator, action: str) -> None:
    assert await each_paid_once(service, simulator, await tried(service, simulator, "after_apply", action))


async def test_c26_the_channels_key_changes_in_mid_flight(service: Service, simulator: WechatSimulator) -> None:
    begun = [await service.pay(service.order()) for _ in range(2 * TIMES)]
    for each in begun[:TIMES]:
        assert await pay_at_channel(simulator, each) == [204]
    await simulator.control("/control/keys", {"callback_generation": 2})
    try:
        for each in begun[TIMES:]:
            assert await pay_at_channel(simulator, each) == [204]
    finally:
        await simulator.control("/control/keys", {"callback_generation": 1})
    assert await service.rows("SELECT count(*) AS n FROM payment WHERE status = 'SUCCEEDED'") == [{"n": 2 * TIMES}]


async def test_c29_a_cancel_before_the_create(service: Service, simulator: WechatSimulator) -> None:
    several = [service.order() for _ in range(TIMES)]
    for of in several:
        await _cancel(service, of)
    answers = await asyncio.gather(*(service.pay(of) for of in several))
    assert [(each.status, each.body["code"]) for each in answers] == [(409, "order_closed")] * TIMES
    assert await orders(simulator) == {}
    assert [type_ for type_, _ in await service.events()] == ["payable.closed.v1"] * TIMES


async def _cancel(service: Service, of: OrderTerms) -> None:
    event = order_event(OrderClosing, of, 2)
    async with service.database.transaction() as tx:
        await project_order.lock([event], tx)
        await project_order.closing([event], tx, service.clock)
