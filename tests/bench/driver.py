"""Load generators and receivers as processes of their own that say in JSON lines how far they are."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from defray_sandbox.settings import inherited_environment
from defray_sandbox.stack.paths import CHECKOUT
from tests.bench.world import BenchFailed

_LINE_BYTES_MAX = 64 * 1024 * 1024
_END_S = 5.0


class Driver:
    """A running driver: `said` reads its next line, `tell` sends it one."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name, self._process, self._log = name, process, log

    @property
    def pid(self) -> int:
        return self._process.pid

    async def said(self, what: str, *, within_s: float = 60.0) -> Any:  # noqa: ANN401 - any JSON
        """Return the value of the next line, which must be `{what: value}`. Raises BenchFailed."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchFailed(f"{self.name} did not say {what!r} within {within_s:.0f} s:\n{self._tail()}") from None
        if not line:
            raise BenchFailed(f"{self.name} ended before it said {what!r}:\n{self._tail()}")
        said = json.loads(line)
        if what not in said:
            raise BenchFailed(f"{self.name} said {str(said)[:300]} instead of {what!r}")
        return said[what]

    async def tell(self, line: str = "go") -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


@asynccontextmanager
async def driver(folder: Path, name: str, argv: Sequence[str]) -> AsyncIterator[Driver]:
    """Run `python -m <argv>` for the length of the block; killed when it does not end by itself."""
    log = folder / f"driver-{name}.log"
    path = ":".join(filter(None, (str(CHECKOUT), inherited_environment().get("PYTHONPATH", ""))))
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *argv, stdin=PIPE, stdout=PIPE, stderr=errors, cwd=CHECKOUT, limit=_LINE_BYTES_MAX,
            env=inherited_environment() | {"PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
    try:
        yield Driver(name, process, log)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_END_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def say(what: str, value: object = None) -> None:
    """A driver's side: say one thing."""
    sys.stdout.write(json.dumps({what: value}) + "\n")
    sys.stdout.flush()


async def told() -> bool:
    """A driver's side: wait for a line; False when the bench is gone."""
    return bool(await asyncio.to_thread(sys.stdin.readline))
