"""Add webhook endpoints, at most sixteen per merchant."""

from collections.abc import Sequence
from dataclasses import dataclass

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_notifier.domain.endpoint import Added, Decision, EndpointState, Wish, decide
from defray_notifier.store import endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class AddEndpoint:
    """A merchant's wish with the sealed secret of the new endpoint; its id makes it repeatable."""

    wish: Wish
    sealed_secret: bytes
    cause: Cause


async def handle(commands: Sequence[AddEndpoint], tx: WriteTx, clock: Clock) -> list[Decision]:
    """One outcome each; no two commands are of one merchant."""
    now = clock.now()
    merchants = [command.wish.merchant_id for command in commands]
    await endpoints.lock_merchants(tx, merchants)
    enabled = await endpoints.enabled_of(tx, merchants)
    decisions = [
        decide([e for e in enabled if e.merchant_id == command.wish.merchant_id], command.wish, now)
        for command in commands
    ]
    added = [(c, d.endpoint) for c, d in zip(commands, decisions, strict=True) if isinstance(d, Added)]
    if added:
        await endpoints.insert(tx, [endpoint for _, endpoint in added], [c.sealed_secret for c, _ in added], now)
        moves = [(e.endpoint_id, e.version, EndpointState.ENABLED, None, c.cause) for c, e in added]
        await endpoints.log(tx, moves, now)
    return decisions
