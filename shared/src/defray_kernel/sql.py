"""Named queries: SQL lives in a `.sql` file beside the module that runs it, under `-- name: …` lines."""

import re
from pathlib import Path
from typing import Final

_NAME_LINE: Final = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$", re.MULTILINE)
_loaded: Final[dict[Path, "Queries"]] = {}


class Queries:
    """The queries of one file; `Q.move` is the SQL text named `move`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = _NAME_LINE.split(path.read_text("utf-8"))
        names, texts = parts[1::2], parts[2::2]
        if len(set(names)) != len(names):
            raise ValueError(f"a query name stands twice in {path.name}")
        self.by_name = {name: text.strip() for name, text in zip(names, texts, strict=True)}

    def __getattr__(self, name: str) -> str:
        try:
            return self.by_name[name]
        except KeyError:
            raise AttributeError(f"{self.path.name} has no query named {name}") from None


def queries(module_file: str) -> Queries:
    """The queries of the `.sql` file that stands beside this module; each file is read once."""
    path = Path(module_file).with_suffix(".sql")
    if path not in _loaded:
        _loaded[path] = Queries(path)
    return _loaded[path]


def all_queries() -> list[Queries]:
    """Every file loaded so far; a test prepares each query on the migrated schema."""
    return list(_loaded.values())
