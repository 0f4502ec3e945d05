"""Redeem coupons: reserved with the order that is placed with them, used when it is paid, released when it ends unpaid."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import Money
from defray_order.commands import record_grants
from defray_order.commands.record_grants import Change, Done
from defray_order.domain import coupon as rules
from defray_order.domain.coupon import Refused, Use, UseState, again, owed
from defray_order.domain.grant import Grant, GrantId, GrantStep, paid_in, released_by, reserved_by
from defray_order.store import coupons, grants


class Redeem(msgspec.Struct, frozen=True, kw_only=True):
    """An order that is to be placed with coupons, found by these digests; it costs `base_minor` without them."""

    order_id: OrderId
    merchant_id: MerchantId
    base_minor: int
    total: Money
    digests: tuple[bytes, ...]
    cause: Cause


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """What the coupons take off; their grants are locked and stay so until this transaction ends."""

    redeem: Redeem
    grants: tuple[Grant, ...]
    uses: tuple[Use, ...]

    @property
    def minor(self) -> int:
        """In all."""
        return sum(use.minor for use in self.uses)


class WrongTotal(msgspec.Struct, frozen=True, kw_only=True):
    """The order's total is not what is to be paid with these coupons."""


Answer: TypeAlias = Priced | Refused | WrongTotal


async def price(wishes: Sequence[Redeem], tx: WriteTx, clock: Clock) -> dict[OrderId, Answer]:
    """What each order's coupons take off it, the wishes before it in this batch taken as placed."""
    found = await coupons.by_digests(tx, sorted({digest for wish in wishes for digest in wish.digests}))
    locked = await grants.get_for_update(tx, sorted(found.values())) if found else {}
    left = dict(locked)
    answers: dict[OrderId, Answer] = {}
    for wish in wishes:
        held = [left[found[digest]] if digest in found else None for digest in wish.digests]
        uses = rules.take(held, wish.order_id, wish.merchant_id, wish.total.currency, wish.base_minor, clock.now())
        if isinstance(uses, Refused):
            answers[wish.order_id] = uses
        elif wish.base_minor - sum(use.minor for use in uses) != wish.total.minor:
            answers[wish.order_id] = WrongTotal()
        else:
            taken = tuple(locked[use.grant_id] for use in uses)
            answers[wish.order_id] = Priced(redeem=wish, grants=taken, uses=uses)
            left |= {use.grant_id: reserved_by(left[use.grant_id]) for use in uses}
    return answers


async def reserve(priced: Sequence[Priced], tx: WriteTx, clock: Clock) -> None:
    """Reserve what was priced in this transaction, for orders that are now placed."""
    if not priced:
        return
    await coupons.reserve(tx, [(n, use) for each in priced for n, use in enumerate(each.uses, start=1)])
    before = {grant.grant_id: grant for each in priced for grant in each.grants}
    after = dict(before)
    steps: defaultdict[GrantId, list[Done]] = defaultdict(list)
    causes: dict[GrantId, Cause] = {}
    for each in priced:
        for use in each.uses:
            after[use.grant_id] = reserved_by(after[use.grant_id])
            steps[use.grant_id].append(Done(kind=GrantStep.RESERVED, minor=use.minor, used_on=use.order_id))
            causes[use.grant_id] = each.redeem.cause
    changes = [
        _change(before[grant_id], after[grant_id], done, 0, causes[grant_id]) for grant_id, done in steps.items()
    ]
    await record_grants.record(tx, changes, clock)


