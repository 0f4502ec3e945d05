"""The audit log of operators' acts: rows chained by hash, so that a change, a deletion, a swap or a cut tail shows."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from defray_kernel import redaction
from defray_kernel.clock import Clock
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.sql import queries

Q = queries(__file__)

_START: Final = bytes(32)
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`rows` were checked; `broken_at` is the first sequence number that does not fit the chain, None when all fit."""

    rows: int
    broken_at: int | None
    reason: str = ""


async def append(
    tx: WriteTx, *, actor: str, action: str, subject: str, clock: Clock, detail: Mapping[str, object] | None = None
) -> int:
    """Add one row in the transaction of the act itself; returns its sequence number. Secrets in `detail` are masked.

    Locks the head of the chain until the transaction ends: call it last.
    """
    head = await tx.fetchrow(Q.lock_head)
    assert head is not None
    seq: int = head["seq"] + 1
    text = msgspec.json.encode(redaction.redact(detail or {}), order="sorted").decode()
    row = (seq, clock.real(), actor, action, subject, text)
    hash_ = _chained(head["hash"], *row)
    await tx.execute(Q.insert, *row, hash_)
    await tx.execute(Q.move_head, seq, hash_)
    return seq


async def verify(connection: ReadConn) -> Verdict:
    """Walk the whole chain up to the head.

    Finds every change, deletion, swap, insertion and truncation by anyone who cannot also rewrite all later rows and
    the head; reading the head first keeps rows appended meanwhile out of it.
    """
    head = await connection.fetchrow(Q.head)
    if head is None:
        return Verdict(rows=0, broken_at=0, reason="the head is missing")
    seq, hash_ = 0, _START
    while seq < head["seq"]:
        page = await connection.fetch(Q.page, seq, min(_PAGE, head["seq"] - seq))
        if not page:
            return Verdict(rows=seq, broken_at=seq + 1, reason="the tail is missing")
        for row in page:
            if row["seq"] != seq + 1:
                return Verdict(rows=seq, broken_at=seq + 1, reason="a row is missing")
            hash_ = _chained(hash_, *(row[name] for name in ("seq", "at", "actor", "action", "subject", "detail")))
            if row["hash"] != hash_:
                return Verdict(rows=seq, broken_at=seq + 1, reason="a row was changed")
            seq += 1
    if hash_ != head["hash"]:
        return Verdict(rows=seq, broken_at=seq, reason="the head does not fit")
    return Verdict(rows=seq, broken_at=None)


def _chained(previous: bytes, seq: int, at: dt.datetime, actor: str, action: str, subject: str, detail: str) -> bytes:
    moment = at.astimezone(dt.UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(previous + msgspec.json.encode([seq, moment, actor, action, subject, detail])).digest()
