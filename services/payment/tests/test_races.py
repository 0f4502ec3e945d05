"""Races on real locks: many ways at once into one order, each in a transaction of its own, and one outcome every time."""

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
import pytest_asyncio

from defray_kernel.contracts.order_v1 import OrderClosing
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_payment.commands.ask_refund import SendRefund
from defray_payment.domain.payable import OrderTerms
from defray_payment.domain.payment import Payment
from defray_payment.domain.reports import RefundReport, Report
from defray_sandbox.stack.provision import ProvisionedDatabase

from .given import PRICE, ask, callback, order_event, refund_report, report, terms
from .world import World

WAYS = 20
ROUNDS = [pytest.param(8, id="short"), pytest.param(200, id="full", marks=pytest.mark.full)]
INTERLEAVINGS = [pytest.param(100, id="short"), pytest.param(1_000, id="full", marks=pytest.mark.full)]
Way = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture
async def world(database: Database, migrated: ProvisionedDatabase, envelope: Envelope) -> AsyncIterator[World]:
    """As many connections as there are ways: nobody waits in a pool, all wait for the same lock."""
    del database  # wanted for its emptying
    async with Database.open(migrated.dsn("payment"), pool_size_max=WAYS + 2) as wide:
        yield World(wide, envelope)


async def at_once(ways: Sequence[Way]) -> list[object]:
    """Start all in random order; one that fails fails the test."""
    shuffled = random.sample(list(ways), len(ways))
    async with asyncio.TaskGroup() as group:
        started = [group.create_task(_run(way)) for way in shuffled]
    return [task.result() for task in started]


async def _run(way: Way) -> object:
    return await way()


async def judge(world: World) -> None:
    """What must be true of everything in the schema, whatever has raced."""
    assert await world.rows(_MORE_THAN_ONE_END) == []
    assert await world.rows(_WRONG_SUMS) == []
    assert await world.rows(_GAPS) == []
    assert await world.rows(_UNRETURNED) == []


_MORE_THAN_ONE_END = """
SELECT part_key, count(*) FROM outbox WHERE event_type IN ('payment.succeeded.v1', 'payable.closed.v1')
GROUP BY part_key HAVING count(*) > 1"""
_WRONG_SUMS = """
SELECT p.payment_id FROM payment p LEFT JOIN refund r ON r.payment_id = p.payment_id AND r.status <> 'FAILED'
GROUP BY p.payment_id
HAVING p.refund_reserved_minor <> coalesce(sum(r.amount_minor), 0) OR p.refund_reserved_minor > coalesce(p.paid_minor, 0)
    OR p.refunded_minor <> coalesce(sum(r.amount_minor) FILTER (WHERE r.status = 'SUCCEEDED'), 0)"""
