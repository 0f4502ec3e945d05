"""Verify the audit log: the chain against itself, then against anchors that were noted outside the database."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from defray_kernel import audit
from defray_kernel.audit import Verdict
from defray_kernel.db import Database, begin
from defray_order.store import audit_log


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """What the last row was at some moment; `hash` in hexadecimal. An anchor in other hands pins all rows up to it."""

    seq: int
    hash: str


async def anchor(database: Database) -> Anchor | None:
    """The last row now; None when the head is gone."""
    async with database.read() as conn:
        found = await audit_log.head(conn)
    return None if found is None else Anchor(seq=found[0], hash=found[1].hex())


async def run(database: Database, anchors: Sequence[Anchor]) -> Verdict:
    """Walk the chain, then look up each anchor, in one snapshot.

    The chain alone cannot show that somebody with the owner's rights wrote it anew, head and all; an anchor does.
    """
    async with database.read() as conn, begin(conn) as tx:
        await audit_log.freeze(tx)
        verdict = await audit.verify(tx)
        known = await audit_log.hashes(tx, [each.seq for each in anchors])
    if verdict.broken_at is not None:
        return verdict
    for each in sorted(anchors, key=lambda each: each.seq):
        if each.seq > verdict.rows:
            return Verdict(rows=verdict.rows, broken_at=verdict.rows + 1, reason="rows up to an anchor are missing")
        if each.seq > 0 and known[each.seq].hex() != each.hash:
            return Verdict(rows=verdict.rows, broken_at=each.seq, reason="an anchor does not fit")
    return verdict
