"""Everything that can be tried is tried: all orders of seven happenings of one order, with a crash after each step.

Each permutation is an order of its own; those that do the same next share a transaction, as they would in a group commit.
A crash after a step loses its answer, so the step is done again: by the merchant, by the channel, by the timer.
"""

import datetime as dt
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, permutations
from typing import Any

import pytest

from defray_kernel.contracts.order_v1 import OrderClosing
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.ids import RefundId
from defray_payment.commands.apply_refund_report import ApplyRefundReport
from defray_payment.commands.start_payment import Send
from defray_payment.domain.attempt import number_of
from defray_payment.domain.payable import OrderTerms
from defray_payment.domain.payment import Payment
from defray_payment.domain.reports import RefundReport, Report, Source

from .given import PRICE, ask, callback, order_event, refund, refund_report, report, start, terms
from .world import World

REFUND_MINOR = 700
CHUNK = 1_260


class Happening(StrEnum):
    """What can happen to one order, each once."""

    CREATE_REPLY = "create_reply"
    CALLBACK = "callback"
    CALLBACK_TWIN = "callback_twin"
    CANCEL = "cancel"
    EXPIRY = "expiry"
    REFUND = "refund"
    REFUND_CALLBACK = "refund_callback"


@dataclass(slots=True, kw_only=True)
class Run:
    """One order on its way through a permutation; `crash_after` is the step whose answer is lost, None = every one."""

    path: Sequence[Happening]
    crash_after: int | None
    of: OrderTerms
    payment: Payment
    refund_id: RefundId
    done: set[Happening] = field(default_factory=set)

    @property
    def refund_no(self) -> str:
        return number_of(self.refund_id)

    @property
    def paid_at_channel(self) -> bool:
        return bool(self.done & {Happening.CALLBACK, Happening.CALLBACK_TWIN})


async def begin(world: World, paths: Sequence[tuple[Sequence[Happening], int | None]]) -> list[Run]:
    """An order with a payment that was committed, and whose channel was called, for each path."""
    several = [terms() for _ in paths]
    outcomes = await world.start(*(start(of) for of in several))
    runs = []
    for (path, crash_after), of, outcome in zip(paths, several, outcomes, strict=True):
        assert isinstance(outcome, Send)
        refund_id = RefundId(uuid.uuid4())
        runs.append(Run(path=path, crash_after=crash_after, of=of, payment=outcome.payment, refund_id=refund_id))
    return runs


async def happen(world: World, what: Happening, runs: Sequence[Run]) -> None:
    """The same happening for several orders, in one transaction."""
    match what:
        case Happening.CREATE_REPLY:
            replies = [report(Report.OPENED, r.payment.attempt_no, source=Source.CREATE) for r in runs]
            await world.apply(*replies)
        case Happening.CALLBACK | Happening.CALLBACK_TWIN:
            await world.apply(*(callback(r.payment.attempt_no, f"EV-{r.payment.attempt_no}") for r in runs))
        case Happening.CANCEL:
            await world.hear(*(order_event(OrderClosing, r.of, 2) for r in runs), at_once=True)
        case Happening.EXPIRY:
            # The timer asks, closes, asks again: the channel tells what is true there.
            told = [(r, Report.PAID if r.paid_at_channel else Report.CLOSED) for r in runs]
            await world.apply(*(report(kind, r.payment.attempt_no) for r, kind in told))
        case Happening.REFUND:
            wishes = [
                ask(r.payment, REFUND_MINOR, key=r.refund_id.hex, refund_id=r.refund_id, refund_no=r.refund_no)
                for r in runs
            ]
            await world.ask_refund(*wishes)
        case Happening.REFUND_CALLBACK:
            await world.hear_of_refund(*(done_at_channel(r) for r in runs))


def done_at_channel(run: Run) -> ApplyRefundReport:
    mine = refund(run.payment, refund_no=run.refund_no, attempt_no=run.payment.attempt_no)
    claims: dict[str, Any] = {"amount_minor": REFUND_MINOR, "channel_refund_id": f"50{run.refund_no}"}
    return refund_report(mine, RefundReport.SUCCEEDED, callback_id=f"R-{run.refund_no}", **claims)


async def walk(world: World, runs: Sequence[Run]) -> None:
    """All steps of all runs; then what every party repeats until it is answered."""
    for step in range(len(Happening)):
        groups: dict[Happening, list[Run]] = defaultdict(list)
        for run in runs:
            groups[run.path[step]].append(run)
        for what, group in groups.items():
            await happen(world, what, group)
            again = [run for run in group if run.crash_after in {step, None}]
            if again:
                await happen(world, what, again)
            for run in group:
                run.done.add(what)
    # At rest: the merchant asks for its refund until there is one, and the channel is asked how that ended.
    world.clock.advance(dt.timedelta(minutes=2))
    await happen(world, Happening.EXPIRY, runs)
    await happen(world, Happening.REFUND, runs)


