"""Reads the sandbox's environment once, so that no other module of this package looks at it."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """What a user may tell the sandbox by environment; everything has a default.

    `java` and `java_options` choose another Java (17 or newer) and extra JVM flags, `postgres_bin` the folder of another
    PostgreSQL's programs, `test_postgres` a superuser DSN and `test_kafka` a `host:port` for the tests to use instead
    of servers of their own.
    """

    cache_home: Path
    java: Path | None
    java_options: tuple[str, ...]
    postgres_bin: Path | None
    test_postgres: str | None
    test_kafka: str | None
    xdist_worker: str


def read_settings() -> SandboxSettings:
    """Return the settings found in the environment of this process."""
    env = os.environ
    home = env.get("HOME") or "/nonexistent"
    return SandboxSettings(
        cache_home=Path(env.get("XDG_CACHE_HOME") or Path(home) / ".cache"),
        java=_path(env.get("DEFRAY_JAVA")),
        java_options=tuple(shlex.split(env.get("DEFRAY_JAVA_OPTIONS", ""))),
        postgres_bin=_path(env.get("DEFRAY_POSTGRES_BIN")),
        test_postgres=env.get("DEFRAY_TEST_POSTGRES") or None,
        test_kafka=env.get("DEFRAY_TEST_KAFKA") or None,
        xdist_worker=env.get("PYTEST_XDIST_WORKER", "main"),
    )


def inherited_environment() -> dict[str, str]:
    """Return the few variables that every child process may inherit; nothing else leaks into a service."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    if sources := os.environ.get("PYTHONPATH"):
        # Children run in another folder, where a relative path would mean something else.
        found["PYTHONPATH"] = os.pathsep.join(str(Path(source).resolve()) for source in sources.split(os.pathsep))
    return found


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
