"""Yuan as text to fen and back, exactly: no float, no rounding, no second way to write an amount."""

import re
from typing import Final

_YUAN: Final = re.compile(r"(\d{1,13})(?:\.(\d{1,2}))?", re.ASCII)


def fen(text: str | None) -> int | None:
    """Fen of `12.3`, `12.30` or `12`; None for everything else."""
    found = _YUAN.fullmatch(text or "")
    return None if found is None else int(found[1]) * 100 + int((found[2] or "").ljust(2, "0"))


def yuan(minor: int) -> str:
    """`12.30` of 1230. Raises ValueError for a negative amount."""
    if minor < 0:
        raise ValueError("a channel is never told a negative amount")
    return f"{minor // 100}.{minor % 100:02d}"
