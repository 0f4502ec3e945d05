"""Builds the notifier's object graph; the only place that picks implementations."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from defray_kernel import event_log, merchants, migrate, topics
from defray_kernel.clock import Clock, SandboxClock, SystemClock
from defray_kernel.consumer import Consumer
from defray_kernel.contracts import merchant_v1
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Edge
from defray_kernel.kafka import Kafka
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import OperatorTokens
from defray_kernel.problems import registry
from defray_kernel.relay import Relay
from defray_kernel.roles import Task, Wiring
from defray_kernel.wakeup import Wakeup
from defray_notifier import __version__
from defray_notifier.commands import add_endpoint, disable_endpoint, record_attempts
from defray_notifier.commands.add_endpoint import AddEndpoint
from defray_notifier.commands.disable_endpoint import DisableEndpoint
from defray_notifier.delivery.address_guard import Guard
from defray_notifier.delivery.client import WebhookClient
from defray_notifier.delivery.dispatcher import Dispatcher
from defray_notifier.delivery.signing import Secrets
from defray_notifier.domain.delivery import Attempt, DeliveryState
from defray_notifier.domain.endpoint import Decision
from defray_notifier.entrypoints import consumers
from defray_notifier.entrypoints.http import PROBLEMS, WebhooksApi
from defray_notifier.entrypoints.timers import deliver
from defray_notifier.settings import Settings

MIGRATIONS: Final = (
    migrate.KERNEL_MIGRATIONS,
    migrate.MERCHANT_MIGRATIONS,
    Path(__file__).parents[2] / "migrations",
)

_REQUESTS_WAITING_MAX: Final = 200
_RECORDS_WAITING_MAX: Final = 20_000
Adding = GroupCommit[AddEndpoint, Decision]
Disabling = GroupCommit[DisableEndpoint, bool]
Recording = GroupCommit[Attempt, DeliveryState]


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The whole graph. Raises Unavailable while Kafka is away, StartRefused when its topics are not as stated."""
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    operators = OperatorTokens.from_file(settings.operator_jwks_file, issuer=settings.operator_issuer)
    secrets = Secrets(Envelope.from_file(settings.encryption_keys_file))
    guard = Guard(allow_private=settings.allow_private_networks)
    kafka = Kafka.from_settings(settings)
    await _topics(settings, kafka)
    async with (
        Database.open(
            settings.database_dsn, pool_size_max=settings.database_pool_max, name="defray-notifier"
        ) as database,
        WebhookClient.open(guard) as client,
    ):
        wakeup, due = Wakeup(database), asyncio.Event()
        adding, disabling = adding_of(database, clock), disabling_of(database, clock)
        recording = recording_of(database, clock, wakeup.poke)
        dispatcher = Dispatcher(
            client,
            secrets,
            recording.submit,
            clock,
            in_flight_max=settings.in_flight_max,
            endpoint_in_flight_max=settings.endpoint_in_flight_max,
            wake=due,
        )
        directory = MerchantDirectory(
            merchants.projected(database), clock, caught_up=merchants.caught_up(database, kafka)
        )
        yield Wiring(
            database=database,
            clock=clock,
            public=public(WebhooksApi(database, adding, disabling, guard, secrets), directory),
            internal=internal(operators),
            group_commits=(adding, disabling, recording),
            directory=directory,
            consumers=(
                events_consumer(database, kafka, clock, due.set),
                merchants.consumer("notifier", database, kafka, clock),
            ),
            relay=Relay(database, kafka),
            timers=(deliver(dispatcher, clock, due), event_log.partition_timer(database)),
            tasks=(
                Task(name="wakeup", role="all", run=wakeup.run),
                Task(name="dispatch", role="timers", run=dispatcher.run),
            ),
        )


def adding_of(database: Database, clock: Clock) -> Adding:
    """New endpoints; the id given to each finds it again."""
    return GroupCommit(
        "add_endpoint",
        database,
        add_endpoint.handle,
        clock,
        keys=lambda command: [command.wish.merchant_id.hex],
        natural_key=True,
        connections=1,
        queue_max=_REQUESTS_WAITING_MAX,
    )


def disabling_of(database: Database, clock: Clock) -> Disabling:
    """Endpoints' ends; done again, they change nothing."""
    return GroupCommit(
        "disable_endpoint",
        database,
        disable_endpoint.handle,
        clock,
        keys=lambda command: [command.endpoint_id.hex],
        natural_key=True,
        connections=1,
        queue_max=_REQUESTS_WAITING_MAX,
    )


def recording_of(database: Database, clock: Clock, after_commit: Callable[[], None]) -> Recording:
    """Outcomes of attempts; the number of the attempt and the delivery's version make each repeatable."""
    return GroupCommit(
        "record_attempts",
        database,
        record_attempts.handle,
        clock,
        keys=lambda attempt: [attempt.claimed.delivery_id.hex],
        natural_key=True,
        queue_max=_RECORDS_WAITING_MAX,
        after_commit=after_commit,
    )


def events_consumer(database: Database, kafka: Kafka, clock: Clock, after_commit: Callable[[], None]) -> Consumer:
    """Public events into messages."""
    return Consumer(
        "events",
        "notifier.events",
        consumers.EVENTS_TOPICS,
        consumers.EVENTS,
        database,
        kafka,
        clock,
        after_commit=after_commit,
        version=__version__,
    )


def public(api: WebhooksApi, directory: MerchantDirectory | None) -> Edge:
    """The merchants' port."""
    edge = Edge(title="Defray notifier service", version=__version__, problems=registry(*PROBLEMS), merchants=directory)
    api.declare(edge)
    return edge


def internal(operators: OperatorTokens | None) -> Edge:
    """The operators' port; what every service has is added by the kernel."""
    return Edge(
        title="Defray notifier service, operators", version=__version__, problems=registry(), operators=operators
    )


def openapi() -> dict[str, Any]:
    """The document of the merchants' port, made without running anything: only declarations are read."""
    return public(object.__new__(WebhooksApi), None).openapi()


def internal_openapi() -> dict[str, Any]:
    """The same of the operators' port."""
    return internal(None).openapi()


async def _topics(settings: Settings, kafka: Kafka) -> None:
    stated = topics.load(settings.topics_file)
    replication = 1 if settings.profile == "sandbox" else 3
    await topics.create(kafka, [t for t in stated.values() if t.owner == "notifier"], replication=replication)
    read = (*consumers.EVENTS_TOPICS, merchant_v1.TOPIC)
    await topics.check(kafka, [t for t in stated.values() if t.owner == "notifier" or t.name in read])
