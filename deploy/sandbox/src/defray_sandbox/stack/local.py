"""Brings the whole sandbox up in order (servers, database, topics, services, channel, shop) and takes it down again."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from defray_kernel import topics
from defray_kernel.errors import StartRefused, Unavailable
from defray_kernel.kafka import Kafka
from defray_sandbox.settings import inherited_environment
from defray_sandbox.simulators.process import ALIPAY_APP_ID, ALIPAY_SELLER_ID, APPID, MCHID
from defray_sandbox.stack.credentials import Credentials, make_credentials, write_private
from defray_sandbox.stack.environment import Addresses, Ports, Site
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.kafka import KafkaBroker
from defray_sandbox.stack.paths import CHECKOUT, RUN_LOCK
from defray_sandbox.stack.postgres import PostgresServer
from defray_sandbox.stack.processes import FileLock, free_port
from defray_sandbox.stack.provision import SERVICES, ProvisionedDatabase, provision, stored_passwords
from defray_sandbox.stack.supervisor import ProcessSpec, Supervisor

ADDRESS_FILE = "sandbox.json"
CLOCK_FILE = "clock.offset"
_MIGRATE_TIMEOUT_S = 120
_REACH_TIMEOUT_S = 5

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a sandbox is brought up. `folder` keeps its data, `logs` what its processes say.

    `postgres` (a superuser DSN) and `kafka` (host:port) name servers of the user's own; `channel_arguments` are added
    to the simulator's command line; `database` is the database's name on a server of the user's own.
    """

    folder: Path
    logs: Path
    postgres: str | None = None
    kafka: str | None = None
    database: str = "defray"
    channel_arguments: Sequence[str] = ()
    services: Sequence[str] = tuple(SERVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStack:
    """A running sandbox. `postgres` and `kafka` are None when the user's own are used."""

    site: Site
    supervisor: Supervisor
    postgres: PostgresServer | None
    kafka: KafkaBroker | None

    @property
    def addresses(self) -> Addresses:
        return self.site.addresses

    @property
    def credentials(self) -> Credentials:
        return self.site.credentials

    @property
    def clock_file(self) -> Path:
        return self.site.clock_file


@asynccontextmanager
async def local_stack(options: Options, tell: Tell) -> AsyncIterator[LocalStack]:
    """Bring a sandbox up, hand it over when everything is ready, and stop all of it afterwards.

    Raises `StackError` when the folder is in use or something does not come up.
    """
    options.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(options.folder / RUN_LOCK)
    if not lock.try_acquire():
        message = f"another sandbox uses {options.folder}"
        raise StackError(message, "stop it first (Ctrl-C where it runs)")
    async with AsyncExitStack() as stack:
        stack.callback(lock.release)
        step = _Steps(tell)
        await _reach_own_servers(options)
        postgres, kafka, credentials = await _servers(options, stack, step)
        admin_dsn = options.postgres or (postgres.dsn() if postgres else "")
        database = await provision(admin_dsn, stored_passwords(credentials.passwords), database=options.database)
        site = Site(
            addresses=_addresses(options.folder, options.kafka or (kafka.bootstrap if kafka else "")),
            database=database,
            credentials=credentials,
            clock_file=options.folder / CLOCK_FILE,
        )
        await asyncio.gather(_make_topics(site), *(_migrate(site, service) for service in options.services))
        step("topics made and database migrated")
        supervisor = await stack.enter_async_context(
            Supervisor(folder=options.folder / "run", log_folder=options.logs, tell=tell)
        )
        await supervisor.start([*_world(options, site), *(_service(site, name) for name in options.services)])
        step(f"{len(options.services)} services, the channels and the shop are ready")
        address_file = options.folder / ADDRESS_FILE
        known = {"addresses": asdict(site.addresses), "admin_dsn": database.admin_dsn}
        write_private(address_file, json.dumps(known, indent=1))
        stack.callback(address_file.unlink, missing_ok=True)
        yield LocalStack(site=site, supervisor=supervisor, postgres=postgres, kafka=kafka)


def read_site(folder: Path) -> Site:
    """Return the site of the sandbox that runs in `folder`; raises FileNotFoundError when none does."""
    known = json.loads((folder / ADDRESS_FILE).read_text())
    given = known["addresses"]
    credentials = Credentials(folder=folder / "credentials")
    addresses = Addresses(
        kafka=given["kafka"],
        services={name: Ports(**ports) for name, ports in given["services"].items()},
        channel=Ports(**given["channel"]),
        shop=Ports(**given["shop"]),
        alipay=Ports(**given["alipay"]) if given.get("alipay") else None,
    )
    database = ProvisionedDatabase(admin_dsn=known["admin_dsn"], passwords=stored_passwords(credentials.passwords))
    return Site(addresses=addresses, database=database, credentials=credentials, clock_file=folder / CLOCK_FILE)


async def _reach_own_servers(options: Options) -> None:
    """Find out about a wrong address at once, before anything of ours is started."""
    if options.kafka:
        host, _, port = options.kafka.rpartition(":")
        try:
            async with asyncio.timeout(_REACH_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
        except (OSError, ValueError) as error:
            message = f"no Kafka answers at {options.kafka} ({str(error) or type(error).__name__})"
            raise StackError(message, "give --kafka the host:port of a running broker, or leave it out") from error
    if options.postgres:
        try:
            connection = await asyncpg.connect(options.postgres, timeout=_REACH_TIMEOUT_S)
            await connection.close()
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            message = f"the PostgreSQL of --postgres cannot be used ({str(error) or type(error).__name__})"
            raise StackError(message, "give --postgres the DSN of a running server, or leave it out") from error


class _Steps:
    """Tells each step of the start with the seconds it took."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._last = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        self._tell(f"{what} ({now - self._last:.1f} s)")
        self._last = now


async def _servers(
    options: Options, stack: AsyncExitStack, step: _Steps
) -> tuple[PostgresServer | None, KafkaBroker | None, Credentials]:
    postgres = None if options.postgres else PostgresServer(options.folder / "postgres")
    kafka = None if options.kafka else KafkaBroker(options.folder / "kafka")
    servers = [server for server in (postgres, kafka) if server is not None]

    async def stop() -> None:
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in servers))

    stack.push_async_callback(stop)
    starts = [asyncio.ensure_future(asyncio.to_thread(server.start)) for server in servers]
    try:
        credentials = await asyncio.to_thread(make_credentials, options.folder / "credentials")
        await asyncio.gather(*starts)
    finally:
        # A thread cannot be cancelled, and a server must not come up while its stop is under way.
        if starts:
            await asyncio.wait(starts)
    step(f"PostgreSQL {_where(postgres)} and Kafka {_where(kafka)}")
    return postgres, kafka, credentials


def _where(server: PostgresServer | KafkaBroker | None) -> str:
    return "of your own" if server is None else f"on 127.0.0.1:{server.port}"


def _addresses(folder: Path, kafka: str) -> Addresses:
    """Give out free ports, the same as last time where they still are: endpoints and bookmarks stay good."""
    file = folder / "ports.json"
    last: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    given: dict[str, int] = {}

    def port(name: str) -> int:
        found = free_port(last.get(name, 0))
        # Nobody listens yet on the ports handed out before, so the system may offer one twice.
        while found in given.values():
            found = free_port()
        given[name] = found
        return found

    def ports(name: str) -> Ports:
        return Ports(public=port(name), internal=port(f"{name} internal"))

    services = {name: ports(name) for name in SERVICES}
    addresses = Addresses(
        kafka=kafka, services=services, channel=ports("channel"), shop=ports("shop"), alipay=ports("alipay")
    )
    file.write_text(json.dumps(given))
    return addresses


async def _make_topics(site: Site) -> None:
    wanted = topics.load(CHECKOUT / "deploy" / "topics.yaml")
    try:
        await topics.create(Kafka(bootstrap=site.addresses.kafka), wanted.values())
    except (Unavailable, StartRefused) as error:
        message = f"the topics could not be made: {error}"
        raise StackError(message, f"is a Kafka running at {site.addresses.kafka}?") from error


async def _migrate(site: Site, service: str) -> None:
    argv = [sys.executable, "-m", f"defray_{service}", "migrate"]
    process = await asyncio.create_subprocess_exec(
        *argv, env=site.migration_environment(service), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_MIGRATE_TIMEOUT_S):
            said, _ = await process.communicate()
    except BaseException:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode != 0:
        message = f"the migrations of {service} failed:\n{said.decode(errors='replace')[-4000:]}"
        raise StackError(message, "a changed migration needs a new database: remove the sandbox's folder (make clean)")


def _service(site: Site, name: str) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", f"defray_{name}", "all"),
        env=site.service_environment(name),
        ready_url=f"{site.addresses.services[name].internal_url}/readyz",
    )


def _world(options: Options, site: Site) -> list[ProcessSpec]:
    channel, shop = site.addresses.channel, site.addresses.shop
    simulator = (
        sys.executable, "-m", "defray_sandbox.simulators.wechat", "--port", str(channel.public),
        "--control-port", str(channel.internal), "--state-file", str(options.folder / "channel.jsonl"),
        "--keys-dir", str(site.credentials.channel_side), "--mchid", MCHID, "--appid", APPID,
        *options.channel_arguments,
    )  # fmt: skip
    shops = (
        sys.executable, "-m", "defray_sandbox.demo_shop", "--port", str(shop.public),
        "--control-port", str(shop.internal),
    )  # fmt: skip
    env = inherited_environment()
    world = [
        ProcessSpec(name="channel", argv=simulator, env=env, ready_url=f"{channel.internal_url}/health"),
        ProcessSpec(name="shop", argv=shops, env=env, ready_url=f"{shop.internal_url}/health"),
    ]
    if alipay := site.addresses.alipay:
        gateway = (
            sys.executable, "-m", "defray_sandbox.simulators.alipay", "--port", str(alipay.public),
            "--control-port", str(alipay.internal), "--state-file", str(options.folder / "alipay.jsonl"),
            "--keys-dir", str(site.credentials.alipay_side), "--app-id", ALIPAY_APP_ID,
            "--seller-id", ALIPAY_SELLER_ID,
        )  # fmt: skip
        world.append(ProcessSpec(name="alipay", argv=gateway, env=env, ready_url=f"{alipay.internal_url}/health"))
    return world
