"""The checkout as the architecture rules see it: which Python files there are, parsed once, and where each belongs."""

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SOURCE_ROOTS = ("shared/src", "services/*/src", "deploy/sandbox/src")
TEST_ROOTS = ("tests", "shared/tests", "services/*/tests", "deploy/sandbox/tests")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One Python file: its path relative to the checkout, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def is_test(self) -> bool:
        """Whether the file is test code, wherever it lives."""
        return "/tests/" in f"/{self.path}"

    @property
    def is_service(self) -> bool:
        """Whether the file is shipped in a service's image as that service's own code."""
        return self.path.startswith("services/") and not self.is_test

    @property
    def is_kernel(self) -> bool:
        """Whether the file is part of the kernel as services run it (its testing package is not)."""
        return self.path.startswith("shared/src/") and "/testing/" not in self.path

    @property
    def package_path(self) -> tuple[str, ...]:
        """Parts of the path below the package, for example ("domain", "payment.py")."""
        parts = Path(self.path).parts
        return parts[parts.index("src") + 2 :] if "src" in parts else parts


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule, in the form of the committed list of exceptions."""

    rule: str
    path: str
    subject: str

    def __str__(self) -> str:
        return f"{self.rule} {self.path} {self.subject}"


def parse(path: str, text: str) -> Source:
    """Read one file given as text; raises SyntaxError when it is not Python."""
    return Source(path=path, text=text, tree=ast.parse(text, filename=path))


def sources(root: Path = ROOT) -> Iterator[Source]:
    """All Python files of the checkout that the rules speak of, sources first, each once."""
    for path in sorted(_paths(root, (*SOURCE_ROOTS, *TEST_ROOTS))):
        yield _parsed(root, path.relative_to(root).as_posix(), path.stat().st_mtime_ns)


def _paths(root: Path, patterns: tuple[str, ...]) -> set[Path]:
    return {path for pattern in patterns for top in root.glob(pattern) for path in top.rglob("*.py")}


@functools.cache
def _parsed(root: Path, path: str, mtime_ns: int) -> Source:  # noqa: ARG001 - the time is part of the cache's key
    return parse(path, (root / path).read_text(encoding="utf-8"))
