"""A consumer as a process of its own, to be killed or frozen: `reader.py DSN KAFKA TOPIC [crash point]`."""

import asyncio
import signal
import sys

from defray_kernel import crash
from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from shared.tests.messaging import harness


async def main(dsn: str, bootstrap: str, topic: str, *crash_points: str) -> int:
    for point in crash_points:
        crash.arm(point)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    kafka = Kafka(bootstrap=bootstrap, session_timeout_ms=1_500)
    async with Database.open(dsn, pool_size_max=2) as database:
        reader = harness.consumer("reader", topic, database, kafka, SystemClock())
        await reader.run(stopping)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
