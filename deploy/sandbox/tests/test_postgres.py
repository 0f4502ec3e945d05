"""The embedded PostgreSQL: it starts, stops, survives a kill, and never touches what it did not start."""

import os
import socket
import subprocess
import sys

import asyncpg
import pytest

from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.postgres import PostgresServer
from defray_sandbox.stack.processes import start_ticks, working_in


async def _count(server: PostgresServer) -> int:
    connection = await asyncpg.connect(server.dsn(), timeout=5)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM kept"))
    finally:
        await connection.close()


async def _write_one(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.dsn(), timeout=5)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        await connection.execute("INSERT INTO kept VALUES (1)")
    finally:
        await connection.close()


async def test_it_keeps_its_data_and_port_over_stop_and_kill(private_postgres: PostgresServer) -> None:
    private_postgres.start()
    private_postgres.start()
    port = private_postgres.port
    await _write_one(private_postgres)
    private_postgres.stop()
    private_postgres.stop()
    private_postgres.start()
    await _write_one(private_postgres)
    private_postgres.kill()
    assert working_in(private_postgres.folder / "data") == []
    private_postgres.start()
    assert await _count(private_postgres) == 2
    assert private_postgres.port == port


async def test_it_is_durable_and_speaks_utf8(private_postgres: PostgresServer) -> None:
    private_postgres.start()
    connection = await asyncpg.connect(private_postgres.dsn(), timeout=5)
    names = ("fsync", "synchronous_commit", "full_page_writes", "server_encoding")
    found = [await connection.fetchval("SELECT current_setting($1)", name) for name in names]
    await connection.close()
    assert found == ["on", "on", "on", "UTF8"]


async def test_a_setting_can_be_given(private_postgres: PostgresServer) -> None:
    server = PostgresServer(private_postgres.folder, settings={"work_mem": "7MB"})
    try:
        server.start()
        connection = await asyncpg.connect(server.dsn(), timeout=5)
        assert await connection.fetchval("SHOW work_mem") == "7MB"
        await connection.close()
    finally:
        server.kill()


async def test_a_frozen_server_answers_after_the_thaw(private_postgres: PostgresServer) -> None:
    private_postgres.start()
    await _write_one(private_postgres)
    private_postgres.freeze()
    with pytest.raises(TimeoutError):
        await asyncpg.connect(private_postgres.dsn(), timeout=0.3)
    private_postgres.thaw()
    assert await _count(private_postgres) == 1


async def test_a_port_that_is_taken_is_avoided_unless_it_was_asked_for(private_postgres: PostgresServer) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        with pytest.raises(StackError, match="did not start"):
            PostgresServer(private_postgres.folder, port=taken).start()
        private_postgres.port = taken  # As if it had been free a moment ago.
        private_postgres.start()
        assert private_postgres.port != taken
        await _write_one(private_postgres)


def test_a_second_sandbox_is_refused_the_folder(private_postgres: PostgresServer) -> None:
    private_postgres.start()
    with pytest.raises(StackError, match="another sandbox uses"):
        PostgresServer(private_postgres.folder).start()
    assert private_postgres.running()


async def test_what_a_crashed_run_left_is_cleared_and_its_data_kept(private_postgres: PostgresServer) -> None:
    program = (
        "import os, pathlib, sys; from defray_sandbox.stack.postgres import PostgresServer;"
        "server = PostgresServer(pathlib.Path(sys.argv[1])); server.start(); print(server._process.pid, flush=True); os._exit(9)"
    )
    crashed = subprocess.run(
        [sys.executable, "-c", program, str(private_postgres.folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    orphan = int(crashed.stdout)
    assert start_ticks(orphan) is not None
    private_postgres.start()
    assert start_ticks(orphan) is None
    await _write_one(private_postgres)


def test_a_mark_that_names_another_program_ends_nobody(private_postgres: PostgresServer) -> None:
    private_postgres.folder.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:
        # The pid is alive but started at another time: it was given to another program since.
        (private_postgres.folder / "server.json").write_text(f'{{"pid": {stranger.pid}, "started": 1}}')
        private_postgres.start()
        assert stranger.poll() is None
        stranger.terminate()
