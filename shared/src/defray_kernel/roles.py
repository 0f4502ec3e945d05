"""The one entry of every service's image: http | consume | relay | timers | migrate | all, and the operator's verbs."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import structlog
import uvloop
from aiokafka.errors import KafkaError

from defray_kernel import crash, db, logging, migrate, operator_api, settings, supervise
from defray_kernel.clock import Clock, SystemClock
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid, StartRefused
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Edge
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.server import Ask, Internal, Listener
from defray_kernel.settings import ServiceSettings
from defray_kernel.supervise import Part, Stage
from defray_kernel.timers import Timer, run_timers, wait_for_stop

Role = Literal["http", "consume", "relay", "timers", "all"]
ROLES: Final[tuple[Role, ...]] = ("http", "consume", "relay", "timers", "all")

EXIT_USAGE: Final = 64

_RETRY_S: Final = 1.0
_MIGRATE_TRIES: Final = 60
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A part beside the usual ones (wake-up poker, channel poller): its name, the role it belongs to and its loop.

    `run(stopping)` works until `stopping` is set; returning earlier or raising takes the process down.
    """

    name: str
    role: Role  # "all" = in every role
    run: Callable[[asyncio.Event], Awaitable[None]]


class Runs(Protocol):
    """A Consumer or a Relay, seen from here: works until `stopping` is set."""

    async def run(self, stopping: asyncio.Event) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of /readyz: None when fine, else what is missing in a few words. Must answer within a second."""

    name: str
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The built object graph of one service; each role runs its part of it."""

    database: Database
    clock: Clock
    public: Edge
    internal: Edge  # operator API and sandbox controls; /livez /readyz /metrics and the parked-keys API are added here
    group_commits: Sequence[GroupCommit[Any, Any]] = ()  # every role but relay
    directory: MerchantDirectory | None = None  # role http: re-read, and ready before requests are let in
    consumers: Sequence[Runs] = ()  # role consume
    relay: Runs | None = None  # role relay
    timers: Sequence[Timer] = ()  # role timers
    tasks: Sequence[Task] = ()
    checks: Sequence[Check] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """An operator's verb of one service: its arguments, and what it does with the settings; returns the exit code."""

    name: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Any, argparse.Namespace], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """What makes a service; `name` is order | payment | settlement | notifier and gives the DEFRAY_<NAME>_ prefix.

    `wire(settings)` may raise while Postgres or Kafka are away: it is tried again. `migrations` are applied in order:
    KERNEL_MIGRATIONS, MERCHANT_MIGRATIONS (where merchants are projected), the service's own.
    """

    name: str
    schema: str
    version: str
    settings_class: type[ServiceSettings]
    wire: Callable[[Any], AbstractAsyncContextManager[Wiring]]
    migrations: Sequence[Path]
    verbs: Sequence[Verb] = ()

    @property
    def prefix(self) -> str:
        """Of its environment variables."""
        return f"DEFRAY_{self.name.upper()}_"


def main(service: ServiceDefinition, argv: Sequence[str]) -> int:
    """Run one role or verb and return the exit code: 0 done, 64 usage, 70 a part died, 75 try again, 78 configuration.

    `http | consume | relay | timers | all`, `migrate [--phase pre|post]`, the verbs of operator_api (`parked …`, `republish …`), and the service's own.
    """
    if not __debug__:
        sys.stderr.write("refused: assertions are off (python -O), and money code relies on them\n")
        return supervise.EXIT_CONFIG
    try:
        arguments = _parser(service).parse_args(argv)
    except SystemExit as error:
        return EXIT_USAGE if error.code else 0
    try:
        values = settings.load(service.settings_class, service.prefix)
        _refuse_in_production(values)
        logging.configure(service.name, values.log_level)
        if values.crash_at:
            crash.arm(values.crash_at)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(service, values, arguments))
    except Exception as error:  # noqa: BLE001 - told with its secrets masked, which the interpreter would not do
        return supervise.exit_code(error)


def _parser(service: ServiceDefinition) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"defray-{service.name}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for role in ROLES:
        verbs.add_parser(role)
    verbs.add_parser("migrate").add_argument("--phase", choices=("pre", "post"))
    operator_api.add_verbs(verbs)
    for verb in service.verbs:
        verb.declare(verbs.add_parser(verb.name))
    return parser


async def _run(service: ServiceDefinition, values: ServiceSettings, arguments: argparse.Namespace) -> int:
    match arguments.verb:
        case "migrate":
            return await _migrate(service, values, arguments.phase)
        case role if role in ROLES:
            return await _serve(service, values, role)
        case name if own := [verb for verb in service.verbs if verb.name == name]:
            return await own[0].run(values, arguments)
        case _:
            async with Database.open(values.database_dsn, pool_size_max=2, name=f"defray-{service.name}") as database:
                return await operator_api.run_verb(database, SystemClock(), arguments)


def _refuse_in_production(values: ServiceSettings) -> None:
    if values.profile != "production":
        return
    plain = [name for name, value in values if name.endswith(("_url", "_base")) and str(value).startswith("http://")]
    if plain:
        raise ConfigInvalid("config_invalid: production speaks TLS to " + ", ".join(plain))


