"""The bench's own PostgreSQL, Kafka and service processes, in a scratch folder; ends only what it started."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition

from defray_kernel import topics
from defray_kernel.kafka import Kafka
from defray_kernel.topics import Topic
from defray_sandbox.settings import inherited_environment
from defray_sandbox.stack.credentials import Credentials, make_credentials
from defray_sandbox.stack.environment import Addresses, Ports, Site
from defray_sandbox.stack.kafka import KafkaBroker
from defray_sandbox.stack.paths import CHECKOUT, StackPaths, private_folder, stack_paths, sweep_scratch
from defray_sandbox.stack.postgres import PostgresServer
from defray_sandbox.stack.processes import FileLock, OwnedProcess, free_port
from defray_sandbox.stack.provision import (
    SERVICES,
    ProvisionedDatabase,
    copy_database,
    drop_database,
    provision,
    stored_passwords,
)

LOGS = CHECKOUT / "var" / "bench" / "logs"
"""What the processes of the last bench said."""

_WARM_BATCH = 50
_READY_S = 60.0
_STOP_S = 20.0
_MIGRATE_S = 120.0
_POLL_S = 0.05


class BenchFailed(Exception):
    """The bench could not run; the message holds the last lines of what failed."""


@dataclass(slots=True, kw_only=True)
class World:
    """Servers and credentials that all scenarios of one bench share; each run gets a database and topics of its own."""

    folder: Path
    postgres: PostgresServer
    kafka: KafkaBroker
    credentials: Credentials
    _templates: set[str] = field(default_factory=set)
    _started: list[OwnedProcess] = field(default_factory=list)
    _template_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def textbook_keys(self) -> Path:
        """The folder in which the twin finds the keys of token and channel (the same as ours)."""
        folder = self.folder / "textbook-keys"
        if not folder.exists():
            partial = self.folder / "textbook-keys.new"
            partial.mkdir()
            shutil.copytree(self.credentials.merchant_side, partial / "wechat")
            shutil.copy(self.credentials.order_token_key, partial)
            shutil.copy(self.credentials.order_token_jwks, partial)
            partial.rename(folder)
        return folder

    @property
    def server_trees(self) -> dict[str, int]:
        """Roots of the servers' process trees, for the meter."""
        return {"postgres": self.postgres._process.pid, "kafka": self.kafka._process.pid}

    def kafka_clients(self) -> Kafka:
        """How the bench itself reaches Kafka."""
        return Kafka(bootstrap=self.kafka.bootstrap, session_timeout_ms=6_000, start_within_s=20.0)

    async def topic(self, name: str, partitions: int = 12) -> str:
        """Make a topic of one run's own: `name` with a random end."""
        full = f"bench.{name}.{secrets.token_hex(4)}"
        wanted = Topic(name=full, owner="bench", partitions=partitions, retention_ms=86_400_000)
        await topics.create(self.kafka_clients(), [wanted])
        return full

    async def warm_broker(self, seconds: float) -> None:
        """Let the broker's Java compile its ways of working, one by one and in batches, before anything is measured."""
        topic = TopicPartition(await self.topic("warm"), 0)
        loop = asyncio.get_running_loop()
        producer = await self.kafka_clients().producer()
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        consumer.assign([topic])
        until = loop.time() + seconds
        while loop.time() < until:
            await producer.send_and_wait(topic.topic, bytes(500), partition=0)
            batch = producer.create_batch()
            for _ in range(_WARM_BATCH):
                batch.append(timestamp=None, key=None, value=bytes(500))
            batch.close()
            await (await producer.send_batch(batch, topic.topic, partition=0))
            await consumer.getmany(timeout_ms=10)
        await consumer.stop()
        await producer.stop()

    async def fresh_topics(self, names: Sequence[str] = ()) -> None:
        """Make the services' topics (or those of `names`) anew and empty; nobody may be connected to the old ones."""
        kafka = self.kafka_clients()
        wanted = topics.load(CHECKOUT / "deploy" / "topics.yaml")
        if names:
            wanted = {n: Topic(name=n, owner="bench", partitions=12, retention_ms=86_400_000) for n in names}
        admin = await kafka.admin()
        try:
            there = set(await admin.list_topics()) & set(wanted)
            if there:
                await admin.delete_topics(sorted(there))
            async with asyncio.timeout(20):
                while set(await admin.list_topics()) & there:
                    await asyncio.sleep(_POLL_S)
        finally:
            await admin.close()
        await topics.create(kafka, wanted.values())

    @asynccontextmanager
    async def database(self, *services: str) -> AsyncIterator[ProvisionedDatabase]:
        """A database migrated for `services`, dropped afterwards; the first call for them runs the migrations."""
        template = "_".join(("bench", "template", *services))
        async with self._template_lock:
            if template not in self._templates:
                await self._migrate(template, services)
                self._templates.add(template)
        async with self.copy(template) as made:
            yield made

    @asynccontextmanager
    async def copy(self, template: str) -> AsyncIterator[ProvisionedDatabase]:
        """A copy of a database to which nobody is connected, dropped afterwards."""
        passwords = stored_passwords(self.credentials.passwords)
        name = f"bench_{secrets.token_hex(4)}"
        await copy_database(self.postgres.dsn(), template=template, database=name)
        try:
            yield await provision(self.postgres.dsn(), passwords, database=name)
        finally:
            await drop_database(self.postgres.dsn(), name)

    @asynccontextmanager
    async def empty_database(self) -> AsyncIterator[str]:
        """An empty database (its superuser DSN), dropped afterwards; what the textbook twin makes its tables in."""
        name = f"bench_{secrets.token_hex(4)}"
        await copy_database(self.postgres.dsn(), template="template0", database=name)
        try:
            yield self.postgres.dsn(database=name)
        finally:
            await drop_database(self.postgres.dsn(), name)

    def site(self, database: ProvisionedDatabase, *, channel: Ports | None = None) -> Site:
        """Addresses and environment for a run's services, on free ports."""
        ports = iter(free_ports(2 * len(SERVICES) + 4))
        pair = lambda: Ports(public=next(ports), internal=next(ports))  # noqa: E731
        return Site(
            addresses=Addresses(
                kafka=self.kafka.bootstrap, services={name: pair() for name in SERVICES},
                channel=channel or pair(), shop=pair(),
            ),
            database=database, credentials=self.credentials, clock_file=self.folder / f"clock-{database.name}",
        )  # fmt: skip

    async def service(
        self, site: Site, name: str, role: str, *, profile: Path | None = None, extra: Mapping[str, str] | None = None
    ) -> OwnedProcess:
        """Start one of our services as shipped and return it when it is ready; the caller stops it."""
        argv = [*sampled(profile), "-m", f"defray_{name}", role]
        env = site.service_environment(name) | {
            f"DEFRAY_{name.upper()}_{k.upper()}": v for k, v in (extra or {}).items()
        }
        process = self.start(f"{name}-{role}", argv, env)
        await self.ready(process, f"{site.addresses.services[name].internal_url}/readyz")
        return process

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> OwnedProcess:
        """Start `python <argv>`; its log is in the scratch folder."""
        unique = f"{name}-{secrets.token_hex(3)}"
        process = OwnedProcess(name=name, mark=self.folder / f"{unique}.json", log=self.folder / f"{unique}.log")
        base = inherited_environment() if env is None else dict(env)
        path = ":".join(filter(None, (str(CHECKOUT), base.get("PYTHONPATH", ""))))
        process.spawn([sys.executable, *argv], env=base | {"PYTHONPATH": path}, cwd=CHECKOUT)
        self._started.append(process)
        return process

    async def stop_all(self) -> None:
        """Stop what a failed run has left behind."""
        await stop(*(process for process in self._started if process.running()))

    async def ready(self, process: OwnedProcess, url: str, *, status: int = 200, within_s: float = _READY_S) -> None:
        """Wait until `url` answers `status`. Raises BenchFailed with the process's last lines."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2), trust_env=False) as session:
            while loop.time() < deadline and process.running():
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url) as answer:
                        if answer.status == status:
                            return
                await asyncio.sleep(_POLL_S)
        raise BenchFailed(f"{process.name} is not ready:\n{process.last_lines(30)}")

    async def _migrate(self, template: str, services: Sequence[str]) -> None:
        passwords = stored_passwords(self.credentials.passwords)
        site = self.site(await provision(self.postgres.dsn(), passwords, database=template))
        running = [
            self.start(f"{name}-migrate", ["-m", f"defray_{name}", "migrate"], site.migration_environment(name))
            for name in services
        ]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _MIGRATE_S
        for process in running:
            while process.running() and loop.time() < deadline:
                await asyncio.sleep(_POLL_S)
            if process.exit_code != 0:
                raise BenchFailed(f"{process.name} failed ({process.exit_code}):\n{process.last_lines(30)}")


def sampled(profile: Path | None) -> list[str]:
    """Arguments that run what follows under the sampling profiler, which writes to `profile`; none when it is None."""
    return [] if profile is None else ["-m", "tests.bench.sampler", str(profile)]


def free_ports(count: int) -> list[int]:
    """Distinct ports that nobody listens on."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


