"""Tidy rules: sizes, docstrings and the shape of declarations, each a function from one source file to its findings."""

import ast
import io
import tokenize
from collections.abc import Callable, Iterator

from tests.architecture.sources import Finding, Source

FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400
KERNEL_LINES_MAX = 4_450
_NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)

VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "core", "base", "stuff", "tools"})
CLIENTS = frozenset(
    {
        "AIOKafkaConsumer",
        "AIOKafkaProducer",
        "APIRouter",
        "ClientSession",
        "FastAPI",
        "Starlette",
        "connect",
        "create_engine",
        "create_pool",
        "open",
    }
)


def module_docstring(source: Source) -> Iterator[Finding]:
    """Each module opens with one sentence on what it is for."""
    first_line = (ast.get_docstring(source.tree) or "").split("\n\n")[0].rstrip()
    if source.text.strip() and not first_line.endswith((".", ":")):
        yield Finding(rule="module-docstring", path=source.path, subject="-")


def function_length(source: Source) -> Iterator[Finding]:
    """A function is at most 60 lines, its docstring included, its decorators not."""
    for function in _functions(source.tree):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield Finding(rule="function-length", path=source.path, subject=f"{function.name}:{lines}")


def file_length(source: Source) -> Iterator[Finding]:
    """A file is at most 400 lines."""
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield Finding(rule="file-length", path=source.path, subject=str(lines))


def vague_name(source: Source) -> Iterator[Finding]:
    """A module says what it holds; a drawer for everything is not a name."""
    names = {part.removesuffix(".py") for part in source.package_path}
    if not source.is_test and names & VAGUE_NAMES:
        yield Finding(rule="vague-name", path=source.path, subject=min(names & VAGUE_NAMES))


def frozen_values(source: Source) -> Iterator[Finding]:
    """Values of the domain are frozen and keyword-only: structs, or dataclasses with slots."""
    if "domain" not in source.package_path:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if any(_last_name(base) == "Struct" for base in node.bases):
            flags = {keyword.arg for keyword in node.keywords if _is_true(keyword.value)}
            if not {"frozen", "kw_only"} <= flags:
                yield Finding(rule="frozen-values", path=source.path, subject=node.name)
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            if _last_name(call.func if call else decorator) != "dataclass":
                continue
            flags = {keyword.arg for keyword in call.keywords if _is_true(keyword.value)} if call else set()
            if not {"frozen", "slots", "kw_only"} <= flags:
                yield Finding(rule="frozen-values", path=source.path, subject=node.name)


def string_enums(source: Source) -> Iterator[Finding]:
    """An enumeration is a StrEnum, so that its stored and its printed form are one."""
    if source.is_test:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and any(_last_name(base) == "Enum" for base in node.bases):
            yield Finding(rule="string-enums", path=source.path, subject=node.name)


def no_floats_near_money(source: Source) -> Iterator[Finding]:
    """Contracts, money and the domain know no binary fractions."""
    if source.is_test or not ({"contracts", "domain", "money.py"} & set(source.package_path)):
        return
    for node in ast.walk(source.tree):
        literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
        name = isinstance(node, ast.Name) and node.id == "float" and isinstance(node.ctx, ast.Load)
        if (literal or name) and not _is_rejected_type(source.tree, node):
            yield Finding(rule="no-floats-near-money", path=source.path, subject=f"line {getattr(node, 'lineno', 0)}")


def import_does_nothing(source: Source) -> Iterator[Finding]:
    """Importing a module of a service or of the kernel starts nothing and opens nothing."""
    if not (source.is_service or source.is_kernel):
        return
    for node in source.tree.body:
        call = getattr(node, "value", None)
        if not isinstance(call, ast.Call):
            continue
        if isinstance(node, ast.Expr) or _last_name(call.func) in CLIENTS:
            yield Finding(rule="import-does-nothing", path=source.path, subject=_last_name(call.func))


def asserting_tests(source: Source) -> Iterator[Finding]:
    """A test states what it expects: an assertion, an expected error, or a named expectation of a helper."""
    if not source.is_test:
        return
    for function in _functions(source.tree):
        if function.name.startswith("test_") and not any(_is_expectation(node) for node in ast.walk(function)):
            yield Finding(rule="asserting-tests", path=source.path, subject=function.name)


def no_skips(source: Source) -> Iterator[Finding]:
    """A test that cannot run fails and says why; a skip is a green lie."""
    if not source.is_test:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Attribute) or _last_name(node.value) not in {"pytest", "mark"}:
            continue
        if node.attr in {"skip", "skipif", "importorskip", "xfail"}:
            yield Finding(rule="no-skips", path=source.path, subject=node.attr)


def no_patching(source: Source) -> Iterator[Finding]:
    """Our own modules are never patched; a fake goes in through the constructor."""
    for node in ast.walk(source.tree):
        match node:
            case ast.ImportFrom(module="unittest", names=names) if any(name.name == "mock" for name in names):
                yield Finding(rule="no-patching", path=source.path, subject="unittest.mock")
            case ast.ImportFrom(module="unittest.mock") | ast.Import(names=[ast.alias(name="unittest.mock"), *_]):
                yield Finding(rule="no-patching", path=source.path, subject="unittest.mock")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="monkeypatch"), attr="setattr" as attr)):
                yield Finding(rule="no-patching", path=source.path, subject=f"monkeypatch.{attr}")
            case _:
                pass


RULES: tuple[Callable[[Source], Iterator[Finding]], ...] = (
    module_docstring,
    function_length,
    file_length,
    vague_name,
    frozen_values,
    string_enums,
    no_floats_near_money,
    import_does_nothing,
    asserting_tests,
    no_skips,
    no_patching,
)


def kernel_lines(files: list[Source]) -> int:
    """Lines of code that count against the kernel's budget: everything but contracts/ and testing/."""
    return sum(code_lines(source) for source in files if source.is_kernel and source.package_path[:1] != ("contracts",))


def code_lines(source: Source) -> int:
    """Lines that hold code: neither blank, nor only comment, nor docstring."""
    texts = (node.value for node in ast.walk(source.tree) if isinstance(node, ast.Expr))
    docstrings = {
        line
        for value in texts
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
        for line in range(value.lineno, (value.end_lineno or value.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
    held = {line for token in tokens if token.type not in _NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    return len(held - docstrings)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _is_rejected_type(tree: ast.Module, node: ast.AST) -> bool:
    """Whether `float` stands in isinstance(…, float): saying no to floats is how they stay out."""
    return any(
        isinstance(call, ast.Call) and _last_name(call.func) == "isinstance" and node in ast.walk(call)
        for call in ast.walk(tree)
    )


def _is_expectation(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = _last_name(node.func)
    return name in {"raises", "fail", "warns", "eventually"} or name.startswith(("assert_", "expect", "prove"))
