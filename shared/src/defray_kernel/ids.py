"""Typed identifiers: UUIDv7 inside, prefixed text such as `ord_…` outside."""

import os
import time
from typing import Final, NewType
from uuid import UUID

OrderId = NewType("OrderId", UUID)
PaymentId = NewType("PaymentId", UUID)
AttemptId = NewType("AttemptId", UUID)
RefundId = NewType("RefundId", UUID)
MerchantId = NewType("MerchantId", UUID)
EventId = NewType("EventId", UUID)
EntryId = NewType("EntryId", UUID)
EndpointId = NewType("EndpointId", UUID)
MessageId = NewType("MessageId", UUID)
DeliveryId = NewType("DeliveryId", UUID)
CaseId = NewType("CaseId", UUID)

_HEX_DIGITS: Final = 32


def uuid7() -> UUID:
    """A new UUIDv7 (RFC 9562 §5.7): 48 bits of real-time milliseconds, 74 random bits.

    Real time on purpose: ids order the inbox's partitions, which a sandbox clock must not move.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)


def show(prefix: str, value: UUID) -> str:
    """The public form of an id: `show("ord", id)` gives `ord_` and 32 hexadecimal digits."""
    return f"{prefix}_{value.hex}"


def parse(prefix: str, text: str) -> UUID:
    """Read a public id of this kind. Raises ValueError for another kind or anything malformed."""
    head, separator, digits = text.partition("_")
    if head != prefix or not separator or len(digits) != _HEX_DIGITS or digits != digits.lower():
        raise ValueError(f"not an id of the form {prefix}_…")
    if not all(c in "0123456789abcdef" for c in digits):
        raise ValueError(f"not an id of the form {prefix}_…")
    return UUID(hex=digits)
