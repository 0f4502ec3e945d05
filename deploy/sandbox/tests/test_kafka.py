"""The embedded Kafka: it serves, and it keeps what was acknowledged over a stop, a kill and a freeze."""

import asyncio
import shutil
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from defray_sandbox.stack import kafka_files as files_module
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.kafka import KafkaBroker

pytestmark = pytest.mark.alone

_TOPIC = "kept"


async def _make_topic(broker: KafkaBroker) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(_TOPIC, num_partitions=1, replication_factor=1)])
    await admin.close()


async def _send(broker: KafkaBroker, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        await asyncio.wait_for(producer.send_and_wait(_TOPIC, value, partition=0), 20)
    finally:
        await producer.stop()


async def _end_offset(broker: KafkaBroker) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap)
    await consumer.start()
    try:
        partition = TopicPartition(_TOPIC, 0)
        return int((await consumer.end_offsets([partition]))[partition])
    finally:
        await consumer.stop()


async def test_it_keeps_what_it_acknowledged_over_stop_and_kill(private_kafka: KafkaBroker) -> None:
    private_kafka.start()
    bootstrap = private_kafka.bootstrap
    await _make_topic(private_kafka)
    await _send(private_kafka, b"one")
    private_kafka.stop()
    private_kafka.start()
    await _send(private_kafka, b"two")
    private_kafka.kill()
    private_kafka.start()
    assert private_kafka.bootstrap == bootstrap
    assert await _end_offset(private_kafka) == 2
    with pytest.raises(StackError, match="another sandbox uses"):
        KafkaBroker(private_kafka.folder).start()
    private_kafka.freeze()
    reading, writing = await asyncio.open_connection("127.0.0.1", private_kafka.port)
    writing.write(b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reading.read(4), 0.3)
    private_kafka.thaw()
    assert len(await asyncio.wait_for(reading.read(4), 10)) == 4
    writing.close()


def test_a_damaged_jar_is_fetched_again_and_a_stranger_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files_module.kafka_files()
    source = Path(whole.class_path.split(":")[0]).parent
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "defray" / source.name
    folder.mkdir(parents=True)
    for jar in source.glob("*.jar"):
        shutil.copyfile(jar, folder / jar.name)
    victim = next(iter(folder.glob("jopt-simple-*.jar")))
    victim.write_bytes(b"not a jar")
    assert files_module.kafka_files().class_path.startswith(str(folder))
    assert victim.stat().st_size > 1000
    (folder / "stranger.jar").write_bytes(b"")
    with pytest.raises(StackError, match="is not in the lock"):
        files_module.kafka_files()