_GAPS = """
SELECT aggregate_id FROM outbox GROUP BY aggregate_id
HAVING count(*) <> max(aggregate_seq) OR array_agg(aggregate_seq ORDER BY id) <> array_agg(aggregate_seq ORDER BY aggregate_seq)"""
_UNRETURNED = """
SELECT payment_id FROM payment p WHERE status IN ('PAID_LATE', 'DUPLICATE')
  AND NOT EXISTS (SELECT 1 FROM refund r WHERE r.payment_id = p.payment_id AND r.reason IN ('late', 'duplicate'))"""


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_refund_against_refund(world: World, rounds: int) -> None:
    for _ in range(rounds):
        paid = await world.paid(terms())
        wishes = [ask(paid, PRICE.minor // 6) for _ in range(WAYS)]
        outcomes = await at_once([lambda wish=wish: world.ask_refund(wish) for wish in wishes])
        sent = [outcome for (outcome,) in outcomes if isinstance(outcome, SendRefund)]  # type: ignore[misc]
        assert len(sent) == 6
        assert await world.sums(paid) == (6 * (PRICE.minor // 6), 0)
        # Half of them end at once: success and failure settle and free their own parts only.
        ends = [RefundReport.SUCCEEDED, RefundReport.FAILED] * 3
        reports = [refund_report(each.refund, end) for each, end in zip(sent, ends, strict=True)] * 3
        await at_once([lambda one=one: world.hear_of_refund(one) for one in reports])
        assert await world.sums(paid) == (3 * (PRICE.minor // 6), 3 * (PRICE.minor // 6))
    await judge(world)


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_callback_against_callback(world: World, rounds: int) -> None:
    for number in range(rounds):
        of = terms()
        begun = await world.opened(of)
        no = begun.attempt.attempt_no
        # Half of them repeat one id, the others tell the same money under ids of their own.
        heard = [callback(no, f"EV-{number}-{way if way % 2 else 0}") for way in range(WAYS)]
        await at_once([lambda one=one: world.apply(one) for one in heard])
        assert await world.status(of) == ["SUCCEEDED"]
        assert await world.told(of) == [("payment.created", 1), ("payment.pending", 2), ("payment.succeeded", 3)]
    assert await world.rows("SELECT count(*) FROM callback") == [(rounds * (WAYS // 2 + 1),)]
    await judge(world)


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_close_against_callback(world: World, rounds: int) -> None:
    ends: set[str] = set()
    for number in range(rounds):
        of = terms()
        begun = await world.opened(of)
        no, event = begun.attempt.attempt_no, order_event(OrderClosing, of, 2)
        closes: list[Way] = [lambda event=event: world.hear(event) for _ in range(WAYS // 4)]  # type: ignore[misc]
        closed: list[Way] = [lambda no=no: world.apply(report(Report.CLOSED, no)) for _ in range(WAYS // 4)]  # type: ignore[misc]
        pays: list[Way] = [
            lambda no=no, way=way: world.apply(callback(no, f"EV-{number}-{way}"))  # type: ignore[misc]  # noqa: B023 - awaited in this round
            for way in range(WAYS // 2)
        ]
        await at_once([*closes, *closed, *pays])
        (status,) = await world.status(of)
        ends.add(status)
        told = [type_ for type_, _ in await world.told(of)]
        assert told.count("payable.closed") == (status == "PAID_LATE")
        assert told.count("refund.requested") == (status == "PAID_LATE")
    assert ends <= {"SUCCEEDED", "PAID_LATE"}
    await judge(world)


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_query_against_callback(world: World, rounds: int) -> None:
    for number in range(rounds):
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        asked: list[Way] = [
            lambda kind=kind, no=no: world.apply(report(kind, no))  # type: ignore[misc]
            for kind in (Report.PAID, Report.OPENED, Report.UNCLEAR, Report.UNSENT)
            for _ in range(WAYS // 8)
        ]
        told: list[Way] = [
            lambda no=no, way=way, number=number: world.apply(callback(no, f"EV-{number}-{way}"))  # type: ignore[misc]
            for way in range(WAYS - len(asked))
        ]
        await at_once([*asked, *told])
        assert await world.status(of) == ["SUCCEEDED"]
        assert await world.cases() == []
    await judge(world)


class Channel:
    """As much of a channel as closing and paying share: whichever comes first is what is true there."""

    def __init__(self) -> None:
        self.state = Report.OPENED

    def pay(self) -> bool:
        if self.state is not Report.OPENED:
            return False
        self.state = Report.PAID
        return True

    def close(self) -> None:
        if self.state is Report.OPENED:
            self.state = Report.CLOSED


class Interleaving:
    """One order, closed by one side and paid by the other, step by step as the dice say."""

    def __init__(self, world: World, of: OrderTerms, payment: Payment, dice: random.Random) -> None:
        self.world, self.of, self.payment, self.dice = world, of, payment, dice
        self.channel = Channel()

    async def run(self) -> None:
        sides: list[list[Way]] = [self.closing(), self.paying(), [self.reply]]
        while live := [side for side in sides if side]:
            await self.dice.choice(live).pop(0)()
        # At rest: the timer asks until the channel's word is known.
        await self.ask()

    def closing(self) -> list[Way]:
        return [lambda: self.world.hear(order_event(OrderClosing, self.of, 2)), self.ask, self.close, self.ask]

    def paying(self) -> list[Way]:
        return [self.pay, self.tell, self.tell]

    async def pay(self) -> None:
        self.channel.pay()

    async def tell(self) -> None:
        if self.channel.state is Report.PAID:
            number = self.payment.attempt_no
            await self.world.apply(callback(number, f"EV-{number}-{self.dice.randrange(2)}"))

    async def close(self) -> None:
        self.channel.close()

    async def reply(self) -> None:
        await self.world.apply(report(Report.OPENED, self.payment.attempt_no))

    async def ask(self) -> None:
        await self.world.apply(report(self.channel.state, self.payment.attempt_no))


@pytest.mark.parametrize("count", INTERLEAVINGS)
async def test_close_against_pay_in_random_interleavings(world: World, count: int) -> None:
    ends: dict[tuple[Report, str], int] = {}
    for seed in range(count):
        of = terms()
        begun = await world.begun(of)
        one = Interleaving(world, of, begun.payment, random.Random(seed))
        await one.run()
        (status,) = await world.status(of)
        told = [type_ for type_, _ in await world.told(of)]
        assert told.count("payment.succeeded") + told.count("payable.closed") == 1, seed
        # The channel's truth and ours are the same, always.
        assert (one.channel.state is Report.PAID) == (status in {"SUCCEEDED", "PAID_LATE"}), seed
        assert (status == "CLOSED") == (one.channel.state is Report.CLOSED), seed
        ends[one.channel.state, status] = ends.get((one.channel.state, status), 0) + 1
    assert {(Report.PAID, "SUCCEEDED"), (Report.CLOSED, "CLOSED")} <= set(ends)
    await judge(world)


async def test_two_claims_of_the_same_due_refunds_share_nothing(world: World) -> None:
    paid = await world.paid(terms())
    for _ in range(WAYS):
        await world.asked(paid, 100)
    world.clock.advance(dt.timedelta(minutes=1))
    claims = await at_once([lambda: world.claim_refunds(7) for _ in range(4)])
    numbers = [number for claimed in claims for number in claimed]  # type: ignore[attr-defined]
    assert len(numbers) == len(set(numbers)) == WAYS


async def test_the_judge_sees_what_is_wrong(world: World) -> None:
    paid = await world.paid(terms())
    await world.asked(paid, 100)
    await judge(world)
    async with world.database.transaction() as tx:
        await tx.execute("UPDATE payment SET refund_reserved_minor = 99")
    with pytest.raises(AssertionError):
        await judge(world)
