"""Builds the order service's object graph; the only place that picks implementations."""

import argparse
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from defray_kernel import event_log, idempotency, merchants, migrate, topics
from defray_kernel.clock import Clock, SandboxClock, SystemClock
from defray_kernel.consumer import Consumer
from defray_kernel.contracts import merchant_v1, order_inbound_v1, payment_v1
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Edge, TokenVerifier
from defray_kernel.kafka import Kafka
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import OperatorTokens
from defray_kernel.problems import registry
from defray_kernel.relay import Relay
from defray_kernel.roles import Task, Verb, Wiring
from defray_kernel.timers import Timer
from defray_kernel.wakeup import Wakeup
from defray_order import __version__
from defray_order.commands import ask_refund, place_order
from defray_order.commands.ask_refund import AskRefund
from defray_order.commands.ask_refund import Outcome as RefundOutcome
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.commands.place_order import Outcome, PlaceOrder
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.entrypoints import audit_verbs, inbound, inbound_desk, key_verbs
from defray_order.entrypoints.benefits import PROBLEMS as BENEFIT_PROBLEMS
from defray_order.entrypoints.benefits import BenefitsApi
from defray_order.entrypoints.buyers import BuyersApi
from defray_order.entrypoints.consumers import SUBSCRIPTIONS, begin
from defray_order.entrypoints.granting import granting_timer
from defray_order.entrypoints.http import PROBLEMS, OrdersApi
from defray_order.entrypoints.inbound_desk import InboundApi, InboundDesk
from defray_order.entrypoints.operator_orders import OperatorOrdersApi
from defray_order.entrypoints.operators import CasesApi
from defray_order.entrypoints.order_export import OrderExport
from defray_order.entrypoints.order_life import OperatorOrderLifeApi, OrderLifeApi
from defray_order.entrypoints.order_list import OrderList
from defray_order.entrypoints.payment_token import PaymentTokens
from defray_order.entrypoints.refund_requests import PROBLEMS as REFUND_PROBLEMS
from defray_order.entrypoints.refund_requests import Answers, RefundRequestsApi
from defray_order.entrypoints.timers import expiry_timer
from defray_order.entrypoints.write_edges import life_edges
from defray_order.settings import Settings

MIGRATIONS: Final = (
    migrate.KERNEL_MIGRATIONS,
    migrate.MERCHANT_MIGRATIONS,
    Path(__file__).parents[2] / "migrations",
)


class Declares(Protocol):
    """A group of routes."""

    def declare(self, edge: Edge) -> None: ...


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The whole graph. Raises Unavailable while Kafka is away, StartRefused when its topics are not as stated."""
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    tokens = _tokens(settings)
    operators = OperatorTokens.from_file(settings.operator_jwks_file, issuer=settings.operator_issuer)
    envelope = Envelope.from_file(settings.encryption_keys_file)
    kafka = Kafka.from_settings(settings)
    await _topics(settings, kafka)
    async with Database.open(
        settings.database_dsn, pool_size_max=settings.database_pool_max, name="defray-order"
    ) as database:
        wakeup = Wakeup(database)
        vault, codes = BuyerVault(database, envelope), CouponCodes(database, envelope)
        rejected = RejectedVault(database, envelope)
        committing = placing(database, clock, wakeup.poke)
        asking = asking_refunds(database, clock, wakeup.poke)
        life = life_edges(database, clock, wakeup.poke)
        directory = MerchantDirectory(
            merchants.projected(database), clock, caught_up=merchants.caught_up(database, kafka)
        )
        yield Wiring(
            database=database,
            clock=clock,
            public=public(
                [
                    OrderExport(database),
                    OrderList(database=database, envelope=envelope, vault=vault),
                    OrdersApi(database, committing, tokens, vault),
                    OrderLifeApi(database=database, edges=life),
                    BuyersApi(database, vault, clock),
                    RefundRequestsApi(database=database, asking=asking),
                    BenefitsApi(database=database, codes=codes, clock=clock),
                ],
                directory,
                tokens.verifier(clock),
            ),
            internal=internal(_desks(database, vault, rejected, clock), operators),
            group_commits=(committing, asking, *life.all),
            directory=directory,
            consumers=(
                _payments(database, kafka, clock, wakeup.poke),
                inbound_consumer(settings, database, kafka, clock, rejected, wakeup.poke),
                merchants.consumer("order", database, kafka, clock),
            ),
            relay=Relay(database, kafka),
            timers=(
                *_timers(database, kafka, clock, rejected, wakeup.poke),
                granting_timer(database, clock, codes, wakeup.poke),
            ),
            tasks=(
                Task(name="wakeup", role="all", run=wakeup.run),
                Task(name="audit anchor", role="timers", run=partial(audit_verbs.keep_anchoring, database)),
            ),
        )


def _timers(
    database: Database, kafka: Kafka, clock: Clock, rejected: RejectedVault, after_commit: Callable[[], None]
) -> tuple[Timer, ...]:
    return (
        idempotency.purge_timer(clock),
        event_log.partition_timer(database),
        inbound.waiting_timer(database, clock, rejected, lambda: merchants.caught_up(database, kafka), after_commit),
        inbound.purge_timer(clock),
        expiry_timer(clock, after_commit),
    )


def _desks(database: Database, vault: BuyerVault, rejected: RejectedVault, clock: Clock) -> list[Declares]:
    return [
        CasesApi(database, clock),
        InboundApi(InboundDesk(database, clock, rejected)),
        OperatorOrdersApi(database, vault, clock),
        OperatorOrderLifeApi(database=database, clock=clock),
    ]


def placing(
    database: Database, clock: Clock, after_commit: Callable[[], None] | None
) -> GroupCommit[PlaceOrder, Outcome]:
    """The group commit of new orders; both their keys find a first result again, so that a lost COMMIT is repeated."""
    return GroupCommit(
        "place_order",
        database,
        place_order.handle,
        clock,
        keys=place_order.serial_keys,
        natural_key=True,
        after_commit=after_commit,
    )


def asking_refunds(
    database: Database, clock: Clock, after_commit: Callable[[], None] | None
) -> GroupCommit[AskRefund, RefundOutcome]:
    """The group commit of refund requests; the idempotency key finds a first result again."""
    return GroupCommit(
        "ask_refund",
        database,
        partial(ask_refund.handle, answers=Answers(registry(*REFUND_PROBLEMS))),
        clock,
        keys=ask_refund.serial_keys,
        natural_key=True,
        after_commit=after_commit,
        connections=1,
    )


# In this order, which matters where one path could be taken for another's parameter.
PUBLIC: Final[Sequence[type[Declares]]] = (
    OrderExport,
    OrderList,
    OrdersApi,
    OrderLifeApi,
    BuyersApi,
    RefundRequestsApi,
    BenefitsApi,
)
INTERNAL: Final[Sequence[type[Declares]]] = (CasesApi, InboundApi, OperatorOrdersApi, OperatorOrderLifeApi)


def public(apis: Sequence[Declares], directory: MerchantDirectory | None, tokens: TokenVerifier | None = None) -> Edge:
    """The merchants' port: one of each of PUBLIC."""
    problems = registry(*PROBLEMS, *REFUND_PROBLEMS, *BENEFIT_PROBLEMS)
    edge = Edge(
        title="Defray order service", version=__version__, problems=problems, merchants=directory, tokens=tokens
    )
    _declare(edge, apis, PUBLIC)
    return edge