async def faults(world: World, runs: Sequence[Run]) -> list[str]:
    """What is wrong with any of these orders, by path."""
    told: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for key, aggregate, kind, sequence in await world.rows(
        "SELECT part_key, aggregate_id, event_type, aggregate_seq FROM outbox ORDER BY id"
    ):
        told[key.decode()].append((aggregate, kind.removesuffix(".v1"), sequence))
    payments = await world.rows(
        "SELECT p.order_id, p.status, p.paid_minor, p.refund_reserved_minor, p.refunded_minor, b.status, b.claimed_by, "
        "(SELECT coalesce(sum(amount_minor) FILTER (WHERE status <> 'FAILED'), 0) FROM refund r "
        " WHERE r.payment_id = p.payment_id)::bigint, "
        "(SELECT count(*) FROM payment_transition t WHERE t.payment_id = p.payment_id AND t.to_status = p.status) "
        "FROM payment p JOIN payable b USING (order_id)"
    )
    by_order = {row[0]: row[1:] for row in payments}
    return [
        f"{'>'.join(run.path)} crash={run.crash_after}: {fault}"
        for run in runs
        for fault in judge(by_order[run.of.order_id], told[f"ord_{run.of.order_id.hex}"])
    ]


def judge(row: tuple[Any, ...], told: list[tuple[str, str, int]]) -> list[str]:
    status, paid_minor, reserved, refunded, payable, claimed_by, refunds, times = row
    kinds = [kind for _, kind, _ in told]
    found = []
    if status not in {"SUCCEEDED", "PAID_LATE"} or paid_minor != PRICE.minor:
        found.append(f"money was lost: {status}")
    if times != 1:
        found.append(f"{status} was reached {times} times")
    if kinds.count("payment.succeeded") + kinds.count("payable.closed") != 1:
        found.append(f"the order was not told one end: {kinds}")
    if (status == "SUCCEEDED") != (claimed_by is not None) or (status == "SUCCEEDED") != (
        "payable.closed" not in kinds
    ):
        found.append(f"{status}, claimed by {claimed_by}, payable {payable}")
    if status == "PAID_LATE" and (kinds.count("refund.requested") != 1 or reserved != PRICE.minor):
        found.append(f"late money was not sent back once: {kinds}")
    if not 0 <= refunded <= reserved == refunds <= PRICE.minor:
        found.append(f"refunded {refunded}, reserved {reserved}, refunds {refunds}")
    sequences: dict[str, list[int]] = defaultdict(list)
    for aggregate, _, sequence in told:
        sequences[aggregate].append(sequence)
    if any(numbers != list(range(1, len(numbers) + 1)) for numbers in sequences.values()):
        found.append(f"a sequence has a gap: {dict(sequences)}")
    return found


async def try_all(
    database: Database, envelope: Envelope, crashes: Sequence[int | None], clear: Callable[[], Any]
) -> tuple[int, list[str], Counter[str]]:
    """Every permutation with each of these crashes; returns how many runs there were, their faults, and how they ended."""
    cases = iter([(path, crash) for crash in crashes for path in permutations(Happening)])
    tried, found, ends = 0, [], Counter[str]()
    while chunk := list(islice(cases, CHUNK)):
        world = World(database, envelope)
        runs = await begin(world, chunk)
        await walk(world, runs)
        found += await faults(world, runs)
        tried += len(runs)
        ends.update(row[0] for row in await world.rows("SELECT status FROM payment"))
        await clear()
    return tried, found, ends


@pytest.mark.parametrize(
    ("crashes", "expected"),
    [
        pytest.param([None], 5_040, id="every_answer_lost"),
        pytest.param(list(range(7)), 35_280, id="one_crash_after_each_step", marks=pytest.mark.full),
    ],
)
async def test_all_orders_of_seven_happenings(
    database: Database, envelope: Envelope, empty: Callable[[], Any], crashes: Sequence[int | None], expected: int
) -> None:
    tried, found, ends = await try_all(database, envelope, crashes, empty)
    assert tried == expected
    assert found == []
    # Both ends were reached, each by many paths: none of them was shut out by how the runs are made.
    assert sum(ends.values()) == expected
    assert min(ends["SUCCEEDED"], ends["PAID_LATE"]) > expected // 10


async def test_the_judge_sees_what_is_wrong(database: Database, envelope: Envelope) -> None:
    world = World(database, envelope)
    paths = [(path, None) for path in islice(permutations(Happening), 3)]
    runs = await begin(world, paths)
    await walk(world, runs)
    assert await faults(world, runs) == []
    async with database.transaction() as tx:
        await tx.execute("UPDATE payment SET refund_reserved_minor = refund_reserved_minor + 1")
    assert len(await faults(world, runs)) == 3
