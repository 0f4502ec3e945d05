"""An append-only file of JSON lines that a simulated channel's ledger is made of: written before anything is answered."""

import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

Line = dict[str, object]


class LedgerInUseError(Exception):
    """Another process writes this ledger."""


class Journal:
    """The lines of one ledger; each is applied after it was written, and once more when the file is opened again."""

    def __init__(self, path: Path, apply: Callable[[Line], None]) -> None:
        """Open or create the file and apply its lines.

        A line torn by a crash was never answered for, and is cut off. Raises LedgerInUseError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._apply = apply
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise LedgerInUseError(str(path)) from error
        good = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                apply(json.loads(line))
                good += len(line)
        os.ftruncate(self._file, good)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)

    def record(self, line: Mapping[str, object]) -> None:
        """Write a line, then apply it."""
        written = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, written) != len(written):
            raise OSError("the ledger could not be written in one piece")
        self._apply(dict(line))
