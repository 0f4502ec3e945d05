"""Idempotency keys: the same request twice has one effect and one answer, because the key's row commits with the work."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias
from uuid import UUID

import msgspec
from asyncpg import Record

from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_kernel.sql import queries
from defray_kernel.timers import Timer

Q = queries(__file__)

KEPT: Final = dt.timedelta(days=7)
LEASE_S: Final = 60.0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Wish to do the work of one request.

    `scope` keeps callers and operations apart (`scope_of`). A *decision* finishes in the transaction that claims; a
    *conversation* (a channel is called in between) holds the key for `lease_s` seconds of real time.
    """

    scope: str
    key: str
    request_hash: bytes
    mode: Literal["decision", "conversation"] = "decision"
    lease_s: float = LEASE_S


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """First of its kind: do the work, then `finish`."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Done before: give the stored answer again."""

    status: int
    body: bytes


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """The key was used with another request (422)."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A twin is at it (409); its lease ends in at most `retry_after_s` seconds."""

    retry_after_s: int


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Its worker died: go on with the resource it left, under the same channel number. The lease is ours now."""

    resource_id: UUID | None


Claimed: TypeAlias = Fresh | Replay | Mismatch | Running | Resume


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller was told; bytes, because a replay must be the same to the byte."""

    scope: str
    key: str
    status: int
    body: bytes
    resource_id: UUID | None = None


def scope_of(caller: UUID, operation: str) -> str:
    """The scope of one caller's (a merchant's) use of one operation, such as `place_order`."""
    return f"{caller.hex}:{operation}"


def request_hash(method: str, path: str, body: object) -> bytes:
    """SHA-256 over method, path and the body's canonical JSON: white space and key order do not make another request."""
    canonical = msgspec.json.encode(body, order="sorted") if body is not None else b""
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(), canonical))).digest()


async def claim(tx: WriteTx, claims: Sequence[Claim], clock: Clock) -> list[Claimed]:
    """Claim many keys, one answer each in the given order; waits for twins that are about to commit.

    Raises AssertionError when a key stands twice: rounds by serial key keep twins apart.
    """
    now = clock.real()
    by_key = {(c.scope, c.key): c for c in claims}
    assert len(by_key) == len(claims)
    rows = await tx.fetch(Q.claim, *_columns(claims), [_lease(c, now) for c in claims], now)
    result: dict[tuple[str, str], Claimed] = {(row["scope"], row["key"]): Fresh() for row in rows}
    seen = [c for k, c in by_key.items() if k not in result]
    if seen:
        # A second statement: only its snapshot sees what the twin waited for has committed.
        scopes, keys, _ = _columns(seen)
        for row in await tx.fetch(Q.lock_existing, scopes, keys):
            key = (row["scope"], row["key"])
            result[key] = _judge(by_key[key].request_hash, row, now)
        resumed = [c for c in seen if isinstance(result.get((c.scope, c.key)), Resume)]
        if resumed:
            scopes, keys, _ = _columns(resumed)
            await tx.execute(Q.take_over, scopes, keys, [_lease(c, now) for c in resumed])
    # A key that was there and is gone was purged in between: its caller may simply ask again.
    return [result.get((c.scope, c.key), Running(retry_after_s=1)) for c in claims]


async def finish(tx: WriteTx, answers: Sequence[Answer]) -> None:
    """Store the answers of claimed keys. An answer already stored stays: the first one was told."""
    await tx.execute(
        Q.finish,
        [a.scope for a in answers],
        [a.key for a in answers],
        [a.status for a in answers],
        [a.body for a in answers],
        [a.resource_id for a in answers],
    )


async def remember_resource(tx: WriteTx, resources: Sequence[tuple[str, str, UUID]]) -> None:
    """Note (scope, key, resource id) before the channel is called, so that a resumed request finds what it made."""
    await tx.execute(
        Q.remember_resource, [r[0] for r in resources], [r[1] for r in resources], [r[2] for r in resources]
    )


def purge_timer(clock: Clock) -> Timer:
    """The timer that forgets keys after seven days of real time."""

    async def purge(tx: WriteTx, _now: dt.datetime, limit: int) -> Sequence[object]:
        return await tx.fetch(Q.purge, clock.real() - KEPT, limit)

    async def nothing(_rows: Sequence[object]) -> None:
        """The delete was the work."""

    return Timer(name="idempotency_purge", claim=purge, apply=nothing, every_s=60.0)


def _columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[bytes]]:
    return [c.scope for c in claims], [c.key for c in claims], [c.request_hash for c in claims]


def _lease(wish: Claim, now: dt.datetime) -> dt.datetime:
    # A decision holds no lease: if its row is ever seen committed and unanswered, the work is simply run again.
    return now + dt.timedelta(seconds=wish.lease_s) if wish.mode == "conversation" else now


def _judge(hash_: bytes, row: Record, now: dt.datetime) -> Claimed:
    if row["request_hash"] != hash_:
        return Mismatch()
    if row["status"] is not None:
        return Replay(status=row["status"], body=row["body"])
    left_s = (row["lease_until"] - now).total_seconds()
    return Running(retry_after_s=min(int(left_s) + 1, 60)) if left_s > 0 else Resume(resource_id=row["resource_id"])
