"""What a careless or hostile client sends: bytes that are no JSON, and one wrong value at each place of a good body."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CARD = "4111 1111 1111 1111"
MARK = "MARK"
"""Every good body has a text that holds this and where bytes are put in."""

_NUMBERS: tuple[Any, ...] = (True, None, 1.5, 1.0, "1", " 1 ", "1_0", "٣", [], {}, -1, 10**12 + 1, 2**63, 10**19)
_TEXTS: tuple[Any, ...] = (True, None, 1, 1.5, [], {}, "", "x" * 5_000, "a\nb", "a\x7fb", CARD)
_OBJECTS: tuple[Any, ...] = (True, None, 1, "a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """A body with one mistake, and the place of it as the reply must name it."""

    what: str
    body: Any
    field: str


def malformed(good: bytes) -> dict[str, bytes]:
    """Bytes that are not strict JSON; each is answered 400 `malformed_json`."""
    mark = MARK.encode()
    opening = good.lstrip()[:1]
    assert opening == b"{"
    assert mark in good
    return {
        "NaN": good.replace(b"{", b'{"n": NaN, ', 1),
        "Infinity": good.replace(b"{", b'{"n": -Infinity, ', 1),
        "1e400": good.replace(b"{", b'{"n": 1e400, ', 1),
        "4000 digits": good.replace(b"{", b'{"n": ' + b"1" * 4000 + b", ", 1),
        "lone surrogate": good.replace(mark, rb"\ud800"),
        "NUL escape": good.replace(mark, rb"\u0000"),
        "NUL byte": good.replace(mark, b"\0"),
        "bad UTF-8": good.replace(mark, b"\xff\xfe"),
        "surrogate in UTF-8": good.replace(mark, b"\xed\xa0\x80"),
        "duplicate key": good.replace(b"{", b'{"n": 1, "n": 2, ', 1),
        "trailing data": good + b"{}",
        "comment": b"/* x */" + good,
        "BOM": b"\xef\xbb\xbf" + good,
        "UTF-16": good.decode().encode("utf-16"),
        "900 deep": b"[" * 900 + b"]" * 900,
        "30000 deep": b"[" * 30_000,
        "unterminated": good[:-2],
        "empty": b"",
    }


def mistakes(good: dict[str, Any]) -> Iterator[Wrong]:
    """Each place of a good body with each value that does not belong there, or missing; and a field too many."""
    for path in _places(good):
        at, shown = _at(good, path), _shown(path)
        for wrong in _wrong_values(at):
            body = copy.deepcopy(good)
            _put(body, path, wrong)
            yield Wrong(what=f"{shown} = {str(wrong)[:20]!r}", body=body, field=shown)
        if isinstance(at, dict):
            body = copy.deepcopy(good)
            _at(body, path)["merchant_id"] = "mer_1"
            yield Wrong(what=f"{shown} has a field too many", body=body, field=f"{shown}.merchant_id".lstrip("."))


def placed(good: dict[str, Any], text: str) -> Iterator[Wrong]:
    """One text in place of each text of a good body."""
    for path in _places(good):
        if isinstance(_at(good, path), str):
            body = copy.deepcopy(good)
            _put(body, path, text)
            yield Wrong(what=f"{_shown(path)} = {text!r}", body=body, field=_shown(path))


def missing(good: dict[str, Any], required: set[str]) -> Iterator[Wrong]:
    """Each required top-level field left out."""
    for name in sorted(required):
        body = {key: value for key, value in good.items() if key != name}
        yield Wrong(what=f"no {name}", body=body, field=name)


def encoded(good: dict[str, Any]) -> bytes:
    """The body as bytes, its marker readable."""
    return json.dumps(good, ensure_ascii=False).encode()


def _wrong_values(at: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any JSON
    if isinstance(at, int):
        return _NUMBERS
    if isinstance(at, str):
        return _TEXTS
    return _OBJECTS


Path = tuple[str | int, ...]


def _places(value: Any, path: Path = ()) -> Iterator[Path]:  # noqa: ANN401 - any JSON
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _at(value: Any, path: Path) -> Any:  # noqa: ANN401 - any JSON
    for key in path:
        value = value[key]
    return value


def _put(body: Any, path: Path, value: object) -> None:  # noqa: ANN401 - any JSON
    _at(body, path[:-1])[path[-1]] = value


def _shown(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")
