"""What must never be stored or logged, and how to recognise it: card numbers, keys, tokens."""

import re
from collections.abc import Mapping
from typing import Final

MASK: Final = "[redacted]"

# A run of 16 to 19 digits, spaced or dashed as on a card, that starts like a card does: order numbers made of dates pass.
_CARD: Final = re.compile(r"(?<![0-9A-Za-z_])(?:[456]|35|2[2-7]|81)(?:[ -]?[0-9]){14,18}(?![0-9A-Za-z_])", re.ASCII)
_CARD_BYTES: Final = re.compile(rb"[0-9](?:[ -]?[0-9]){15}|\\u")  # an escape may hide digits
_SECRET_NAME: Final = re.compile(
    r"secret|password|passwd|token|signature|authorization|credential|cookie|private|dsn|api_?key|(?:^|_)keys?(?:$|_(?!id))",
    re.IGNORECASE,
)
_HARMLESS_NAMES: Final = frozenset({"parked_key", "parked_keys", "kafka_key"})
_SECRET_VALUE: Final = re.compile(
    r"sk_(?:live|test)_[A-Za-z0-9_-]+|whsec_[A-Za-z0-9+/=_-]+|-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\Z)"
    r"|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?|\b(?:Bearer|Basic) +[^\s\"']+|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)",
    re.DOTALL,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_DEPTH_MAX: Final = 6


def has_card_number(text: str) -> bool:
    """Whether a Luhn-valid number of 16 to 19 digits that could be a card's stands in the text."""
    return any(_luhn(match.group()) for match in _CARD.finditer(text))


def clean(text: str, *, characters_max: int = 4_000, keep: str = "") -> str:
    """Text fit for a log: secrets and card numbers masked, control characters escaped unless in `keep`, the start cut off."""
    text = _SECRET_VALUE.sub(MASK, text[-characters_max:])
    text = _CARD.sub(lambda match: MASK if _luhn(match.group()) else match.group(), text)
    return _CONTROL.sub(lambda match: match.group() if match.group() in keep else f"\\u{ord(match.group()):04x}", text)


def redact(value: object, name: str = "", depth: int = 0) -> object:
    """A value fit for a log; whatever stands under a name of a secret is masked, whole."""
    if name and _SECRET_NAME.search(name) and name not in _HARMLESS_NAMES:
        return MASK
    if value is None or isinstance(value, (bool, int, float)):
        return MASK if isinstance(value, int) and has_card_number(str(value)) else value
    if depth >= _DEPTH_MAX:
        return "[too deep]"
    if isinstance(value, Mapping):
        return {clean(str(key)): redact(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(item, "", depth + 1) for item in value]
    if isinstance(value, bytes):
        return f"[{len(value)} bytes]"
    return clean(str(value))


def _luhn(text: str) -> bool:
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = (digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2])
    return 16 <= len(digits) <= 19 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def might_have_card_number(raw: bytes) -> bool:
    """A quick look at bytes: False means no card number stands there as plain digits."""
    return _CARD_BYTES.search(raw) is not None