async def _migrate(service: ServiceDefinition, values: ServiceSettings, phase: migrate.Phase | None) -> int:
    if not values.database_owner_dsn:
        raise ConfigInvalid(f"config_invalid: {service.prefix}DATABASE_OWNER_DSN: is missing")
    runtime_role = urlsplit(values.database_dsn).username or f"defray_{service.name}"
    for attempt in range(1, _MIGRATE_TRIES + 1):
        try:
            applied = await migrate.apply(
                values.database_owner_dsn, directories=service.migrations, phase=phase, runtime_role=runtime_role
            )
        except Exception as error:
            if not db.is_transient(error) or attempt == _MIGRATE_TRIES:
                raise
            await asyncio.sleep(_RETRY_S)
        else:
            _log.info("migrated", applied=applied)
            break
    return 0


async def _serve(service: ServiceDefinition, values: ServiceSettings, role: Role) -> int:
    """Internal port first, so that /readyz can say what is missing; then the graph; then the role's parts."""
    stop, internal_stop = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    structlog.contextvars.bind_contextvars(role=role)
    internal = Internal()
    door = _listen(internal, values.bind_host, values.internal_port)
    async with asyncio.TaskGroup() as group:
        group.create_task(door.run(internal_stop))
        watchdog = group.create_task(supervise.give_up_after(stop))
        try:
            async with AsyncExitStack() as stack:
                wiring = await _wired(service, values, stack, internal, stop)
                code = 0 if wiring is None else await _work(values, role, wiring, internal, stop)
        finally:
            internal_stop.set()
            watchdog.cancel()
    return code


async def _wired(
    service: ServiceDefinition, values: ServiceSettings, stack: AsyncExitStack, internal: Internal, stop: asyncio.Event
) -> Wiring | None:
    """The object graph, tried until Postgres and Kafka are there; None when told to stop before.

    Raises StartRefused when they are there and not fit: forgetful, behind, or ahead.
    """
    while not stop.is_set():
        try:
            async with AsyncExitStack() as attempt:
                wiring = await attempt.enter_async_context(service.wire(values))
                async with wiring.database.read() as connection:
                    await db.check_durability(connection)
                    await migrate.check_current(connection, service.migrations)
                if values.profile == "production" and (wiring.public.docs or wiring.internal.docs):
                    raise StartRefused("production does not show API documentation pages")
                stack.push_async_exit(attempt.pop_all())
                return wiring
        except Exception as error:
            if not (db.is_transient(error) or (isinstance(error, KafkaError) and error.retriable)):
                raise
            internal.waits_for = f"{type(error).__name__} while starting"
            _log.warning("start_waits", error=type(error).__name__)
        await wait_for_stop(stop, _RETRY_S)
    return None


async def _work(values: ServiceSettings, role: Role, wiring: Wiring, internal: Internal, stop: asyncio.Event) -> int:
    operator_api.add_routes(wiring.internal, wiring.database, wiring.clock)
    internal.checks = {check.name: check.ask for check in _checks(wiring, role)}
    internal.app = wiring.internal.app()
    parts = list(_parts(wiring, role))
    if role in {"http", "all"}:
        parts.append(Part("http", Stage.HTTP, _listen(wiring.public.app(), values.bind_host, values.public_port).run))
    # What lives for ever is not looked at again: 15 instead of 45 ms at the 99th percentile.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    _log.info("started", parts=[part.name for part in parts])
    code = await supervise.run(parts, stop)
    _log.info("stopped", code=code)
    return code


def _parts(wiring: Wiring, role: Role) -> Iterable[Part]:
    everything = role == "all"
    for task in wiring.tasks:
        if everything or task.role in {role, "all"}:
            # Of the http role: outlives the commits (a wake-up is poked after them).
            yield Part(task.name, Stage.WORK if task.role in {"consume", "timers"} else Stage.RELAY, task.run)
    if role != "relay":
        for commit in wiring.group_commits:
            yield Part(f"commit {commit.name}", Stage.COMMIT, supervise.until_stopped(commit.run, commit.stop))
        if wiring.directory is not None:
            yield Part("merchants", Stage.RELAY, wiring.directory.run)
    if everything or role == "consume":
        for consumer in wiring.consumers:
            yield Part(f"consume {getattr(consumer, 'name', '')}", Stage.WORK, consumer.run)
    if (everything or role == "timers") and wiring.timers:
        yield Part(
            "timers", Stage.WORK, lambda stopping: run_timers(wiring.database, wiring.timers, wiring.clock, stopping)
        )
    if (everything or role == "relay") and wiring.relay is not None:
        yield Part("relay", Stage.RELAY, wiring.relay.run)


def _checks(wiring: Wiring, role: Role) -> Iterable[Check]:
    async def postgres() -> str | None:
        async with wiring.database.read() as connection:
            await connection.fetchval("SELECT 1")
        return None

    async def merchants() -> str | None:
        return None if wiring.directory is None or wiring.directory.ready else "the merchant projection is behind"

    yield Check(name="postgres", ask=postgres)
    if role in {"http", "all"}:
        yield Check(name="merchants", ask=merchants)
    yield from wiring.checks


def _listen(app: Any, host: str, port: int) -> Listener:  # noqa: ANN401 - an ASGI application
    try:
        return Listener(app, host, port)
    except OSError as error:
        raise StartRefused(f"port {port} cannot be listened on: {os.strerror(error.errno or 0)}") from None
