"""The load of P1, P2 and O1: posts requests that were made ahead, each once, over kept connections; at once or at an even rate.

Says `ready`, then after a line `warm` when the measured time begins, `over` when it ends, and `result` at the end.
"""

import argparse
import asyncio
import collections
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.bench.driver import say, told
from tests.bench.http_client import Connection, ConnectionLost, rendered
from tests.bench.report import percentile


@dataclass(slots=True)
class Tally:
    """What came back. Only what was answered inside the measured time counts for rate and latency."""

    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    waits_s: list[float] = field(default_factory=list)
    last_at: float = 0.0
    lost: int = 0

    def note(self, status: int, sent_at: float, *, measured: bool) -> None:
        self.statuses[status] += 1
        if measured:
            self.last_at = time.monotonic()
            self.waits_s.append(self.last_at - sent_at)


def requests(url: str, path: str, file: Path, count: int, *, repeat: bool) -> list[bytes]:
    """The requests of a file in final form."""
    with file.open() as lines:
        parsed = [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
    return [rendered(url, "POST", path, each["headers"], each["body"].encode()) for each in parsed] * (
        100 if repeat else 1
    )


async def closed_loop(connections: list[Connection], source: Iterator[bytes], tally: Tally, times: "Times") -> None:
    """Each connection sends its next request as soon as it has the answer to the last."""

    async def sender(connection: Connection) -> None:
        while time.monotonic() < times.ends and (request := next(source, None)) is not None:
            sent_at = time.monotonic()
            try:
                answer = await connection.send(request)
            except ConnectionLost:
                tally.lost += 1
                return
            tally.note(answer.status, sent_at, measured=times.begins <= time.monotonic() <= times.ends)

    await asyncio.gather(*(sender(connection) for connection in connections))


async def open_loop(
    connections: list[Connection], source: Iterator[bytes], tally: Tally, times: "Times", rate: float
) -> None:
    """A request is due every 1/rate seconds whatever the server does; its wait counts from when it was due."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)

    async def one(connection: Connection, request: bytes, due: float) -> None:
        try:
            answer = await connection.send(request)
        except ConnectionLost:
            tally.lost += 1
            return
        tally.note(answer.status, due, measured=due >= times.begins)
        free.put_nowait(connection)

    started, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while (due := started + number / rate) < times.ends and (request := next(source, None)) is not None:
            if due > time.monotonic():
                await asyncio.sleep(due - time.monotonic())
            group.create_task(one(await free.get(), request, due))
            number += 1


@dataclass(frozen=True, slots=True)
class Times:
    """When measuring begins and ends, on the monotonic clock."""

    begins: float
    ends: float


async def run(options: argparse.Namespace) -> None:
    """Connect, send, tell."""
    source = iter(requests(options.url, options.path, options.requests, options.count, repeat=options.repeat))
    connections = [await Connection.open(options.url) for _ in range(options.connections)]
    tally = Tally()
    say("ready")
    await told()
    started = time.monotonic()
    times = Times(started + options.warm, started + options.warm + options.seconds)
    load = open_loop(connections, source, tally, times, options.rate) if options.rate else closed_loop(
        connections, source, tally, times)  # fmt: skip
    async with asyncio.TaskGroup() as group:
        group.create_task(load)
        await asyncio.sleep(options.warm)
        say("warm")
    say("over")
    for connection in connections:
        connection.close()
    waits = sorted(tally.waits_s)
    seconds = max(1e-9, tally.last_at - times.begins)
    say("result", {
        "rate": len(waits) / seconds, "measured": len(waits), "statuses": tally.statuses, "lost": tally.lost,
        "p50_ms": percentile(waits, 0.5) * 1e3 if waits else None, "p99_ms": percentile(waits, 0.99) * 1e3 if waits else None,
    })  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--requests", type=Path, required=True, help="JSON lines of headers and body")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--repeat", action="store_true", help="send the same ones again and again (the bare limit)")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--warm", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="open loop at so many per second")
    uvloop.run(run(parser.parse_args()))
