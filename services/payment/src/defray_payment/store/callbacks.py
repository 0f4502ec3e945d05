"""What channels claimed: callbacks as they came, and the evidence of each report."""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec

from defray_kernel.db import WriteTx
from defray_kernel.ids import PaymentId, uuid7
from defray_kernel.sql import queries
from defray_payment.domain.checks import Check
from defray_payment.domain.reports import Claim

Q = queries(__file__)

_NATIVE_STATE_MAX: Final = 64
_ATTEMPT_NO_MAX: Final = 64
_encode = msgspec.json.Encoder().encode


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A verified callback; `digest` is SHA-256 of what it claims (a channel seals each repeat anew)."""

    channel: str
    callback_id: str
    attempt_no: str | None
    digest: bytes
    raw_sealed: bytes
    received_at: dt.datetime

    @property
    def key(self) -> tuple[str, str]:
        """What makes it unique."""
        return self.channel, self.callback_id

    @property
    def cause(self) -> str:
        """How transitions and cases name it."""
        return f"callback:{self.channel}:{self.callback_id}"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One report with its checks and what became of it."""

    claim: Claim
    cause: str
    payment_id: PaymentId | None
    checks: tuple[Check, ...]
    verdict: str


async def keep(tx: WriteTx, callbacks: Sequence[Callback]) -> dict[tuple[str, str], bytes]:
    """Store what is new; returns the digests of those that were here before."""
    if not callbacks:
        return {}
    new = await tx.fetch(
        Q.keep,
        [c.channel for c in callbacks],
        [c.callback_id for c in callbacks],
        [None if c.attempt_no is None else c.attempt_no[:_ATTEMPT_NO_MAX] for c in callbacks],
        [c.digest for c in callbacks],
        [c.raw_sealed for c in callbacks],
        [c.received_at for c in callbacks],
    )
    if len(new) == len(callbacks):
        return {}
    fresh = {(row["channel"], row["callback_id"]) for row in new}
    seen = [c for c in callbacks if c.key not in fresh]
    # A second statement: only its snapshot sees what a twin that was waited for has committed.
    rows = await tx.fetch(Q.digests, [c.channel for c in seen], [c.callback_id for c in seen])
    return {(row["channel"], row["callback_id"]): row["digest"] for row in rows}


async def add_evidence(tx: WriteTx, rows: Sequence[Evidence], at: dt.datetime) -> None:
    """Write what was claimed, how each check went, and the verdict."""
    if rows:
        claims = [row.claim for row in rows]
        await tx.execute(
            Q.add_evidence,
            [uuid7() for _ in rows],
            [c.channel for c in claims],
            [c.attempt_no[:_ATTEMPT_NO_MAX] or None for c in claims],
            [row.payment_id for row in rows],
            [c.source for c in claims],
            [row.cause for row in rows],
            [c.report for c in claims],
            [c.native_state[:_NATIVE_STATE_MAX] for c in claims],
            [_encode(c).decode() for c in claims],
            [_encode(row.checks).decode() for row in rows],
            [row.verdict for row in rows],
            at,
        )
