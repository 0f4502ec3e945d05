"""Guards: calls and texts that lost money or speed when tried, each a function from one source file to its findings."""

import ast
import re
from collections.abc import Callable, Iterator

from tests.architecture.sources import Finding, Source

_SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|SELECT\s+\w+\(|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|SCHEMA|ROLE)|TRUNCATE\s+\w+)\b",
    re.DOTALL,
)
_NOTIFY = re.compile(r"\bpg_notify\b|\bNOTIFY\s+\w+")


def getmany_is_never_cancelled(source: Source) -> Iterator[Finding]:
    """A cancelled getmany may have taken records off the fetcher that nobody ever sees."""
    for node in ast.walk(source.tree):
        limited = (isinstance(node, ast.Call) and _name(node.func) in {"wait_for", "timeout", "timeout_at"}) or (
            isinstance(node, ast.AsyncWith)
            and any(
                isinstance(item.context_expr, ast.Call) and _name(item.context_expr.func) in {"timeout", "timeout_at"}
                for item in node.items
            )
        )
        if limited and any(isinstance(inner, ast.Attribute) and inner.attr == "getmany" for inner in ast.walk(node)):
            yield Finding(rule="getmany-is-never-cancelled", path=source.path, subject=_line(node))


def relay_sends_batches(source: Source) -> Iterator[Finding]:
    """The relay chains batches per partition; send() returns before the broker knows, and reorders after a failure."""
    if source.is_test or "relay" not in source.package_path[-1]:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _name(node.func) in {"send", "send_and_wait"}:
            yield Finding(rule="relay-sends-batches", path=source.path, subject=f"line {node.lineno}")


def no_notify_in_business(source: Source) -> Iterator[Finding]:
    """NOTIFY in a business transaction serialises all commits of the database; the wake-up has its own connection."""
    if source.is_test or not (source.is_service or source.is_kernel):
        return
    if source.is_service:
        if _NOTIFY.search(source.text):
            yield Finding(rule="no-notify-in-business", path=source.path, subject="text")
        return
    for function in _functions(source.tree):
        text = ast.get_source_segment(source.text, function) or ""
        annotations = {_name(arg.annotation) for arg in _arguments(function) if arg.annotation is not None}
        if _NOTIFY.search(text) and "WriteTx" in annotations:
            yield Finding(rule="no-notify-in-business", path=source.path, subject=function.name)


def sql_in_files(source: Source) -> Iterator[Finding]:
    """A service's SQL has a name and stands in a .sql file, where a test prepares it on the migrated schema."""
    if not source.is_service:
        return
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(source.tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if id(node) not in docstrings and _SQL.search(text):
            yield Finding(rule="sql-in-files", path=source.path, subject=_line(node))


def store_never_commits(source: Source) -> Iterator[Finding]:
    """Who opens the transaction ends it: never the store, the domain or the announcements."""
    if not source.is_service or source.package_path[0] not in {"store", "domain", "announce.py"}:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _name(node.func) in {"transaction", "commit", "rollback"}:
            yield Finding(rule="store-never-commits", path=source.path, subject=f"line {node.lineno}")


def one_http_client(source: Source) -> Iterator[Finding]:
    """Shipped code calls out with aiohttp only."""
    if not (source.is_service or source.is_kernel):
        return
    for module in _imports(source.tree):
        if module.split(".")[0] in {"httpx", "requests", "urllib3", "httpcore"}:
            yield Finding(rule="one-http-client", path=source.path, subject=module)


def strict_json(source: Source) -> Iterator[Finding]:
    """The standard json module takes NaN and repeated keys; shipped code reads JSON through the kernel or msgspec."""
    if not source.is_service:
        return
    if "json" in set(_imports(source.tree)):
        yield Finding(rule="strict-json", path=source.path, subject="json")


def kafka_behind_ports(source: Source) -> Iterator[Finding]:
    """Only the kernel knows the Kafka client, so that another one can take its place."""
    if not source.is_service:
        return
    for module in _imports(source.tree):
        if module.split(".")[0] == "aiokafka":
            yield Finding(rule="kafka-behind-ports", path=source.path, subject=module)


RULES: tuple[Callable[[Source], Iterator[Finding]], ...] = (
    getmany_is_never_cancelled,
    relay_sends_batches,
    no_notify_in_business,
    sql_in_files,
    store_never_commits,
    one_http_client,
    strict_json,
    kafka_behind_ports,
)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _name(node: ast.expr | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _line(node: ast.AST) -> str:
    return f"line {getattr(node, 'lineno', 0)}"


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
