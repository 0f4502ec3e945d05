"""Record what was done with grants: their rows, the log of steps, what is owed, and the events, each with its own sequence."""

import datetime as dt
from collections.abc import Sequence

import msgspec

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.grant_v1 import GrantStateV1
from defray_kernel.db import WriteTx
from defray_kernel.ids import OrderId, show
from defray_kernel.outbox import OutboxEvent
from defray_order import announce
from defray_order.domain.grant import Grant, GrantStep, Step
from defray_order.store import grants


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done; `units` of the grant, `minor` of its currency, `used_on` the order that uses a coupon."""

    kind: GrantStep
    units: int | None = None
    minor: int | None = None
    used_on: OrderId | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A locked grant before and after, what was done in which order, and what is owed of it now in all (minor units)."""

    before: Grant
    after: Grant
    done: tuple[Done, ...]
    debt_minor: int
    cause: Cause


async def planned(tx: WriteTx, new: Sequence[tuple[Grant, Cause]], clock: Clock) -> None:
    """Log new grants; nothing is told of them before they are given."""
    now = clock.now()
    steps = [Step(grant=g, kind=GrantStep.PLANNED, at=now, cause=cause, units=g.units) for g, cause in new]
    if steps:
        await grants.log(tx, steps)


async def record(tx: WriteTx, changes: Sequence[Change], clock: Clock) -> None:
    """Write changes of locked grants, one of each."""
    if not changes:
        return
    now = clock.now()
    moves: list[tuple[Grant, Grant]] = []
    steps: list[Step] = []
    events: list[OutboxEvent] = []
    for change in changes:
        after = change.after
        for done in change.done:
            data = announce.for_grant_step(
                done.kind, after, debt_minor=change.debt_minor, used_on=done.used_on, minor=done.minor
            )
            event = None
            if data is not None:
                after = msgspec.structs.replace(after, event_seq=after.event_seq + 1)
                event = _event(data, after, change.cause, now)
                events.append(event)
            steps.append(_step(done, after, change.cause, event, now))
        moves.append((change.before, after))
    await grants.move(tx, moves)
    await grants.log(tx, steps)
    await outbox.append(tx, events)


def _event(data: GrantStateV1, grant: Grant, cause: Cause, now: dt.datetime) -> OutboxEvent:
    key = show("ord", grant.order_id)
    aggregate_id = show("grt", grant.grant_id)
    return outbox.event(data, key=key, aggregate_id=aggregate_id, sequence=grant.event_seq, cause=cause, at=now)


def _step(done: Done, grant: Grant, cause: Cause, event: OutboxEvent | None, now: dt.datetime) -> Step:
    return Step(
        grant=grant,
        kind=done.kind,
        at=now,
        cause=cause,
        units=done.units,
        minor=done.minor,
        used_on=done.used_on,
        event_id=None if event is None else event.id,
        event_type=None if event is None else event.type,
    )
