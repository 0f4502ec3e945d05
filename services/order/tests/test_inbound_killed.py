"""The inbound door as a real process that is killed on the way: broken records are dead letters, good ones orders, once."""

import asyncio
import itertools
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer

from defray_kernel import topics
from defray_kernel.contracts.order_v1 import OrderPlaced
from defray_kernel.db import Database
from defray_kernel.kafka import Kafka
from defray_kernel.parking import ParkedRecord
from defray_kernel.testing.eventually import eventually
from defray_sandbox.stack.credentials import Credentials, make_credentials
from defray_sandbox.stack.environment import Addresses, Ports, Site
from defray_sandbox.stack.kafka import KafkaBroker
from defray_sandbox.stack.paths import CHECKOUT, private_folder, stack_paths
from defray_sandbox.stack.processes import OwnedProcess, free_port
from defray_sandbox.stack.provision import SERVICES, ProvisionedDatabase
from shared.tests.messaging import crafted

from .asking import know, record, request
from .broken import BREAKS
from .running import Shop, shop

pytestmark = pytest.mark.alone

_TOPIC, _DEAD, _TOLD = "order.inbound.v1", "dlq.order.inbound", "order.order.events.v1"
_CRASHES = ("consumer.before_commit:1", "consumer.after_commit:1", "", "consumer.before_commit:2")
_SCOPES = ["orders:read", "orders:write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many records, and how often the consumer dies."""

    records: int
    kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What went into the topic: whose numbers must become orders, and what each broken record must be told by."""

    numbers: set[str]
    broken: dict[tuple[int, int], tuple[str, str]]


class Processes:
    """The order service's roles as processes of their own; ends only what it started."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self._folder, self._count = site, folder, itertools.count()
        self._started: list[OwnedProcess] = []

    def start(self, *arguments: str, crash_at: str = "") -> OwnedProcess:
        name = f"{arguments[0]}-{next(self._count)}"
        process = OwnedProcess(name=name, mark=self._folder / f"{name}.json", log=self._folder / f"{name}.log")
        own = {"INBOUND_MERCHANT_WAIT_S": "3", "INTERNAL_PORT": str(free_port()), "PUBLIC_PORT": str(free_port())}
        if crash_at:
            own["CRASH_AT"] = crash_at
        env = self._site.service_environment("order") | {f"DEFRAY_ORDER_{key}": value for key, value in own.items()}
        process.spawn([sys.executable, "-m", "defray_order", *arguments], env=env, cwd=CHECKOUT)
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            if process.running():
                process.stop(signal.SIGTERM, timeout_s=20)

    def told(self) -> str:
        return "\n".join(f"{process.name} ({process.exit_code}): {process.last_lines(15)}" for process in self._started)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = private_folder(stack_paths(), "inbound")
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def credentials(folder: Path) -> Credentials:
    return make_credentials(folder / "credentials")


@pytest_asyncio.fixture
async def kafka(private_kafka: KafkaBroker) -> AsyncIterator[Kafka]:
    private_kafka.start()
    clients = Kafka(bootstrap=private_kafka.bootstrap, session_timeout_ms=6_000)
    await topics.create(clients, topics.load(CHECKOUT / "deploy" / "topics.yaml").values())
    yield clients


@pytest.fixture
def processes(
    migrated: ProvisionedDatabase, kafka: Kafka, credentials: Credentials, folder: Path
) -> Iterator[Processes]:
    def ports() -> Ports:
        return Ports(public=free_port(), internal=free_port())

    site = Site(
        addresses=Addresses(
            kafka=kafka.bootstrap, services={name: ports() for name in SERVICES}, channel=ports(), shop=ports()
        ),
        database=migrated,
        credentials=credentials,
        clock_file=folder / "clock",
    )
    made = Processes(site, folder)
    yield made
    made.end()


@pytest.mark.parametrize(
    "size",
    [Size(records=1_500, kills=3), pytest.param(Size(records=10_000, kills=10), marks=pytest.mark.full)],
    ids=lambda size: f"{size.records} records, {size.kills} kills",
)
async def test_broken_records_are_dead_letters_by_field_and_good_ones_orders_once(
    database: Database, kafka: Kafka, processes: Processes, size: Size
) -> None:
    ours = shop("one")
    await know(database, ours.state(_SCOPES))
    published = await _publish(kafka, ours, size.records)
    ends = await kafka.end_offsets(_TOPIC)
    steady = [processes.start("relay"), processes.start("timers")]
    try:
        for number in range(size.kills):
            await _until_killed(database, processes, _CRASHES[number % len(_CRASHES)])
        steady.append(processes.start("consume"))
        await eventually(lambda: _settled(database, ends), within_s=120, every_s=0.3, what="everything read and sent")
    except BaseException:
        print(processes.told())
        raise
    assert [process.running() for process in steady] == [True] * 3, "nothing stops for a record"
    await _assert_exact(database, kafka, published)


async def _until_killed(database: Database, processes: Processes, crash_at: str) -> None:
    """One life of the consumer: until it dies at its crash point or, without one, some way into its work."""
    before = await _read_so_far(database)
    process = processes.start("consume", crash_at=crash_at)

    async def dead_or_on_its_way() -> bool:
        return not process.running() or (not crash_at and await _read_so_far(database) > before)

    await eventually(dead_or_on_its_way, within_s=60, every_s=0.02, what="the consumer at work")
    if crash_at:
        assert process.exit_code == -signal.SIGKILL, process.last_lines(20)
    else:
        assert process.running(), process.last_lines(20)
        process.kill()


async def _publish(kafka: Kafka, ours: Shop, count: int) -> Published:
    """One in twenty broken, each kind as often; one good in twenty comes twice. The order is by chance, always the same."""
    kinds, rng = itertools.cycle(BREAKS.values()), random.Random(7)
    records: list[tuple[ParkedRecord, tuple[str, str] | None]] = []
    numbers: set[str] = set()
    while len(records) < count:
        number = f"no-{len(records)}"
        if len(records) % 20 == 7:
            broken, reason, field = next(kinds)
            records.append((broken(ours.merchant_id, number), (reason, field)))
            continue
        numbers.add(number)
        records.append((record(request(ours.merchant_id, number), id_=f"cart/{number}"), None))
        if len(records) % 20 == 13:
            records.append(records[-1])
    rng.shuffle(records)
    producer = await kafka.producer()
    try:
        sent = [
            await producer.send(_TOPIC, value=each.value, key=each.key, headers=list(each.headers))
            for each, _ in records
        ]
        placed = await asyncio.gather(*sent)
    finally:
        await producer.stop()
    told = zip(placed, (why for _, why in records), strict=True)
    broken = {(at.partition, at.offset): why for at, why in told if why is not None}
    return Published(numbers=numbers, broken=broken | await _publish_crafted(kafka, ours, numbers))


async def _publish_crafted(kafka: Kafka, ours: Shop, numbers: set[str]) -> dict[tuple[int, int], tuple[str, str]]:
    """In each partition, a good record between two that no client library decodes: a header's name is not UTF-8."""
    broken = {}
    for partition in range(12):
        wishes = [record(request(ours.merchant_id, f"crafted-{partition}-{number}")) for number in range(3)]
        numbers.add(f"crafted-{partition}-1")
        marked = [(crafted.MARK, b"x")]
        sent = [
            (wish.key, wish.value, [*wish.headers, *(marked if number != 1 else [])])
            for number, wish in enumerate(wishes)
        ]
        first = await crafted.send(kafka, _TOPIC, partition, crafted.batch(sent, ("none", "zstd")[partition % 2]))
        broken |= {(partition, first + number): ("headers_unreadable", "headers") for number in (0, 2)}
    return broken


async def _read_so_far(database: Database) -> int:
    async with database.read() as conn:
        found: int = await conn.fetchval(
            "SELECT coalesce(sum(next_offset), 0) FROM consumer_offset WHERE consumer = 'inbound'"
        )
    return found


async def _settled(database: Database, ends: dict[int, int]) -> bool:
    async with database.read() as conn:
        left = await conn.fetchrow(
            "SELECT (SELECT count(*) FROM inbound_waiting) AS waiting, (SELECT count(*) FROM outbox) AS unsent"
        )
    assert left is not None
    return await _read_so_far(database) == sum(ends.values()) and not any(left.values())


async def _assert_exact(database: Database, kafka: Kafka, published: Published) -> None:
    async with database.read() as conn:
        orders = [row["merchant_order_no"] for row in await conn.fetch("SELECT merchant_order_no FROM orders")]
        rejected = await conn.fetch("SELECT part, part_offset, reason, field FROM inbound_rejected")
        parked = await conn.fetchval("SELECT count(*) FROM parked_event")
    assert Counter(row["reason"] for row in rejected)["internal"] == 0
    assert Counter(orders) == Counter(published.numbers)
    assert {(row["part"], row["part_offset"]): (row["reason"], row["field"]) for row in rejected} == published.broken
    assert (len(rejected), parked) == (len(published.broken), 0)
    letters = await _read(kafka, _DEAD)
    assert {value for _, value in letters} == {b""}
    dead = [dict(headers) for headers, _ in letters]
    # Nothing that a stranger wrote.
    assert {name for headers in dead for name in headers if not name.startswith("x-")} == set()
    where = [
        (int(h["x-origin-partition"]), int(h["x-origin-offset"]), h["x-reason"].decode(), h["x-field"].decode())
        for h in dead
    ]
    assert {h["x-origin-topic"] for h in dead} == {_TOPIC.encode()}
    assert Counter(where) == Counter((*at, *why) for at, why in published.broken.items())
    assert len({(reason, field) for _, _, reason, field in where}) >= 12
    placed = Counter(
        msgspec.json.decode(value, type=OrderPlaced).merchant_order_no
        for headers, value in await _read(kafka, _TOLD)
        if dict(headers)["ce_type"] == b"order.placed.v1"
    )
    assert placed == Counter(published.numbers)


async def _read(kafka: Kafka, topic: str) -> list[tuple[Sequence[tuple[str, bytes]], bytes]]:
    """Everything in a topic."""
    reader = AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    await reader.start()
    found: list[tuple[Sequence[tuple[str, bytes]], bytes]] = []
    try:
        partitions = sorted(reader.assignment())
        ends = await reader.end_offsets(partitions)
        while any([await reader.position(tp) < ends[tp] for tp in partitions]):
            for records in (await reader.getmany(timeout_ms=300, max_records=5_000)).values():
                found += [(each.headers, each.value) for each in records]
    finally:
        await reader.stop()
    return found