async def stop(*processes: OwnedProcess) -> None:
    """Stop processes in order, all at once; kill what does not stop."""
    await asyncio.gather(*(asyncio.to_thread(p.stop, signal.SIGTERM, timeout_s=_STOP_S) for p in processes))


@asynccontextmanager
async def bench_world() -> AsyncIterator[World]:
    """Bring the servers up, and take them down with all that was made."""
    with _scratch() as folder:
        postgres, kafka = PostgresServer(folder / "postgres"), KafkaBroker(folder / "kafka", heap_mb=768)
        async with AsyncExitStack() as stack:
            for server in (postgres, kafka):
                stack.push_async_callback(asyncio.to_thread, server.stop)
            await asyncio.gather(*(asyncio.to_thread(server.start) for server in (postgres, kafka)))
            credentials = make_credentials(folder / "credentials")
            world = World(folder=folder, postgres=postgres, kafka=kafka, credentials=credentials)
            stack.push_async_callback(world.stop_all)
            await world.fresh_topics()
            yield world


@contextmanager
def _scratch() -> Iterator[Path]:
    paths = stack_paths()
    _end_leftovers(paths)
    sweep_scratch(paths)
    folder = private_folder(paths, "bench")
    lock = FileLock(folder / "run.lock")
    lock.try_acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True)
        for log in (*folder.glob("*.log"), *folder.glob("*/*.log")):
            shutil.copy(log, LOGS)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _end_leftovers(paths: StackPaths) -> None:
    """End what a bench that was killed could not; only its own marks are believed, by pid and start time."""
    for folder in paths.scratch.glob("bench-*"):
        lock = FileLock(folder / "run.lock")
        if not lock.try_acquire():
            continue
        for mark in (*folder.glob("*.json"), *folder.glob("postgres/server.json"), *folder.glob("kafka/broker.json")):
            with contextlib.suppress(KeyError, TypeError):
                OwnedProcess(name=mark.stem, mark=mark, log=mark.with_suffix(".log")).end_leftover(
                    signal.SIGTERM, timeout_s=_STOP_S
                )
        lock.release()
