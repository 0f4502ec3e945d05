"""What JSON a simulated channel accepts: strict reading, and shapes that name the offending field."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

_BODY_BYTES_MAX = 64 * 1024


class ShapeError(Exception):
    """A value does not fit: `at` is the JSON pointer of the first fault, `issue` says what is wrong with it."""

    def __init__(self, at: str, issue: str) -> None:
        super().__init__(f"parameter {at or '/'} {issue}")
        self.at = at or "/"
        self.issue = issue


class Shape(Protocol):
    """Checks one value and names the pointer of the first fault."""

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A string with a length in characters and, if given, a pattern for the whole of it."""

    length_max: int
    length_min: int = 1
    pattern: str = ""

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, str):
            raise ShapeError(at, "must be a string")
        if not self.length_min <= len(value) <= self.length_max:
            raise ShapeError(at, f"length must be {self.length_min} to {self.length_max}")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            raise ShapeError(at, "is not valid Unicode")
        if self.pattern and re.fullmatch(self.pattern, value, re.ASCII) is None:
            raise ShapeError(at, "has a wrong format")


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole JSON number; true, 1.0 and "1" are none."""

    low: int
    high: int

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise ShapeError(at, "must be an integer")
        if not self.low <= value <= self.high:
            raise ShapeError(at, f"must be {self.low} to {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A JSON number that may have a fraction: seconds and probabilities of the controls, never money."""

    low: float
    high: float

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ShapeError(at, "must be a number")
        if not self.low <= value <= self.high:
            raise ShapeError(at, f"must be {self.low} to {self.high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """true or false."""

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, bool):
            raise ShapeError(at, "must be a boolean")


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """One of a few strings."""

    words: Sequence[str]

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, str) or value not in self.words:
            raise ShapeError(at, f"must be one of {', '.join(self.words)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf:
    """A list whose items all have one shape."""

    item: Shape
    count_max: int

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, list):
            raise ShapeError(at, "must be an array")
        if len(value) > self.count_max:
            raise ShapeError(at, f"must hold at most {self.count_max} items")
        for number, item in enumerate(value):
            self.item.check(item, f"{at}/{number}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An object with these fields and no other."""

    required: Mapping[str, Shape]
    optional: Mapping[str, Shape]

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, dict):
            raise ShapeError(at, "must be an object")
        for name in value:
            if name not in self.required and name not in self.optional:
                raise ShapeError(f"{at}/{name[:64]}", "is not a field of this request")
        for name in self.required:
            if name not in value:
                raise ShapeError(f"{at}/{name}", "is missing")
        for name, item in value.items():
            shape = self.required.get(name) or self.optional[name]
            shape.check(item, f"{at}/{name}")


def read_object(raw: bytes, shape: Record, *, bytes_max: int = _BODY_BYTES_MAX) -> dict[str, object]:
    """Parse a body strictly (UTF-8, no duplicate names, no NaN, bounded) and check its shape.

    Raises ShapeError.
    """
    if len(raw) > bytes_max:
        raise ShapeError("", "is too large")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ShapeError("", "is not valid JSON") from error
    shape.check(value, "")
    assert isinstance(value, dict)
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate name")
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
