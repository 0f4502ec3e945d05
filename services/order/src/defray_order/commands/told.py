"""What a caller was told: kept with its idempotency key, because a replay must be the same to the byte."""

import msgspec


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The answer as it was stored, for instance 201 for a new order, 200 for one placed before under another key."""

    status: int
    body: bytes
