"""What a caller was told: kept with its idempotency key, because a replay must be the same to the byte."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The answer as it was stored, for instance 201 for a new order, 200 for one placed before under another key."""

    status: int
    body: bytes
