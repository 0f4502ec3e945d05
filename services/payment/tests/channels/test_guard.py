"""The guard of an account: trips, probes, holds and paces; and the backlog of an outage drains without a storm."""

import asyncio
import datetime as dt
import time

import pytest

from defray_payment.channels.guard import Circuit, Guard, Limits
from defray_payment.channels.line import Line
from defray_payment.channels.spi import (
    PROTOCOL,
    TIMEOUT,
    UNREACHED,
    UNVERIFIED,
    Kind,
    Next,
    Outcome,
    PaymentView,
    Trouble,
)
from defray_payment.domain.reports import Report
from defray_sandbox.simulators.process import WechatSimulator

from ..conftest import Service  # noqa: TID252 - the tests of one service

FINE = PaymentView(attempt_no="A", report=Report.OPENED)
SLOW = Trouble(kind=Kind.RATE_LIMITED, outcome=Outcome.NOT_APPLIED, next=Next.RETRY_SAME_NUMBER, retry_after_s=7.0)


class Now:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def guard(now: Now, **limits: float) -> Guard:
    return Guard("one", Limits(**limits), monotonic=now)  # type: ignore[arg-type]


def fail(breaker: Guard, times: int) -> None:
    for _ in range(times):
        assert breaker.admit() is None
        breaker.heard(TIMEOUT)


def test_failures_in_a_row_open_the_circuit_and_one_probe_closes_it() -> None:
    now = Now()
    breaker = guard(now)
    fail(breaker, 4)
    assert breaker.admit() is None
    breaker.heard(FINE)
    fail(breaker, 5)
    assert breaker.circuit is Circuit.OPEN
    refused = breaker.admit()
    assert refused is not None
    # Nothing was sent, so nothing was applied, and nothing is settled by it.
    assert (refused.outcome, refused.next) == (Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER)
    now.s += 5
    assert breaker.circuit is Circuit.HALF_OPEN
    assert breaker.admit() is None
    assert breaker.admit() is not None  # one probe at a time
    breaker.heard(FINE)
    assert breaker.circuit is Circuit.CLOSED
    assert breaker.admit() is None


def test_a_failed_probe_opens_it_for_longer_up_to_a_limit() -> None:
    now = Now()
    breaker = guard(now)
    fail(breaker, 5)
    waited = []
    for _ in range(6):
        start = now.s
        while breaker.circuit is not Circuit.HALF_OPEN:
            now.s += 1
        waited.append(now.s - start)
        assert breaker.admit() is None
        breaker.heard(None if len(waited) % 2 else UNREACHED)
    assert waited == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize("said", [PROTOCOL, UNVERIFIED, SLOW, FINE])
def test_what_an_answering_channel_says_opens_nothing(said: PaymentView | Trouble) -> None:
    now = Now()
    breaker = guard(now)
    for _ in range(20):
        now.s += 10
        assert breaker.admit() is None
        breaker.heard(said)
    assert breaker.circuit is Circuit.CLOSED


def test_retry_after_is_honoured() -> None:
    now = Now()
    breaker = guard(now)
    assert breaker.admit() is None
    breaker.heard(SLOW)
    for _ in range(7):
        refused = breaker.admit()
        assert refused is not None
        assert (refused.kind, refused.code) == (Kind.RATE_LIMITED, "held")
        now.s += 1
    assert breaker.admit() is None


def test_the_rate_of_calls_is_bounded() -> None:
    now = Now()
    breaker = guard(now, rate_per_s=10, burst=5)
    admitted = 0
    for _ in range(200):
        if breaker.admit() is None:
            admitted += 1
            breaker.heard(FINE)
        now.s += 0.01
    assert 5 + 18 <= admitted <= 5 + 20


async def test_calls_that_nobody_waits_for_take_turns() -> None:
    paced = Guard("one", Limits(background_per_s=50, background_wait_s=0.3))
    started = time.monotonic()
    turns = await asyncio.gather(*(paced.turn() for _ in range(40)))
    assert 0.25 < time.monotonic() - started < 1.0
    assert 14 <= sum(turns) <= 18  # the others would have waited too long, and come again


@pytest.mark.alone
async def test_the_backlog_of_an_outage_drains_without_a_storm(service: Service, simulator: WechatSimulator) -> None:
    """A channel that is away for two hours is hardly asked; when it is back, all is found out at a bounded rate."""
    count, rate = 60, 25.0
    (line,) = service.channels.lines
    service.channels.replace(
        [Line(line.channel, guard=Guard("one", Limits(background_per_s=rate, background_wait_s=1.0, cool_s=0.2)))]
    )
    await simulator.control("/control/callbacks", {"never": True})
    begun = [await service.pay(service.order()) for _ in range(count)]
    for answer in begun:
        await simulator.control("/control/pay", {"out_trade_no": answer.body["attempt_no"]})
    await simulator.control("/control/faults", {"action": "500", "operation": "query"})
    for _ in range(24):  # two hours, looked at every five minutes
        service.clock.ahead += dt.timedelta(minutes=5)
        await service.query_due()
    asked = (await simulator.control("/control/statistics"))["requests"]["query"]
    assert asked < 24 * 12, "a dead channel is asked by probes, not by everybody"
    await simulator.control("/control/faults/clear", {})
    started, seen = time.monotonic(), []
    for _ in range(80):
        service.clock.ahead += dt.timedelta(seconds=30)
        await service.query_due()
        done = (await simulator.control("/control/statistics"))["requests"]["query"]
        seen.append((time.monotonic() - started, done - asked))
        states = await service.rows("SELECT count(*) AS n FROM payment WHERE status = 'SUCCEEDED'")
        if states[0]["n"] == count:
            break
        await asyncio.sleep(0.05)
    assert states[0]["n"] == count
    assert all(queries <= rate * seconds + 5 for seconds, queries in seen), seen
    evidence = await service.rows("SELECT count(*) AS n FROM evidence WHERE report = 'unsent'")
    assert evidence[0]["n"] == 0, "what was never asked leaves no trace"
    assert await service.cases() == []
