"""Starts the sandbox's processes, waits until they are ready, restarts what crashes, and stops all of them in order."""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import aiohttp

from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.log_lines import readable
from defray_sandbox.stack.processes import OwnedProcess

STOP_TIMEOUT_S = 15
_READY_TIMEOUT_S = 60.0
_POLL_S = 0.1
_BACKOFF_FIRST_S = 0.2
_BACKOFF_MAX_S = 30.0
_STEADY_AFTER_S = 30.0
_LOG_BYTES_MAX = 50_000_000
_LAST_LINES = 20
_STARTS_MAX = 4
_HOPELESS = {64: "usage", 78: "configuration"}
"""Exit codes (sysexits.h) after which another start would end the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process: `ready_url` answers 200 once it can serve."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready_url: str


@dataclass(slots=True, kw_only=True)
class _Watched:
    spec: ProcessSpec
    process: OwnedProcess
    started_at: float = 0.0
    restart_at: float | None = None
    backoff_s: float = _BACKOFF_FIRST_S
    hopeless: str | None = None
    restarts: int = 0
    was_ready: bool = False


class Supervisor:
    """Used as `async with Supervisor(…) as supervisor`: leaving the block stops everything it started, nothing else.

    `folder` keeps the marks by which a later run finds what a crash left; logs go to `log_folder/<name>.log`.
    `tell` receives one text per event that a person should see.
    """

    def __init__(
        self, *, folder: Path, log_folder: Path, tell: Callable[[str], None], stop_timeout_s: float = STOP_TIMEOUT_S
    ) -> None:
        self._folder = folder
        self._stop_timeout_s = stop_timeout_s
        self._log_folder = log_folder
        self._tell = tell
        self._watched: dict[str, _Watched] = {}
        self._stopping = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log_folder.mkdir(parents=True, exist_ok=True)
        for mark in self._folder.glob("*.json"):
            leftover = OwnedProcess(name=mark.stem, mark=mark, log=self._log_folder / f"{mark.stem}.log")
            await asyncio.to_thread(leftover.end_leftover, signal.SIGTERM, timeout_s=self._stop_timeout_s)
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3), trust_env=False)
        await self._group.__aenter__()
        self._group.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()
        await self._group.__aexit__(None, None, None)
        assert self._session is not None
        await self._session.close()

    async def start(self, specs: Sequence[ProcessSpec]) -> None:
        """Start all of `specs` at once and return when all are ready.

        Raises `StackError` with the last log lines of the first that is not ready in time.
        """
        for spec in specs:
            log = self._log_folder / f"{spec.name}.log"
            if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))
            mark = self._folder / f"{spec.name}.json"
            process = OwnedProcess(name=spec.name, mark=mark, log=log)
            self._watched[spec.name] = _Watched(spec=spec, process=process)
            self._spawn(self._watched[spec.name])
        await asyncio.gather(*(self.wait_ready(spec.name) for spec in specs))

    async def wait_ready(self, name: str, *, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Return when `name` says that it can serve; raises `StackError` when it does not within `timeout_s` seconds."""
        watched = self._watched[name]
        deadline = time.monotonic() + timeout_s
        answer = "no answer"
        while time.monotonic() < deadline and watched.hopeless is None:
            assert self._session is not None
            try:
                async with self._session.get(watched.spec.ready_url) as response:
                    if response.status == 200:
                        watched.was_ready = True
                        return
                    answer = (await response.text())[:500]
            except (aiohttp.ClientError, TimeoutError):
                answer = "no answer"
            await asyncio.sleep(_POLL_S)
        what = watched.hopeless or f"{name} was not ready after {timeout_s:.0f} s ({answer})"
        raise StackError(f"{what}; its last lines:\n{readable(watched.process.last_lines(_LAST_LINES))}",
                         f"the whole log is {watched.process.log}")  # fmt: skip

    def pids(self) -> dict[str, int]:
        """Return the process id of each process that runs."""
        return {name: watched.process.pid for name, watched in self._watched.items() if watched.process.running()}

    def restarts(self, name: str) -> int:
        """Return how often `name` was restarted after a crash."""
        return self._watched[name].restarts

    def log_file(self, name: str) -> Path:
        """Return where `name` writes what it has to say."""
        return self._watched[name].process.log

    def kill(self, name: str) -> None:
        """SIGKILL `name`, as a crash would end it; the watch restarts it."""
        self._watched[name].process.send(signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """Stop `name` in its tracks without ending it."""
        self._watched[name].process.freeze()

    def thaw(self, name: str) -> None:
        """Let a frozen process go on."""
        self._watched[name].process.thaw()

    async def restart(self, name: str, *, extra_env: Mapping[str, str] | None = None) -> None:
        """Stop `name` in order and start it again, with `extra_env` over its environment; returns when it is ready."""
        watched = self._watched[name]
        watched.restart_at = float("inf")  # The watch must not take the stop for a crash.
        await asyncio.to_thread(watched.process.stop, signal.SIGTERM, timeout_s=self._stop_timeout_s)
        if extra_env:
            watched.spec = replace(watched.spec, env={**watched.spec.env, **extra_env})
        self._spawn(watched)
        await self.wait_ready(name)

    async def stop(self) -> None:
        """Ask everything to end, wait 15 s, kill what is left; the last started is asked first."""
        self._stopping.set()
        stops = (
            asyncio.to_thread(watched.process.stop, signal.SIGTERM, timeout_s=self._stop_timeout_s)
            for watched in reversed(self._watched.values())
        )
        await asyncio.gather(*stops)

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            for watched in self._watched.values():
                if watched.hopeless is not None or watched.process.running():
                    continue
                if watched.restart_at is None:
                    self._crashed(watched, now)
                elif now >= watched.restart_at:
                    watched.restarts += 1
                    self._spawn(watched)
            await asyncio.sleep(_POLL_S)

    def _crashed(self, watched: _Watched, now: float) -> None:
        code = watched.process.exit_code
        if now - watched.started_at > _STEADY_AFTER_S:
            watched.backoff_s = _BACKOFF_FIRST_S
        name, lines = watched.spec.name, readable(watched.process.last_lines(_LAST_LINES))
        if code in _HOPELESS:
            watched.hopeless = f"{name} ended with exit code {code} ({_HOPELESS[code]})"
            self._tell(f"{watched.hopeless} and is not restarted; its last lines:\n{lines}")
            return
        if not watched.was_ready and watched.restarts >= _STARTS_MAX:
            watched.hopeless = f"{name} ended {watched.restarts + 1} times before it was ready"
            return
        ended = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        self._tell(f"{name} ended {ended}; started again in {watched.backoff_s:.1f} s; its last lines:\n{lines}")
        watched.restart_at = now + watched.backoff_s
        watched.backoff_s = min(watched.backoff_s * 2, _BACKOFF_MAX_S)

    def _spawn(self, watched: _Watched) -> None:
        watched.restart_at = None
        watched.started_at = time.monotonic()
        watched.process.spawn(watched.spec.argv, env={**watched.spec.env, "PYTHONUNBUFFERED": "1"}, cwd=self._folder)
