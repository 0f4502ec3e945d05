"""Amounts as this channel writes them: yuan with two decimals as text, never a number."""

import re

TOTAL_MAX = 10**10
_YUAN = re.compile(r"(0|[1-9][0-9]{0,8})\.([0-9]{2})", re.ASCII)


def to_fen(text: str) -> int:
    """The amount in fen; raises ValueError for what is not exactly yuan with two decimals."""
    found = _YUAN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:32]!r} is not an amount with two decimals")
    return int(found[1]) * 100 + int(found[2])


def to_text(fen: int) -> str:
    """The amount in yuan; a lying channel may tell a negative one."""
    sign, whole, rest = "-" if fen < 0 else "", abs(fen) // 100, abs(fen) % 100
    return f"{sign}{whole}.{rest:02d}"
