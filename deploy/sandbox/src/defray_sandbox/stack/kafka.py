"""Runs a real Apache Kafka (KRaft, one node) of our own on free loopback ports: no Docker and no system Java needed."""

import base64
import secrets
import signal
import socket
import subprocess
from pathlib import Path

from defray_sandbox.settings import inherited_environment, read_settings
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.kafka_files import KAFKA_FILES, KafkaFiles, kafka_files
from defray_sandbox.stack.processes import FileLock, OwnedProcess, free_port, wait_until

_STARTED = "Kafka Server started"
_START_ATTEMPTS = 3


class KafkaBroker:
    """A broker with its log under `folder`; `start` after `kill` or `stop` uses the same ports again.

    One process at a time may hold `folder`; a broker that a crashed run left is ended at `start`. `heap_mb` is the Java
    heap in megabytes (the process needs about 100 more).
    """

    def __init__(self, folder: Path, *, port: int | None = None, heap_mb: int = 512) -> None:
        self.folder = folder
        self.port = port
        self._fixed_port = port is not None
        self._controller_port: int | None = None
        self._heap_mb = heap_mb
        self._data = folder / "data"
        self._properties = folder / "server.properties"
        self._process = OwnedProcess(name="Kafka", mark=folder / "broker.json", log=folder / "kafka.log")
        self._lock = FileLock(folder / "broker.lock")

    @property
    def bootstrap(self) -> str:
        """The `host:port` that clients start from."""
        return f"127.0.0.1:{self.port}"

    def start(self, *, record_aot: bool = False) -> None:
        """Start it and return when it serves; a running one is left as it is.

        With `record_aot` this run writes the start-up cache when it stops (that stop takes 8 s longer).
        Raises `StackError` when another process holds the folder or the broker does not come up.
        """
        if self._process.running():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire(timeout_s=1):
            message = f"another sandbox uses {self.folder}"
            raise StackError(message, "stop it first (Ctrl-C where it runs)")
        try:
            self._process.end_leftover(signal.SIGTERM, timeout_s=15)
            files = kafka_files()
            for attempt in range(1, _START_ATTEMPTS + 1):
                self._configure(files)
                if self._try_start(files, record_aot=record_aot):
                    return
                self._process.kill()
                if self._fixed_port or attempt == _START_ATTEMPTS:
                    break
                self.port = self._controller_port = None  # Somebody took a port between our look and the bind.
            message = f"Kafka did not start; the end of {self._process.log}:\n{self._process.last_lines()}"
            raise StackError(message, f"mend the cause, or remove {self.folder} to begin anew")
        except BaseException:
            self._process.kill()
            self._lock.release()
            raise

    def stop(self) -> None:
        """Stop it in order; a stopped one is left as it is."""
        self._process.stop(signal.SIGTERM, timeout_s=30)
        self._lock.release()

    def kill(self) -> None:
        """End it as a power cut of the machine's process would; `start` brings it back with its log."""
        self._process.kill()
        self._lock.release()

    def freeze(self) -> None:
        """Stop it in its tracks without ending it: connections stay open and nothing answers."""
        self._process.freeze()

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        self._process.thaw()

    def running(self) -> bool:
        """Tell whether the broker process lives."""
        return self._process.running()

    def _configure(self, files: KafkaFiles) -> None:
        self.port = self.port or free_port()
        self._controller_port = self._controller_port or free_port()
        filled = {"broker_port": str(self.port), "controller_port": str(self._controller_port), "data": str(self._data)}
        text = (KAFKA_FILES / "server.properties").read_text()
        for name, value in filled.items():
            text = text.replace(f"@{name}@", value)
        self._properties.write_text(text)
        if (self._data / "meta.properties").exists():
            return
        # 16 random bytes in the broker's own spelling; one starting with "-" would be read as an option.
        cluster_id = base64.urlsafe_b64encode(b"\x10" + secrets.token_bytes(15)).decode().rstrip("=")
        argv = [
            *self._java(files),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            cluster_id,
            "-c",
            str(self._properties),
            "--ignore-formatted",
        ]
        made = subprocess.run(argv, env=_environment(), capture_output=True, text=True, check=False, timeout=120)
        if made.returncode != 0:
            message = f"Kafka's storage could not be formatted: {(made.stdout + made.stderr).strip()[-2000:]}"
            raise StackError(message, f"look at the rights of {self.folder}")

    def _java(self, files: KafkaFiles, *options: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={KAFKA_FILES / 'log4j2.properties'}"
        return [
            str(files.java),
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            log4j,
            *read_settings().java_options,
            *options,
            "-cp",
            files.class_path,
        ]

    def _try_start(self, files: KafkaFiles, *, record_aot: bool) -> bool:
        options = []
        if files.aot_cache is not None and record_aot:
            options = [f"-XX:AOTCacheOutput={files.aot_cache.with_suffix('.new')}"]
        elif files.aot_cache is not None and files.aot_cache.exists():
            # A cache that does not fit is ignored by Java, which then starts as slowly as without.
            options = [f"-XX:AOTCache={files.aot_cache}", "-Xlog:aot*=off", "-Xlog:cds*=off"]
        self._process.log.write_text("")
        argv = [*self._java(files, *options), "kafka.Kafka", str(self._properties)]
        self._process.spawn(argv, env=_environment(), cwd=self.folder)

        def ready() -> bool:
            return _STARTED in self._process.log.read_text(errors="replace") and self._accepts()

        wait_until(lambda: not self._process.running() or ready(), timeout_s=90)
        return self._process.running() and ready()

    def _accepts(self) -> bool:
        assert self.port is not None
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _environment() -> dict[str, str]:
    return inherited_environment() | {"TZ": "UTC"}
