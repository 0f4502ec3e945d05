"""A simulated channel's own clock: real time for signatures, movable business time for orders."""

import time
from datetime import datetime, timedelta, timezone

BEIJING = timezone(timedelta(hours=8))


class ChannelClock:
    """Business time is real time plus an offset in seconds that only ever grows."""

    def __init__(self) -> None:
        self._offset_s = 0.0

    # The simulators share no code, the clock included: time is read in this file and nowhere else in them.
    def real_s(self) -> int:
        """Unix seconds as the world knows them: what signatures are stamped and judged with."""
        return int(time.time())

    def business_s(self) -> float:
        """Unix seconds of the channel's business: creation, expiry and payment of orders."""
        return time.time() + self._offset_s

    def move_to_offset(self, offset_s: float) -> float:
        """Set the offset and return the one that now holds; an offset smaller than today's changes nothing."""
        self._offset_s = max(self._offset_s, offset_s)
        return self._offset_s


def beijing(unix_s: float) -> datetime:
    """Whole seconds in the time zone of the channels."""
    return datetime.fromtimestamp(int(unix_s), BEIJING)
