"""The supervisor: it restarts what crashes, gives up what cannot work, and stops all it started and nothing else."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.log_lines import readable
from defray_sandbox.stack.processes import free_port, start_ticks
from defray_sandbox.stack.supervisor import ProcessSpec, Supervisor

pytestmark = pytest.mark.alone

_SERVER = """
import http.server, signal, sys, os
signal.signal(signal.SIGTERM, {on_term})
print("hello from", os.getpid(), flush=True)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""
_OBEDIENT = _SERVER.format(on_term="lambda *_: sys.exit(0)")
_STUBBORN = _SERVER.format(on_term="signal.SIG_IGN")


def _spec(name: str, program: str) -> ProcessSpec:
    port = free_port()
    argv = (sys.executable, "-c", program, str(port))
    return ProcessSpec(name=name, argv=argv, env={}, ready_url=f"http://127.0.0.1:{port}/")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest_asyncio.fixture
async def supervisor(tmp_path: Path, told: list[str]) -> AsyncIterator[Supervisor]:
    async with Supervisor(folder=tmp_path / "run", log_folder=tmp_path / "log", tell=told.append) as supervisor:
        yield supervisor


async def _eventually(probe: Callable[[], bool], *, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not probe():
            await asyncio.sleep(0.05)


async def test_a_crashed_process_is_shown_and_started_again(supervisor: Supervisor, told: list[str]) -> None:
    await supervisor.start([_spec("one", _OBEDIENT), _spec("two", _OBEDIENT)])
    before = supervisor.pids()
    supervisor.kill("one")
    await _eventually(lambda: supervisor.restarts("one") == 1)
    await supervisor.wait_ready("one")
    after = supervisor.pids()
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]
    assert "one ended by SIGKILL" in told[0]
    assert f"hello from {before['one']}" in told[0]


async def test_a_restart_is_not_taken_for_a_crash_and_can_change_the_environment(
    supervisor: Supervisor, told: list[str]
) -> None:
    await supervisor.start([_spec("one", "import os; print('mark', os.environ.get('MARK'), flush=True)\n" + _OBEDIENT)])
    await supervisor.restart("one", extra_env={"MARK": "given"})
    assert told == []
    assert supervisor.restarts("one") == 0
    assert "mark given" in supervisor.log_file("one").read_text()


async def test_a_wrong_configuration_is_told_at_once_and_not_tried_again(supervisor: Supervisor) -> None:
    program = "import sys; print('KEY is missing'); sys.exit(78)"
    with pytest.raises(StackError, match="configuration") as caught:
        await supervisor.start([_spec("one", program)])
    assert "KEY is missing" in caught.value.what
    assert supervisor.restarts("one") == 0


async def test_what_never_gets_ready_is_given_up_with_its_last_lines_only(supervisor: Supervisor) -> None:
    with pytest.raises(StackError, match="ended 5 times before it was ready") as caught:
        await supervisor.start([_spec("one", "print('no luck'); raise SystemExit(1)")])
    assert caught.value.what.count("no luck") == 1


async def test_it_stops_everything_it_started_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        async with Supervisor(folder=tmp_path / "run", log_folder=tmp_path / "log", tell=print) as supervisor:
            await supervisor.start([_spec("one", _OBEDIENT), _spec("two", _OBEDIENT)])
            pids = supervisor.pids()
        assert [start_ticks(pid) for pid in pids.values()] == [None, None]
        assert stranger.poll() is None
        stranger.terminate()
    assert list((tmp_path / "run").glob("*.json")) == []


async def test_what_does_not_stop_is_killed(tmp_path: Path) -> None:
    impatient = Supervisor(folder=tmp_path / "run", log_folder=tmp_path / "log", tell=print, stop_timeout_s=0.5)
    async with impatient as supervisor:
        await supervisor.start([_spec("one", _STUBBORN)])
        supervisor.freeze("one")
        pid = supervisor.pids()["one"]
    assert start_ticks(pid) is None


async def test_a_later_run_ends_what_a_crashed_supervisor_left(tmp_path: Path) -> None:
    spec = _spec("one", _OBEDIENT)
    crash = (
        "import asyncio, os, pathlib, sys\n"
        "from defray_sandbox.stack.supervisor import ProcessSpec, Supervisor\n"
        "async def main():\n"
        "    base = pathlib.Path(sys.argv[1])\n"
        "    s = Supervisor(folder=base / 'run', log_folder=base / 'log', tell=print)\n"
        "    await s.__aenter__()\n"
        "    await s.start([ProcessSpec(name='one', argv=tuple(sys.argv[3:]), env={}, ready_url=sys.argv[2])])\n"
        "    print(s.pids()['one'], flush=True)\n"
        "    os._exit(9)\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", crash, str(tmp_path), spec.ready_url, *spec.argv]
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    crashed = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=env)
    said, _ = await crashed.communicate()
    orphan = int(said)
    assert start_ticks(orphan) is not None
    async with Supervisor(folder=tmp_path / "run", log_folder=tmp_path / "log", tell=print) as supervisor:
        assert start_ticks(orphan) is None
        await supervisor.start([spec])
        assert supervisor.pids()["one"] != orphan


async def test_leaving_by_an_error_stops_everything_too(tmp_path: Path) -> None:
    pids: dict[str, int] = {}

    async def fails() -> None:
        async with Supervisor(folder=tmp_path / "run", log_folder=tmp_path / "log", tell=print) as supervisor:
            await supervisor.start([_spec("one", _OBEDIENT)])
            pids.update(supervisor.pids())
            raise StackError("it", "so")

    with pytest.raises(StackError, match="it"):
        await fails()
    assert start_ticks(pids["one"]) is None


def test_log_lines_are_made_readable() -> None:
    entry = {
        "service": "order", "error": "E", "event": "part_died", "level": "error", "role": "all",
        "timestamp": "2026-11-24T08:11:38.527026Z", "exception": "Traceback\\u000a  in x\\u000aValueError: no",
    }  # fmt: skip
    text = readable(json.dumps(entry) + "\nplain\n[1]")
    assert text.splitlines() == [
        "08:11:38.527 error part_died error=E", "    Traceback", "      in x", "    ValueError: no", "plain", "[1]",
    ]  # fmt: skip
