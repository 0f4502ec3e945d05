"""When a delivery that failed is tried again."""

import datetime as dt
import email.utils
from typing import Final

SCHEDULE: Final = tuple(
    dt.timedelta(seconds=seconds)
    for seconds in (0, 5, 30, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
"""The wait before each attempt; the first is made at once. In all a little over three days."""
JITTER_PERMILLE: Final = 100
"""A wait is up to 10 % shorter or longer, so that what failed together does not come back together."""
RETRY_AFTER_MAX: Final = dt.timedelta(hours=1)


def wait_after(attempt_no: int, *, jitter_permille: int, retry_after: dt.timedelta | None) -> dt.timedelta | None:
    """The wait after a failed attempt (1, 2, …); None when that was the last one.

    An endpoint that asks for a longer wait gets it, up to an hour; a shorter one changes nothing.
    """
    assert -JITTER_PERMILLE <= jitter_permille <= JITTER_PERMILLE
    if attempt_no >= len(SCHEDULE):
        return None
    wait = SCHEDULE[attempt_no] * (1000 + jitter_permille) // 1000
    asked = min(retry_after or dt.timedelta(0), RETRY_AFTER_MAX)
    return max(wait, asked)


def retry_after(header: str | None, now: dt.datetime) -> dt.timedelta | None:
    """A `Retry-After` header (RFC 9110 §10.2.3), in seconds or as a date; None when there is none or it is nonsense."""
    if header is None or len(header) > 64:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(dt.timedelta(seconds=int(text[:9])), RETRY_AFTER_MAX)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return min(max(moment - now, dt.timedelta(0)), RETRY_AFTER_MAX)
