"""W3C trace context: read a caller's `traceparent`, or start one; it travels in outbox rows and Kafka headers."""

import os
import re
from typing import Final

_FORM: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


def new() -> str:
    """The traceparent of a new, sampled trace."""
    digits = os.urandom(24).hex()
    return f"00-{digits[:32]}-{digits[32:]}-01"


def continued(header: str | None) -> str:
    """A span of our own in the caller's trace; a header that is missing or malformed starts a new trace (W3C §3.2.2)."""
    match = _FORM.match(header) if header else None
    if match is None or set(match[1]) == {"0"} or set(match[2]) == {"0"}:
        return new()
    return f"00-{match[1]}-{os.urandom(8).hex()}-{match[3]}"


def trace_id(traceparent: str) -> str:
    """The 32 hexadecimal digits that all spans of one trace share."""
    return traceparent[3:35]
