"""A relay as a process of its own, to be killed: `relay.py DSN KAFKA [crash point]`. A broken relay leaves with 75."""

import asyncio
import signal
import sys

from defray_kernel import crash
from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.relay import Relay, RelayBroken


async def main(dsn: str, bootstrap: str, *crash_points: str) -> int:
    for point in crash_points:
        crash.arm(point)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with Database.open(dsn, pool_size_max=2) as database:
        try:
            await Relay(database, Kafka(bootstrap=bootstrap), send_within_s=5.0).run(stopping)
        except RelayBroken as broken:
            print(f"relay broken: {broken}", file=sys.stderr)
            return 75
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
