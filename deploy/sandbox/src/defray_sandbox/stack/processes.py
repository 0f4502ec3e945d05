"""Starts, marks, freezes and ends child processes, and never signals one that this sandbox did not start."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from defray_sandbox.stack.errors import StackError

NOBODY = 65534
"""The uid and gid servers get when root starts them: PostgreSQL refuses to run as root."""

_POLL_S = 0.02
_TAIL_BYTES_MAX = 64 * 1024


def free_port(wanted: int = 0) -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now: `wanted` when it is one, else any."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(probe: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll `probe` until it holds; return whether it did within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not probe():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


class FileLock:
    """An exclusive `flock` on a file: it ends with its process, whatever ends that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock without waiting; return whether it is ours."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def acquire(self, *, timeout_s: float) -> bool:
        """Wait for the lock at most `timeout_s` seconds; return whether it is ours."""
        return wait_until(self.try_acquire, timeout_s=timeout_s)

    def release(self) -> None:
        """Give the lock back; doing so twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def start_ticks(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot, or None when it is gone or only waits to be reaped."""
    fields = _stat_fields(pid)
    # A zombie still answers kill(pid, 0); only its state tells that it is dead.
    return None if fields is None or fields[0] in {"Z", "X"} else int(fields[19])


def descendants(pid: int) -> list[int]:
    """Return the living processes below `pid`, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))) is not None and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(children.get(pid, ()))
    for child in found:
        found.extend(children.get(child, ()))
    return found


def working_in(folder: Path) -> list[int]:
    """Return the living processes whose current folder is `folder` (as every PostgreSQL process's is its data)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    found.append(int(entry.name))
    return found


def _stat_fields(pid: int) -> list[str] | None:
    try:
        # The command name is in brackets and may hold spaces and brackets itself.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


class OwnedProcess:
    """One server process, its log, and a mark on disk by which a later run knows it again.

    The mark holds pid and start time: a pid that was given to another program is never taken for ours.
    """

    def __init__(self, *, name: str, mark: Path, log: Path) -> None:
        self.name = name
        self.log = log
        self._mark = mark
        self._child: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id; raises `StackError` when it is not running."""
        if self._child is None:
            message = f"{self.name} is not running"
            raise StackError(message, "start it first")
        return self._child.pid

    def spawn(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, as_nobody: bool = False) -> None:
        """Start `argv` in a session of its own (a Ctrl-C at the terminal reaches us, who stop it in order)."""
        identity: dict[str, object] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if as_nobody else {}
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._child = subprocess.Popen(  # type: ignore[call-overload]  # identity is spread below
                argv,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **identity,
            )
        self._mark.write_text(json.dumps({"pid": self.pid, "started": start_ticks(self.pid)}))

    @property
    def exit_code(self) -> int | None:
        """How it ended (minus a signal's number), None while it runs or before it ran."""
        return None if self._child is None else self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Send `number` to the process alone and return at once; a process that is gone takes no harm."""
        if self.running():
            _signal(self.pid, number)

    def running(self) -> bool:
        """Tell whether the process lives (a dead one is reaped here)."""
        return self._child is not None and self._child.poll() is None

    def stop(self, how: signal.Signals, *, timeout_s: float) -> None:
        """Ask with `how`, wait `timeout_s` seconds, then kill; returns when nothing of it is left."""
        if self._child is None:
            return
        self.thaw()
        if self.running():
            self._child.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it with everything below it; returns when all are gone."""
        if self._child is None:
            return
        family = descendants(self._child.pid) if self.running() else []
        for pid in (self._child.pid, *family) if self.running() else ():
            _signal(pid, signal.SIGKILL)
        self._child.wait()
        # PostgreSQL refuses to start while children of the dead server still hold its shared memory.
        wait_until(lambda: all(start_ticks(pid) is None for pid in family), timeout_s=10)
        self._child = None
        self._frozen = []
        self._mark.unlink(missing_ok=True)

    def freeze(self) -> None:
        """SIGSTOP it and everything below it: connections stay open and nothing answers."""
        self._frozen = [self.pid, *descendants(self.pid)]
        for pid in self._frozen:
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT what `freeze` stopped."""
        for pid in reversed(self._frozen):
            _signal(pid, signal.SIGCONT)
        self._frozen = []

    def end_leftover(self, how: signal.Signals, *, timeout_s: float) -> None:
        """End the process an earlier, crashed run of this sandbox left behind; anything else is left alone."""
        try:
            mark = json.loads(self._mark.read_text())
        except (FileNotFoundError, ValueError):
            return
        pid, started = int(mark["pid"]), int(mark["started"] or 0)

        def gone() -> bool:
            return start_ticks(pid) != started

        if not gone():
            family = descendants(pid)
            _signal(pid, signal.SIGCONT)
            _signal(pid, how)
            if not wait_until(gone, timeout_s=timeout_s):
                for each in (pid, *family):
                    _signal(each, signal.SIGKILL)
                wait_until(gone, timeout_s=5)
        self._mark.unlink(missing_ok=True)

    def last_lines(self, count: int = 20) -> str:
        """Return the last `count` lines that it wrote since it was last started."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            # A log emptied since is shorter than where this run began in it.
            begin = self._log_start if self._log_start <= end else 0
            log.seek(max(begin, end - _TAIL_BYTES_MAX))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-count:])


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
