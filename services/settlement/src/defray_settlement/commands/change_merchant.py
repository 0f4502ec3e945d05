"""Change registered merchants: suspend, resume, disable, issue a key, revoke a key."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from defray_kernel import audit, ids, outbox
from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId
from defray_settlement import announce
from defray_settlement.domain import merchant as rule
from defray_settlement.domain.merchant import Act, Decision, IssueKey, Merchant, Moved, Refused, RevokeKey
from defray_settlement.store import merchants
from defray_settlement.store.merchants import Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeMerchant:
    """An operator's act; a key's id makes issuing it repeatable."""

    merchant_id: MerchantId
    act: Act
    actor: str
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The merchant as it is now; `repeated` says that it was so before."""

    merchant: Merchant
    repeated: bool


Unknown: TypeAlias = Literal["unknown"]
Outcome: TypeAlias = Changed | Refused | Unknown


async def handle(commands: Sequence[ChangeMerchant], tx: WriteTx, clock: Clock) -> list[Outcome]:
    """Apply one act per merchant; each move is announced, logged and audited."""
    now = clock.now()
    before = await merchants.lock(tx, [command.merchant_id for command in commands])
    commands = await _with_known_revocations(commands, tx)
    decisions: list[Decision | None] = [
        rule.decide(before[c.merchant_id], c.act, now) if c.merchant_id in before else None for c in commands
    ]
    moved = [(c, d.merchant) for c, d in zip(commands, decisions, strict=True) if isinstance(d, Moved)]
    if moved:
        await merchants.move(tx, before, [merchant for _, merchant in moved], now, clock.real())
        await merchants.log(
            tx,
            [
                Transition(
                    merchant=m, act=rule.act_name(c.act), actor=c.actor, at=now, correlation_id=c.cause.correlation_id
                )
                for c, m in moved
            ],
        )
        await outbox.append(tx, [announce.merchant(m, cause=c.cause, at=now) for c, m in moved])
    for command, merchant in moved:
        await _audit(command, merchant, tx, clock)
    return [_outcome(before.get(c.merchant_id), d) for c, d in zip(commands, decisions, strict=True)]


async def _with_known_revocations(commands: Sequence[ChangeMerchant], tx: WriteTx) -> list[ChangeMerchant]:
    wanted = [(c.act.key_id, c.merchant_id) for c in commands if isinstance(c.act, RevokeKey)]
    revoked = await merchants.revoked_among(tx, wanted) if wanted else set()
    return [
        dataclasses.replace(c, act=dataclasses.replace(c.act, revoked_before=True))
        if isinstance(c.act, RevokeKey) and c.act.key_id in revoked
        else c
        for c in commands
    ]


async def _audit(command: ChangeMerchant, merchant: Merchant, tx: WriteTx, clock: Clock) -> None:
    detail: dict[str, object] = {"version": merchant.version}
    if isinstance(command.act, (IssueKey, RevokeKey)):
        detail["key_id"] = ids.show("key", command.act.key_id)
    if isinstance(command.act, IssueKey):
        detail["scopes"] = list(command.act.scopes)
    await audit.append(
        tx,
        actor=command.actor,
        action=f"merchant.{rule.act_name(command.act)}",
        subject=ids.show("mer", merchant.merchant_id),
        clock=clock,
        detail=detail,
    )


def _outcome(before: Merchant | None, decision: Decision | None) -> Outcome:
    if before is None or decision is None:
        return "unknown"
    match decision:
        case Moved(merchant=merchant):
            return Changed(merchant=merchant, repeated=False)
        case Refused():
            return decision
        case _:
            return Changed(merchant=before, repeated=True)
