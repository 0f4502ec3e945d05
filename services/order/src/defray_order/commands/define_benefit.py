"""Define and archive templates of benefits: what orders may bring from now on, or bring no more."""

import datetime as dt
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from defray_kernel import idempotency
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.idempotency import Answer, Claim, Claimed, Fresh, Resume
from defray_kernel.ids import MerchantId
from defray_order.commands.told import Told
from defray_order.domain.benefit import Benefit, BenefitId
from defray_order.store import benefits

RULES_MAX: Final = 50
"""Templates of one merchant that rules give: every paid order looks at them all."""


class DefineBenefit(msgspec.Struct, frozen=True, kw_only=True):
    """A merchant's new template; `encode` puts it as the caller is told, which its key keeps."""

    key: Claim
    benefit: Benefit
    encode: Callable[[Benefit], bytes]


class ArchiveBenefit(msgspec.Struct, frozen=True, kw_only=True):
    """No new order brings this one any more; what was sold with it before still does."""

    merchant_id: MerchantId
    benefit_id: BenefitId


class TooManyRules(msgspec.Struct, frozen=True, kw_only=True):
    """The merchant has as many templates that rules give as it may."""


Outcome: TypeAlias = Told | TooManyRules | Claimed


async def handle(command: DefineBenefit, tx: WriteTx, clock: Clock) -> Outcome:
    """Insert, once per key. Locks the key, then, of a rule, the merchant's rules."""
    (claimed,) = await idempotency.claim(tx, [command.key], clock)
    if not isinstance(claimed, (Fresh, Resume)):
        return claimed
    benefit = command.benefit
    if benefit.rule is not None and await benefits.count_rules(tx, benefit.merchant_id) >= RULES_MAX:
        return TooManyRules()
    await benefits.insert(tx, benefit)
    body = command.encode(benefit)
    await idempotency.finish(tx, [Answer(scope=command.key.scope, key=command.key.key, status=201, body=body)])
    return Told(status=201, body=body)


async def archive(command: ArchiveBenefit, tx: WriteTx, at: dt.datetime) -> Benefit | None:
    """The template as it is now; None when the merchant has no such. Archiving again changes nothing."""
    if not await benefits.archive(tx, command.merchant_id, command.benefit_id, at):
        return None
    return (await benefits.get(tx, [command.benefit_id]))[command.benefit_id]
