"""Seal all that is sealed again with the current data key, in small transactions beside the serving processes; resumed by running again."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import UUID

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.crash import crash_point
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_order.domain.seals import buyer_key_context, made_key_context, rejected_context
from defray_order.store import sealed

BATCH_MAX: Final = 500
PASSES_MAX: Final = 10
_PASS_PAUSE_S: Final = 0.5
_REJECTED_BATCH_MAX: Final = 50  # Records of strangers, not keys: up to 200 KB each.
_FIRST: Final = UUID(int=0)


class RotateKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Who rotates. Every serving process must seal with the current key by now, or the work does not end."""

    actor: str
    batch_max: int = BATCH_MAX


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """How many values have a new seal, and how many are left: somebody held them, or still seals with an old key."""

    resealed: int
    left: int


async def run(command: RotateKeys, database: Database, clock: Clock, envelope: Envelope) -> Rotated:
    """Pass over all sealed columns until a pass finds nothing stale; `database` is the owner's.

    Buyers stay as they are enciphered: only their keys are wrapped anew. Raises CannotOpen for a value that no key of
    the ring opens: nothing may be lost silently.
    """
    await _audit(command, database, clock, "order.keys.rotate", envelope.current)
    resealed = found = 0
    for number in range(PASSES_MAX):
        if number:
            await asyncio.sleep(_PASS_PAUSE_S)
        made = await _made_keys(database, envelope)
        found, done = await _buyer_keys(command, database, envelope)
        strangers, done_too = await _rejected(command, database, envelope)
        found, resealed = found + strangers, resealed + made + done + done_too
        if found == 0:
            await _audit(command, database, clock, "order.keys.rotated", envelope.current)
            return Rotated(resealed=resealed, left=0)
    return Rotated(resealed=resealed, left=found)


async def _made_keys(database: Database, envelope: Envelope) -> int:
    async with database.transaction() as tx:
        held = await sealed.lock_made_keys(tx, envelope.current)
        await sealed.write_made_keys(tx, {n: _anew(envelope, v, made_key_context(n)) for n, v in held.items()})
    return len(held)


async def _buyer_keys(command: RotateKeys, database: Database, envelope: Envelope) -> tuple[int, int]:
    """Once over the table; returns how many were found stale and how many were wrapped anew."""
    after, found, done = _FIRST, 0, 0
    while True:
        async with database.read() as conn:
            rows = await sealed.buyer_keys_page(conn, envelope.current, after=after, limit=command.batch_max)
        if not rows:
            return found, done
        after = rows[-1][0]
        stale = [order_id for order_id, is_stale in rows if is_stale]
        if stale:
            async with database.transaction() as tx:
                held = await sealed.lock_buyer_keys(tx, envelope.current, stale)
                anew = {o: _anew(envelope, v, buyer_key_context(o)) for o, v in held.items()}
                await sealed.write_buyer_keys(tx, anew)
            found, done = found + len(stale), done + len(anew)
            crash_point("rotate_keys.after_batch")


async def _rejected(command: RotateKeys, database: Database, envelope: Envelope) -> tuple[int, int]:
    """The same for what strangers sent and nobody could use."""
    after, found, done = _FIRST, 0, 0
    while True:
        limit = min(command.batch_max, _REJECTED_BATCH_MAX)
        async with database.read() as conn:
            rows = await sealed.rejected_page(conn, envelope.current, after=after, limit=limit)
        if not rows:
            return found, done
        after = rows[-1][0]
        stale = [rejected_id for rejected_id, is_stale in rows if is_stale]
        if stale:
            async with database.transaction() as tx:
                held = await sealed.lock_rejected(tx, envelope.current, stale)
                await sealed.write_rejected(tx, {i: _anew(envelope, v, rejected_context(i)) for i, v in held.items()})
            found, done = found + len(stale), done + len(held)


def _anew(envelope: Envelope, value: bytes, context: str) -> bytes:
    return envelope.seal(envelope.open(value, context), context)


async def _audit(command: RotateKeys, database: Database, clock: Clock, action: str, key_id: str) -> None:
    async with database.transaction() as tx:
        await audit.append(
            tx, actor=command.actor, action=action, subject="sealed columns", clock=clock, detail={"to": key_id}
        )
