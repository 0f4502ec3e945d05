"""Makes Kafka's start-up cache once per machine and Java: it cuts the broker's start from 3 s to 1 s.

Made after a first run, in the background and at the lowest priority, never in the way of one:
`python -m defray_sandbox.stack.aot`.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from defray_sandbox.settings import inherited_environment
from defray_sandbox.stack.kafka import KafkaBroker
from defray_sandbox.stack.kafka_files import kafka_files
from defray_sandbox.stack.paths import private_folder, stack_paths
from defray_sandbox.stack.processes import FileLock

_TIMEOUT_S = 120
_NICENESS = 19
_MESSAGES = 200
_TOPIC = "training"


def ensure_in_background() -> bool:
    """Start making the cache unless it is there or not of use; return whether a process was started for it."""
    cache = kafka_files().aot_cache
    if cache is None or cache.exists():
        return False
    subprocess.Popen(
        [sys.executable, "-m", "defray_sandbox.stack.aot"],
        env=inherited_environment(), cwd="/", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return True


def main() -> None:
    """Run a broker of its own through its usual work while Java takes notes, then put the cache in place."""
    os.nice(_NICENESS)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(1))
    signal.alarm(_TIMEOUT_S)  # Nobody watches this process, so it must end by itself.
    cache = kafka_files().aot_cache
    if cache is None or cache.exists():
        return
    once = FileLock(cache.with_suffix(".lock"))
    if not once.try_acquire():
        return
    folder = private_folder(stack_paths(), "aot")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        broker = KafkaBroker(folder / "kafka")
        stack.callback(broker.kill)
        broker.start(record_aot=True)
        asyncio.run(_exercise(broker.bootstrap))
        broker.stop()
        recorded = cache.with_suffix(".new")
        if recorded.exists():
            recorded.rename(cache)


async def _exercise(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(_TOPIC, num_partitions=1, replication_factor=1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    for number in range(_MESSAGES):
        await producer.send_and_wait(_TOPIC, b"x" * 500, key=str(number).encode())
    await producer.stop()
    consumer = AIOKafkaConsumer(_TOPIC, bootstrap_servers=bootstrap, group_id=_TOPIC, auto_offset_reset="earliest")
    await consumer.start()
    seen = 0
    while seen < _MESSAGES:
        seen += sum(len(batch) for batch in (await consumer.getmany(timeout_ms=500)).values())
    await consumer.stop()


if __name__ == "__main__":
    main()