def internal(apis: Sequence[Declares], operators: OperatorTokens | None) -> Edge:
    """The operators' port: one of each of INTERNAL."""
    edge = Edge(title="Defray order service, operators", version=__version__, problems=registry(), operators=operators)
    _declare(edge, apis, INTERNAL)
    return edge


def openapi() -> dict[str, Any]:
    """The document of the merchants' port, made without running anything: only declarations are read."""
    return public([object.__new__(each) for each in PUBLIC], None).openapi()


def internal_openapi() -> dict[str, Any]:
    """The same of the operators' port."""
    return internal([object.__new__(each) for each in INTERNAL], None).openapi()


def _declare(edge: Edge, apis: Sequence[Declares], kinds: Sequence[type[Declares]]) -> None:
    by_kind = {type(api): api for api in apis}
    assert by_kind.keys() == set(kinds), "each group of routes stands in its list and is built once"
    for kind in kinds:
        by_kind[kind].declare(edge)


def _tokens(settings: Settings) -> PaymentTokens:
    return PaymentTokens.from_files(
        settings.token_private_key_file,
        settings.token_key_id,
        settings.token_other_public_key_file,
        settings.token_other_key_id,
    )


async def _topics(settings: Settings, kafka: Kafka) -> None:
    stated = topics.load(settings.topics_file)
    replication = 1 if settings.profile == "sandbox" else 3
    await topics.create(kafka, [t for t in stated.values() if t.owner == "order"], replication=replication)
    read = (payment_v1.TOPIC, merchant_v1.TOPIC)
    await topics.check(kafka, [t for t in stated.values() if t.owner == "order" or t.name in read])


def _payments(database: Database, kafka: Kafka, clock: Clock, after_commit: Callable[[], None]) -> Consumer:
    return Consumer(
        "payments",
        "order.payments",
        [payment_v1.TOPIC],
        SUBSCRIPTIONS,
        database,
        kafka,
        clock,
        lock=begin,
        after_commit=after_commit,
        version=__version__,
    )


def inbound_consumer(
    settings: Settings,
    database: Database,
    kafka: Kafka,
    clock: Clock,
    rejected: RejectedVault,
    after_commit: Callable[[], None],
) -> Consumer:
    """The door that other services publish to: nothing there is parked, and nothing counts toward a stop."""
    door = inbound.InboundDoor(clock, rejected, after_commit, waits_s=settings.inbound_merchant_wait_s)
    return Consumer(
        inbound.CONSUMER,
        "order.inbound",
        [order_inbound_v1.TOPIC],
        (),
        database,
        kafka,
        clock,
        take=door.take,
        after_commit=door.committed,
        version=__version__,
    )


async def _inbound(settings: Settings, arguments: argparse.Namespace) -> int:
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    async with Database.open(settings.database_dsn, pool_size_max=2, name="defray-order") as database:
        vault = RejectedVault(database, Envelope.from_file(settings.encryption_keys_file))
        return await inbound_desk.run_verb(InboundDesk(database, clock, vault), arguments)


async def _audit(settings: Settings, arguments: argparse.Namespace) -> int:
    async with Database.open(settings.database_dsn, pool_size_max=2, name="defray-order") as database:
        return await audit_verbs.run(database, arguments)


async def _rotate_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    if not settings.database_owner_dsn:
        raise ConfigInvalid("config_invalid: DEFRAY_ORDER_DATABASE_OWNER_DSN: is missing")
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    envelope = Envelope.from_file(settings.encryption_keys_file)
    async with Database.open(settings.database_owner_dsn, pool_size_max=2, name="defray-order-keys") as database:
        return await key_verbs.run(database, clock, envelope, arguments)


VERBS: Final = (
    Verb(name=audit_verbs.NAME, declare=audit_verbs.declare, run=_audit),
    Verb(name=inbound_desk.VERB, declare=inbound_desk.declare_verb, run=_inbound),
    Verb(name=key_verbs.NAME, declare=key_verbs.declare, run=_rotate_keys),
)
