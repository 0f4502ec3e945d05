"""Turns the services' JSON log lines into lines that a person at a terminal can read."""

import json

_VALUE_CHARACTERS_MAX = 200
_TRACE_LINES = 12
_ASIDE = frozenset({"event", "level", "timestamp", "exception", "service", "role"})


def readable(text: str) -> str:
    """Return `text` with each JSON log line as `time level event key=value …`; other lines stay as they are.

    Of an exception the last 12 lines are kept, where its cause is.
    """
    return "\n".join(_readable(line) for line in text.splitlines())


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
        event = entry["event"]
    except (ValueError, KeyError, TypeError):
        return line
    words = [str(entry.get("timestamp", ""))[11:23], str(entry.get("level", "")), str(event)]
    words += [f"{name}={str(value)[:_VALUE_CHARACTERS_MAX]}" for name, value in entry.items() if name not in _ASIDE]
    # The log writes control characters as escapes, so that no text can forge a line.
    trace = str(entry.get("exception", "")).replace("\\u000a", "\n").strip().splitlines()[-_TRACE_LINES:]
    return "\n".join([" ".join(words), *(f"    {each}" for each in trace)])
