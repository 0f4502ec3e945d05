"""JSON as a payment interface must read it: one meaning per text, bounded, and nothing that Postgres or a log cannot hold."""

import json
import math
import re
from typing import Any, Final, NoReturn

BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 20
INT_DIGITS_MAX: Final = 20

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[\]{}]")


class MalformedJson(Exception):
    """The bytes are not strict JSON; `detail` says why in our words and never quotes them."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def loads(raw: bytes) -> object:
    """Parse UTF-8 JSON.

    Raises MalformedJson for a BOM, bad UTF-8, NaN and infinities (also 1e400), duplicate keys, lone surrogates, NUL,
    more than 20 levels, integers of more than 20 digits, more than 64 KiB, or anything after the value.
    """
    if not raw:
        raise MalformedJson("the body is empty")
    if len(raw) > BYTES_MAX:
        raise MalformedJson("the text is too long")
    _check_depth(raw)
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedJson("the text is not UTF-8") from None
    except (ValueError, RecursionError):
        raise MalformedJson("the text is not JSON") from None
    if b"\\u" in raw:
        _check_characters(value)
    return value


def _check_depth(raw: bytes) -> None:
    if raw.count(b"{") + raw.count(b"[") <= DEPTH_MAX:
        return
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_MAX:
            raise MalformedJson(f"more than {DEPTH_MAX} levels")


def _check_characters(value: object) -> None:
    """Escapes are the only way to bring in what UTF-8 or Postgres cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedJson("a lone surrogate") from None
    if b"\\u0000" in text.replace(b"\\\\", b""):
        raise MalformedJson("a NUL character")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedJson("a key stands twice in one object")
    return result


def _integer(text: str) -> int:
    if len(text) > INT_DIGITS_MAX + text.startswith("-"):
        raise MalformedJson(f"an integer of more than {INT_DIGITS_MAX} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedJson("a number that is not finite")
    return value


def _constant(_: str) -> NoReturn:
    raise MalformedJson("a number that is not finite")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
)