async def settle(paid: Mapping[OrderId, Cause], ended: Mapping[OrderId, Cause], tx: WriteTx, clock: Clock) -> None:
    """Use the coupons of paid orders, reserved anew where they had been released; release those of ended ones.

    The orders' rows are locked. Telling again what is settled changes nothing.
    """
    uses = await coupons.of_orders(tx, [*paid, *ended])
    if not uses:
        return
    current = await grants.get_for_update(tx, sorted({use.grant_id for use in uses}))
    before = dict(current)
    of_grant = await _uses(tx, list(before.values()))
    steps: defaultdict[GrantId, list[Done]] = defaultdict(list)
    causes: dict[GrantId, Cause] = {}
    moved: list[Use] = []
    for use in uses:
        target = UseState.USED if use.order_id in paid else UseState.RELEASED
        if use.state is target or (use.state is UseState.USED):
            continue
        grant = current[use.grant_id]
        if target is UseState.USED:
            held = reserved_by(grant) if use.state is UseState.RELEASED else grant
            current[use.grant_id] = paid_in(held)
        else:
            current[use.grant_id] = released_by(grant)
        kind = GrantStep.USED if target is UseState.USED else GrantStep.RELEASED
        moved.append(msgspec.structs.replace(use, state=target))
        steps[use.grant_id].append(Done(kind=kind, minor=use.minor, used_on=use.order_id))
        causes[use.grant_id] = paid.get(use.order_id) or ended[use.order_id]
    await _write(before, current, of_grant, moved, steps, causes, tx, clock)


async def take_again(orders: Sequence[OrderId], tx: WriteTx, clock: Clock) -> set[OrderId]:
    """Which of these ended orders could be paid with their coupons after all: each has a use left, worth what it was then."""
    uses = await coupons.of_orders(tx, orders)
    locked = await grants.get_for_update(tx, sorted({use.grant_id for use in uses})) if uses else {}
    lost: set[OrderId] = set()
    spoken_for: defaultdict[GrantId, int] = defaultdict(int)
    for use in uses:
        if use.state is not UseState.RELEASED:
            continue
        grant = locked[use.grant_id]
        if again(grant, use, clock.now()) and grant.taken + spoken_for[use.grant_id] < grant.uses_max:
            spoken_for[use.grant_id] += 1
        else:
            lost.add(use.order_id)
    return set(orders) - lost


async def _write(
    before: Mapping[GrantId, Grant],
    after: Mapping[GrantId, Grant],
    of_grant: Mapping[GrantId, Sequence[Use]],
    moved: Sequence[Use],
    steps: Mapping[GrantId, Sequence[Done]],
    causes: Mapping[GrantId, Cause],
    tx: WriteTx,
    clock: Clock,
) -> None:
    """Write the uses, then the grants; a released use owes nothing any more."""
    if not moved:
        return
    latest = {(use.grant_id, use.order_id): use for uses in of_grant.values() for use in uses}
    latest |= {(use.grant_id, use.order_id): use for use in moved}
    owing = {
        key: msgspec.structs.replace(use, owed_minor=owed(after[use.grant_id], use)) for key, use in latest.items()
    }
    await coupons.move(tx, moved)
    changed = [(after[use.grant_id], use) for key, use in owing.items() if use.owed_minor != latest[key].owed_minor]
    if changed:
        await coupons.owe(tx, changed)
    changes = []
    for grant_id, done in steps.items():
        less = sum(use.owed_minor - latest[key].owed_minor for key, use in owing.items() if key[0] == grant_id)
        told = [*done, Done(kind=GrantStep.OWED, minor=less)] if less else done
        debt_minor = sum(use.owed_minor for key, use in owing.items() if key[0] == grant_id)
        changes.append(_change(before[grant_id], after[grant_id], told, debt_minor, causes[grant_id]))
    await record_grants.record(tx, changes, clock)


async def _uses(tx: WriteTx, held: Sequence[Grant]) -> defaultdict[GrantId, list[Use]]:
    uses: defaultdict[GrantId, list[Use]] = defaultdict(list)
    for use in await coupons.of_grants(tx, [grant.grant_id for grant in held]):
        uses[use.grant_id].append(use)
    return uses


def _change(before: Grant, after: Grant, done: Sequence[Done], debt_minor: int, cause: Cause) -> Change:
    # One write, one version, however many of its uses moved.
    written = msgspec.structs.replace(after, version=before.version + 1)
    return Change(before=before, after=written, done=tuple(done), debt_minor=debt_minor, cause=cause)
