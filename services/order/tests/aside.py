"""The service in a thread of its own, for tests that are not asynchronous: schemathesis and hypothesis call it from outside."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_order import wiring

from .running import Service, running

T = TypeVar("T")


class Aside:
    """The running public port, and what is done inside its loop."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service, self._loop = service, loop

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Do something beside the server and wait for it."""
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(30)


@contextmanager
def aside(dsn: str) -> Iterator[Aside]:
    """Serve this database until the test is over."""
    started: Future[Aside] = Future()
    stopping = asyncio.Event()

    async def serve() -> None:
        async with Database.open(dsn) as database:
            placing = wiring.placing(database, SystemClock(), after_commit=None)
            async with running(database, placing) as service:
                started.set_result(Aside(service, asyncio.get_running_loop()))
                await stopping.wait()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=work, name="service")
    thread.start()
    served = started.result(30)
    try:
        yield served
    finally:
        served._loop.call_soon_threadsafe(stopping.set)
        thread.join(30)
