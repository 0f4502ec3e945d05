"""Types for request models: strict, closed, and with the stable error code each mistake is told by."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import annotated_types
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WrapValidator
from pydantic_core import ErrorDetails, PydanticCustomError

from defray_kernel import money, redaction
from defray_kernel.problems import Problem, Problems

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FIELD_PATH_MAX: Final = 200
_CODES: Final = {"missing": "missing_field", "extra_forbidden": "unknown_field"}


class RequestModel(BaseModel):
    """Base of every request body: strict types, unknown fields refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Text(annotated_types.GroupedMetadata):
    """`Annotated[str, Text(64)]`: a string without control characters, its length in characters."""

    length_max: int
    length_min: int = 1
    pattern: str | None = None

    def __iter__(self) -> Iterator[object]:
        yield StringConstraints(min_length=self.length_min, max_length=self.length_max, pattern=self.pattern)
        yield AfterValidator(_printable)


def _printable(text: str) -> str:
    if _CONTROL.search(text) is not None:
        raise PydanticCustomError("invalid_field", "control character")
    return text


def _amount(value: Any, handler: Any) -> int:  # noqa: ANN401 - pydantic's signature
    try:
        amount: int = handler(value)
    except ValidationError:
        raise PydanticCustomError("invalid_amount", "not an amount") from None
    return amount


def _currency(text: str) -> str:
    try:
        money.exponent(text)
    except (KeyError, ValueError):
        raise PydanticCustomError("unsupported_currency", "not a currency") from None
    return text


AmountMinor = Annotated[int, Field(ge=1, le=money.MINOR_MAX), WrapValidator(_amount)]
"""1 to 10^12 minor units."""
AmountMinorOrZero = Annotated[int, Field(ge=0, le=money.MINOR_MAX), WrapValidator(_amount)]
"""0 to 10^12 minor units."""
CurrencyCode = Annotated[str, StringConstraints(min_length=3, max_length=3), AfterValidator(_currency)]
"""ISO 4217 alphabetic, upper case, with minor units."""


def refuse_card_numbers(value: object, path: tuple[str | int, ...] = ()) -> None:
    """Raise Problem `pan_not_allowed` naming the field when a card number stands in any text or number of parsed JSON."""
    if isinstance(value, dict):
        for key, item in value.items():
            if redaction.has_card_number(key):
                raise Problem("pan_not_allowed", field=path_text(path))
            refuse_card_numbers(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_card_numbers(item, (*path, index))
    elif isinstance(value, (str, int)) and redaction.has_card_number(str(value)):
        raise Problem("pan_not_allowed", field=path_text(path))


def problem(error: ValidationError, problems: Problems) -> Problem:
    """The first mistake as a Problem with its field and code; the value is never told."""
    first: ErrorDetails = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind = first["type"]
    code = _CODES.get(kind) or (kind if kind in problems else "invalid_field")
    return Problem(code, field=path_text(first["loc"]))


def path_text(path: Sequence[str | int]) -> str | None:
    """`items[0].amount_minor`; parts that are no plain names (they are the caller's text) are shown as `?`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = len(part) <= 64 and part.isascii() and part.isidentifier() and redaction.clean(part) == part
            text += ("." if text else "") + (part if plain else "?")
    return text[:_FIELD_PATH_MAX] or None
