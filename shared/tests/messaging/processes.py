"""Worker processes of the soak: started, killed, frozen and started again, and only those started here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
WORKERS = Path(__file__).with_name("workers")


class Worker:
    """One worker script that is kept alive."""

    def __init__(self, script: str, *arguments: str, log: Path) -> None:
        self._command = [sys.executable, str(WORKERS / f"{script}.py"), *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.deaths: list[int] = []

    def start(self) -> None:
        path = os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "shared" / "src")))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log, cwd=CHECKOUT
            )

    def signal(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """As a power cut would."""
        self.signal(signal.SIGKILL)

    def wait(self, within_s: float) -> int:
        """Its exit code, once it ends. Raises TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(within_s)

    def revive(self) -> None:
        """Start it again when it is dead, as a supervisor would."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            self.deaths.append(code)
            self.start()

    def end(self) -> None:
        """Stop it in order; what does not stop within 20 s is killed and told."""
        assert self._process is not None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self._command[1]} did not stop in time: {self.last_lines()}") from None

    def last_lines(self) -> str:
        return self._log.read_text(errors="replace")[-3_000:]
