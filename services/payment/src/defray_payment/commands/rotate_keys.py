"""Seal everything with the current data key, in small transactions beside the serving processes; resumed by running again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_payment.store import sealed
from defray_payment.store.sealed import FIRST, Key, Kind

BATCH_MAX: Final = 500
PASSES_MAX: Final = 10
_PASS_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """How many values have a new seal, and how many are left: somebody held them, or still seals with an old key."""

    resealed: int
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKeys:
    """Who rotates. Every serving process must seal with the current key by now, or the work does not end."""

    actor: str
    batch_max: int = BATCH_MAX


async def run(command: RotateKeys, database: Database, clock: Clock, envelope: Envelope) -> Rotated:
    """Pass over all sealed columns until a pass finds nothing stale. `database` is the owner's: history is append-only
    for the serving role. Raises CannotOpen for a value whose key is not in the ring: nothing may be lost silently.
    """
    await _audit(command, database, clock, "payment.keys.rotate", {"to": envelope.current})
    resealed = found = 0
    for number in range(PASSES_MAX):
        if number:
            await asyncio.sleep(_PASS_PAUSE_S)
        found = 0
        for kind in sealed.KINDS:
            stale, done = await _pass(command, database, envelope, kind)
            found, resealed = found + stale, resealed + done
        if found == 0:
            await _audit(command, database, clock, "payment.keys.rotated", {"to": envelope.current})
            return Rotated(resealed=resealed, left=0)
    return Rotated(resealed=resealed, left=found)


async def _pass(command: RotateKeys, database: Database, envelope: Envelope, kind: Kind) -> tuple[int, int]:
    """Once over a column; returns how many were found stale and how many were sealed anew."""
    after: Key = FIRST
    found = done = 0
    while True:
        async with database.read() as conn:
            rows = await sealed.page(conn, kind, envelope.current, after=after, limit=command.batch_max)
        if not rows:
            return found, done
        after = rows[-1][0]
        stale = [key for key, is_stale in rows if is_stale]
        if stale:
            found += len(stale)
            done += await _reseal(database, envelope, kind, stale)
            crash_point("rotate_keys.after_batch")


async def _reseal(database: Database, envelope: Envelope, kind: Kind, keys: list[Key]) -> int:
    async with database.transaction() as tx:
        held = await sealed.lock(tx, kind, envelope.current, keys)
        anew = [(key, envelope.seal(envelope.open(value, kind.context(key)), kind.context(key))) for key, value in held]
        await sealed.write(tx, kind, anew)
    return len(anew)


async def _audit(command: RotateKeys, database: Database, clock: Clock, action: str, detail: dict[str, str]) -> None:
    async with database.transaction() as tx:
        await audit.append(tx, actor=command.actor, action=action, subject="sealed columns", clock=clock, detail=detail)
