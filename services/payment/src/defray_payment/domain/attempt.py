"""An attempt: one try at one channel under one number, how its state follows reports, and when it is asked about again."""

import datetime as dt
from enum import StrEnum
from typing import Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec.structs import replace

from defray_kernel.ids import OrderId, PaymentId
from defray_payment.domain.reports import Report

QUERY_AFTER_S: Final = (5, 10, 20, 40, 60, 120, 300, 600, 1200, 1800, 3600)
"""Seconds from one question to the next; the last one repeats until the end."""
END_AFTER_EXPIRY: Final = dt.timedelta(seconds=60)
"""So long after its expiry an attempt that is still open is closed at its channel."""
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS: Final = 26


class AttemptStatus(StrEnum):
    """SENDING: the channel does not know it for certain (yet). UNKNOWN: it may know it. OPEN: it does.

    RETURNED: it is over, and whatever was paid of it has gone back at the channel.
    """

    SENDING = "SENDING"
    UNKNOWN = "UNKNOWN"
    OPEN = "OPEN"
    PAID = "PAID"
    REFUSED = "REFUSED"
    CLOSED = "CLOSED"
    RETURNED = "RETURNED"


LIVE: Final = frozenset({AttemptStatus.SENDING, AttemptStatus.UNKNOWN, AttemptStatus.OPEN})
UNSETTLED: Final = frozenset({AttemptStatus.SENDING, AttemptStatus.UNKNOWN})
"""Live, and nobody can say whether the channel holds it."""

_Pairs: TypeAlias = dict[tuple[AttemptStatus, Report], AttemptStatus]
FOLLOWS: Final[_Pairs] = {
    (AttemptStatus.SENDING, Report.OPENED): AttemptStatus.OPEN,
    (AttemptStatus.SENDING, Report.UNCLEAR): AttemptStatus.UNKNOWN,
    (AttemptStatus.SENDING, Report.REFUSED): AttemptStatus.REFUSED,
    (AttemptStatus.UNKNOWN, Report.OPENED): AttemptStatus.OPEN,
    (AttemptStatus.UNKNOWN, Report.REFUSED): AttemptStatus.REFUSED,
    (AttemptStatus.OPEN, Report.REFUSED): AttemptStatus.REFUSED,
    # Only a query long after expiry says it: by then the channel takes no late create either.
    (AttemptStatus.SENDING, Report.LAPSED): AttemptStatus.CLOSED,
    (AttemptStatus.UNKNOWN, Report.LAPSED): AttemptStatus.CLOSED,
    (AttemptStatus.SENDING, Report.CLOSED): AttemptStatus.CLOSED,
    (AttemptStatus.UNKNOWN, Report.CLOSED): AttemptStatus.CLOSED,
    (AttemptStatus.OPEN, Report.CLOSED): AttemptStatus.CLOSED,
    # Money decides whatever was believed before, but for money that the channel has sent back: a callback on its way or
    # an answer to an earlier question may still tell of it.
    **{(status, Report.PAID): AttemptStatus.PAID for status in AttemptStatus if status is not AttemptStatus.RETURNED},
    **{
        (status, Report.RETURNED): AttemptStatus.RETURNED
        for status in AttemptStatus
        if status is not AttemptStatus.PAID
    },
}
"""Every pair that changes an attempt; all others leave it as it is."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `next_query_at` is business time; None when there is nothing more to ask.

    `account_id` is where it was made; None = before accounts had rows.
    """

    attempt_no: str
    payment_id: PaymentId
    order_id: OrderId
    channel: str
    status: AttemptStatus
    closing: bool
    query_count: int
    next_query_at: dt.datetime | None
    action_sealed: bytes | None
    action_expires_at: dt.datetime | None
    account_id: UUID | None = None
    payer_sealed: bytes | None = None

    def following(self, report: Report, now: dt.datetime, *, query_soon: bool = False) -> "Attempt":
        """The attempt after a report: its state, and when the channel is asked next."""
        status = FOLLOWS.get((self.status, report), self.status)
        if status not in LIVE:
            return replace(self, status=status, next_query_at=None)
        next_query_at = now if query_soon else now + dt.timedelta(seconds=query_after_s(self.query_count))
        return replace(self, status=status, next_query_at=next_query_at)


def query_after_s(query_count: int) -> int:
    """Seconds to wait after so many questions."""
    return QUERY_AFTER_S[min(query_count, len(QUERY_AFTER_S) - 1)]


def number_of(value: UUID) -> str:
    """A channel number from a UUIDv7: 26 characters of [0-9A-Z], which every channel takes, ordered by time."""
    rest, digits = value.int, []
    for _ in range(_DIGITS):
        digits.append(_ALPHABET[rest & 31])
        rest >>= 5
    return "".join(reversed(digits))
