"""Starts and stops a channel simulator as a process of its own, for tests, benchmarks and the local stack."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import aiohttp

from defray_sandbox.simulators.alipay import keys as alipay_keys
from defray_sandbox.simulators.wechat import keys as wechat_keys

MCHID = "1900000109"
APPID = "wx8888888888888888"
ALIPAY_APP_ID = "2021000000000001"
ALIPAY_SELLER_ID = "2088000000000001"
_READY_S_MAX = 20.0
_POLL_S = 0.05
_STOP_S_MAX = 10.0
_STARTS_MAX = 3


class SimulatorFailedError(Exception):
    """The simulator did not start or refused a lever; the message says why."""


class Simulator:
    """One channel with its ledger, keys and log in a folder; start it again to see what a restart keeps."""

    program: ClassVar[str]
    account: ClassVar[Sequence[str]]

    @staticmethod
    def make_keys(folder: Path) -> None:
        """Write the keys of both sides into the folder."""
        raise NotImplementedError

    def __init__(self, folder: Path, arguments: Sequence[str] = (), *, ports: tuple[int, int] | None = None) -> None:
        """`arguments` are added to the command line; `ports` are the channel's and the control's, free ones if None."""
        self.folder = folder
        self.keys_dir = folder / "keys"
        self.state_file = folder / "ledger.jsonl"
        self.log = folder / "simulator.log"
        self._arguments = arguments
        self._ports = ports
        self._process: Process | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def base_url(self) -> str:
        """Where the channel answers."""
        assert self._ports is not None
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def control_url(self) -> str:
        """Where the levers are."""
        assert self._ports is not None
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def pid(self) -> int:
        """Process id of the running simulator."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._forget_session()

    async def start(self) -> None:
        """Make keys if there are none, start the process and wait until it answers.

        Raises SimulatorFailedError with the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.keys_dir.exists():
            await asyncio.to_thread(self.make_keys, self.keys_dir)
        fixed = self._ports
        for _ in range(_STARTS_MAX):
            # Another program may take a free port before the simulator does, so it is tried with others.
            self._ports = fixed or (_free_port(), _free_port())
            if await self._start_once():
                return
        await self._forget_session()
        raise SimulatorFailedError(self.log.read_text(encoding="utf-8", errors="replace")[-2000:])

    async def stop(self) -> None:
        """End the process in order; nothing happens if it does not run."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End the process as a crash would."""
        await self._end(signal.SIGKILL)

    async def control(self, path: str, body: dict[str, object] | None = None) -> Any:  # noqa: ANN401  Any JSON.
        """Pull a lever (`body` given: POST) or read one (GET); returns its JSON.

        Raises SimulatorFailedError when it is refused.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        method = "GET" if body is None else "POST"
        async with self._session.request(method, self.control_url + path, json=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise SimulatorFailedError(f"{method} {path}: {answer.status} {text}")
            return await answer.json()

    async def _start_once(self) -> bool:
        assert self._ports is not None
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"defray_sandbox.simulators.{self.program}",
                "--port", str(self._ports[0]), "--control-port", str(self._ports[1]),
                "--state-file", str(self.state_file), "--keys-dir", str(self.keys_dir),
                *self.account, *self._arguments,
                stdout=log, stderr=log,
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + _READY_S_MAX
        while loop.time() < deadline_s and self._process.returncode is None:
            try:
                await self.control("/health")
            except (aiohttp.ClientError, SimulatorFailedError):
                await asyncio.sleep(_POLL_S)
            else:
                return True
        await self.kill()
        return False

    async def _forget_session(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(number)
            try:
                async with asyncio.timeout(_STOP_S_MAX):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        self._process = None


class WechatSimulator(Simulator):
    """A channel that speaks WeChat Pay v3."""

    program = "wechat"
    account: ClassVar[Sequence[str]] = ("--mchid", MCHID, "--appid", APPID)

    @staticmethod
    def make_keys(folder: Path) -> None:
        """Write the keys of both sides into the folder."""
        wechat_keys.generate(folder)


class AlipaySimulator(Simulator):
    """A channel that speaks Alipay's gateway."""

    program = "alipay"
    account: ClassVar[Sequence[str]] = ("--app-id", ALIPAY_APP_ID, "--seller-id", ALIPAY_SELLER_ID)

    @staticmethod
    def make_keys(folder: Path) -> None:
        """Write the keys of both sides into the folder."""
        alipay_keys.generate(folder)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
