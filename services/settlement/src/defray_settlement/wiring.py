"""Builds the settlement service's object graph; the only place that picks implementations."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from defray_kernel import event_log, migrate, topics
from defray_kernel.clock import Clock, SandboxClock, SystemClock
from defray_kernel.consumer import Consumer
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Edge
from defray_kernel.kafka import Kafka
from defray_kernel.merchants import Load, MerchantDirectory
from defray_kernel.operators import OperatorTokens
from defray_kernel.problems import registry
from defray_kernel.relay import Relay
from defray_kernel.roles import Task, Wiring
from defray_kernel.wakeup import Wakeup
from defray_settlement import __version__, announce
from defray_settlement.commands import change_merchant, register_merchant
from defray_settlement.commands.change_merchant import ChangeMerchant
from defray_settlement.commands.register_merchant import NameTaken, Registered, RegisterMerchant
from defray_settlement.domain.merchant import MerchantStatus
from defray_settlement.entrypoints import consumers, operators
from defray_settlement.entrypoints.http import LedgerApi
from defray_settlement.entrypoints.operators import RegistryApi
from defray_settlement.entrypoints.timers import timers
from defray_settlement.settings import Settings
from defray_settlement.store import merchants

MIGRATIONS: Final = (migrate.KERNEL_MIGRATIONS, Path(__file__).parents[2] / "migrations")

_ACTS_WAITING_MAX: Final = 100
Registering = GroupCommit[RegisterMerchant, Registered | NameTaken]
Changing = GroupCommit[ChangeMerchant, change_merchant.Outcome]


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The running service; everything it opens is closed at the end."""
    clock = SandboxClock(settings.sandbox_clock_file) if settings.sandbox_clock_file else SystemClock()
    kafka = Kafka.from_settings(settings)
    operator_tokens = OperatorTokens.from_file(settings.operator_jwks_file, issuer=settings.operator_issuer)
    await _topics(settings, kafka)
    async with Database.open(
        settings.database_dsn, pool_size_max=settings.database_pool_max, name="defray-settlement"
    ) as database:
        wakeup = Wakeup(database)
        directory = MerchantDirectory(registered(database), clock)
        registering = registering_of(database, clock, wakeup.poke)
        changing = changing_of(database, clock, wakeup.poke)
        yield Wiring(
            database=database,
            clock=clock,
            public=public(LedgerApi(database), directory),
            internal=internal(RegistryApi(database, registering, changing, clock), operator_tokens),
            group_commits=(registering, changing),
            directory=directory,
            consumers=(
                payments_consumer(database, kafka, clock, wakeup.poke),
                orders_consumer(database, kafka, clock, wakeup.poke),
            ),
            relay=Relay(database, kafka),
            timers=(*timers(clock, wakeup.poke), event_log.partition_timer(database)),
            tasks=(Task(name="wakeup", role="all", run=wakeup.run),),
        )


def registered(database: Database) -> Load:
    """Loads the directory from the registry itself, which this service owns: no topic of its own to wait for."""

    async def load() -> Sequence[MerchantState]:
        async with database.read() as conn:
            everyone = await merchants.everyone(conn)
        return [announce.merchant_state(m) for m in everyone if m.status is not MerchantStatus.DISABLED]

    return load


def registering_of(database: Database, clock: Clock, after_commit: Callable[[], None]) -> Registering:
    """Registrations; a name is its own natural key."""
    return GroupCommit(
        "register_merchant",
        database,
        register_merchant.handle,
        clock,
        keys=lambda command: [command.registration.name],
        natural_key=True,
        connections=1,
        queue_max=_ACTS_WAITING_MAX,
        after_commit=after_commit,
    )


def changing_of(database: Database, clock: Clock, after_commit: Callable[[], None]) -> Changing:
    """Acts on merchants; done again, each finds that it was done."""
    return GroupCommit(
        "change_merchant",
        database,
        change_merchant.handle,
        clock,
        keys=lambda command: [command.merchant_id.hex],
        natural_key=True,
        connections=1,
        queue_max=_ACTS_WAITING_MAX,
        after_commit=after_commit,
    )


def payments_consumer(database: Database, kafka: Kafka, clock: Clock, after_commit: Callable[[], None]) -> Consumer:
    """Payment events into the books."""
    return Consumer(
        "payments",
        "settlement.payments",
        [consumers.PAYMENTS_TOPIC],
        consumers.PAYMENTS,
        database,
        kafka,
        clock,
        lock=consumers.lock_accounts,
        after_commit=after_commit,
        version=__version__,
    )


def orders_consumer(database: Database, kafka: Kafka, clock: Clock, after_commit: Callable[[], None]) -> Consumer:
    """Order events that change what late money is."""
    return Consumer(
        "orders",
        "settlement.orders",
        [consumers.ORDERS_TOPIC],
        consumers.ORDERS,
        database,
        kafka,
        clock,
        lock=consumers.lock_reopened,
        after_commit=after_commit,
        version=__version__,
    )


def public(api: LedgerApi, directory: MerchantDirectory | None) -> Edge:
    """The merchants' port."""
    edge = Edge(title="Defray settlement service", version=__version__, problems=registry(), merchants=directory)
    api.declare(edge)
    return edge


def internal(api: RegistryApi, tokens: OperatorTokens | None) -> Edge:
    """The operators' port."""
    edge = Edge(
        title="Defray settlement service, operators",
        version=__version__,
        problems=registry(*operators.PROBLEMS),
        operators=tokens,
    )
    api.declare(edge)
    return edge


def openapi() -> dict[str, Any]:
    """The document of the merchants' port, made without running anything: only declarations are read."""
    return public(object.__new__(LedgerApi), None).openapi()


def internal_openapi() -> dict[str, Any]:
    """The same of the operators' port."""
    return internal(object.__new__(RegistryApi), None).openapi()


async def _topics(settings: Settings, kafka: Kafka) -> None:
    stated = topics.load(settings.topics_file)
    replication = 1 if settings.profile == "sandbox" else 3
    await topics.create(kafka, [t for t in stated.values() if t.owner == "settlement"], replication=replication)
    await topics.check(
        kafka,
        [
            t
            for t in stated.values()
            if t.owner == "settlement" or t.name in {consumers.PAYMENTS_TOPIC, consumers.ORDERS_TOPIC}
        ],
    )
