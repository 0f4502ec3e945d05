"""Register merchants: once per name, with their first fee rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from defray_kernel import audit, ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_settlement import announce
from defray_settlement.domain.merchant import Merchant
from defray_settlement.store import merchants
from defray_settlement.store.merchants import Registration, Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterMerchant:
    """An operator's wish; the name is its natural key."""

    registration: Registration
    actor: str
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The merchant, and whether it was registered before with the same content."""

    merchant: Merchant
    repeated: bool


NameTaken: TypeAlias = Literal["name_taken"]
"""Another merchant has this name, or the same one other content."""


async def handle(commands: Sequence[RegisterMerchant], tx: WriteTx, clock: Clock) -> list[Registered | NameTaken]:
    """Register what is new; each registration is announced, logged and audited. No two commands share a name."""
    now = clock.now()
    wishes = [command.registration for command in commands]
    new = await merchants.register(tx, wishes, now, clock.real())
    stored = await merchants.by_name(tx, [wish.name for wish in wishes])
    fresh = [(c, stored[c.registration.name][0]) for c in commands if c.registration.merchant_id in new]
    await merchants.log(
        tx,
        [
            Transition(merchant=m, act="register", actor=c.actor, at=now, correlation_id=c.cause.correlation_id)
            for c, m in fresh
        ],
    )
    await outbox.append(tx, [announce.merchant(m, cause=c.cause, at=now) for c, m in fresh])
    for command, merchant in fresh:
        await audit.append(
            tx,
            actor=command.actor,
            action="merchant.register",
            subject=ids.show("mer", merchant.merchant_id),
            clock=clock,
            detail={"name": merchant.name, "fee_basis_points": command.registration.basis_points},
        )
    return [_outcome(wish, *stored[wish.name], is_new=wish.merchant_id in new) for wish in wishes]


def _outcome(wish: Registration, merchant: Merchant, basis_points: int, *, is_new: bool) -> Registered | NameTaken:
    same = (merchant.mode, merchant.currencies, merchant.late_money, basis_points) == (
        wish.mode,
        wish.currencies,
        wish.late_money,
        wish.basis_points,
    )
    return Registered(merchant=merchant, repeated=not is_new) if same else "name_taken"
