"""Builds the payment service's object graph; the only place that picks implementations."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

import aiohttp

from defray_kernel import merchants, migrate, topics
from defray_kernel.clock import Clock, SandboxClock, SystemClock
from defray_kernel.consumer import Consumer
from defray_kernel.contracts import merchant_v1
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid
from defray_kernel.http import Edge
from defray_kernel.kafka import Kafka
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import OperatorTokens
from defray_kernel.problems import Problems, registry
from defray_kernel.relay import Relay
from defray_kernel.roles import Task, Verb, Wiring
from defray_kernel.wakeup import Wakeup
from defray_payment import __version__
from defray_payment.channels.build import Builder
from defray_payment.channels.guard import Limits
from defray_payment.channels.registry import Channels
from defray_payment.commands import (
    manage_accounts,
    project_order,
)
from defray_payment.commands.converse import Converser
from defray_payment.commands.manage_accounts import AddAccount
from defray_payment.commands.query_attempts import QueryAttempts
from defray_payment.commands.query_refunds import QueryRefunds
from defray_payment.commands.repair import Repair
from defray_payment.entrypoints import account_verbs, accounts, case_verbs, key_verbs, operators, seeds
from defray_payment.entrypoints.account_refresh import AccountRefresh
from defray_payment.entrypoints.accounts import AccountDesk, AccountsApi
from defray_payment.entrypoints.answers import PROBLEMS, Answers
from defray_payment.entrypoints.consumers import ORDERS_TOPIC, SUBSCRIPTIONS
from defray_payment.entrypoints.http import PaymentsApi
from defray_payment.entrypoints.listing import PaymentList
from defray_payment.entrypoints.operators import CaseDesk, CasesApi
from defray_payment.entrypoints.refunds import RefundsApi
from defray_payment.entrypoints.return_page import ReturnPage
from defray_payment.entrypoints.timers import timers
from defray_payment.entrypoints.tokens import PaymentTokens
from defray_payment.entrypoints.webhooks import Webhooks
from defray_payment.entrypoints.write_edges import Edges, write_edges
from defray_payment.settings import Settings

MIGRATIONS: Final = (
    migrate.KERNEL_MIGRATIONS,
    migrate.MERCHANT_MIGRATIONS,
    Path(__file__).parents[2] / "migrations",
)
_CHANNEL_CONNECTIONS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What hears merchants, channels and the time."""

    api: PaymentsApi
    listing: PaymentList
    refunds: RefundsApi
    webhooks: Webhooks
    return_page: ReturnPage
    querying: QueryAttempts
    refunding: QueryRefunds


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The whole graph. Raises ConfigInvalid when a channel could not verify, Unavailable while Kafka is away."""
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    known_operators = OperatorTokens.from_file(settings.operator_jwks_file, issuer=settings.operator_issuer)
    envelope = Envelope.from_file(settings.encryption_keys_file)
    kafka = Kafka.from_settings(settings)
    tokens = PaymentTokens.from_file(settings.order_token_jwks_file, clock)
    await _topics(settings, kafka)
    async with (
        Database.open(
            settings.database_dsn, pool_size_max=settings.database_pool_max, name="defray-payment"
        ) as database,
        channel_session() as session,
    ):
        wakeup = Wakeup(database)
        channels = Channels()
        refresh = AccountRefresh(
            database=database,
            envelope=envelope,
            builder=_builder(settings, session, clock),
            channels=channels,
            limits=Limits(rate_per_s=settings.channel_calls_per_s, burst=ceil(2 * settings.channel_calls_per_s)),
        )
        await _seed(settings, database, envelope, clock)
        await refresh.refresh()
        problems = registry(*PROBLEMS)
        answers = Answers(envelope, problems, clock)
        edges = write_edges(database, clock, answers, wakeup.poke)
        directory = MerchantDirectory(
            merchants.projected(database), clock, caught_up=merchants.caught_up(database, kafka)
        )
        doors = doors_of(
            database,
            channels,
            edges,
            envelope,
            answers,
            clock,
            settings.channel_timeout_s,
            return_base_url=settings.notify_base_url,
        )
        desk = account_desk(settings, database, envelope, clock)
        yield Wiring(
            database=database,
            clock=clock,
            public=public(doors, problems, directory, tokens),
            internal=internal(CasesApi(CaseDesk(database=database, clock=clock)), AccountsApi(desk), known_operators),
            group_commits=edges.all,
            directory=directory,
            consumers=(
                _orders(database, kafka, clock, wakeup.poke),
                merchants.consumer("payment", database, kafka, clock),
            ),
            relay=Relay(database, kafka),
            timers=timers(doors.querying, doors.refunding, database, clock),
            tasks=(
                Task(name="wakeup", role="all", run=wakeup.run),
                Task(name="accounts", role="all", run=refresh.run),
            ),
        )


@asynccontextmanager
async def channel_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Kept connections to channels: no proxy or cookie of the environment, no transparent decompression."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CHANNEL_CONNECTIONS_MAX),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield session


def account_desk(settings: Settings, database: Database, envelope: Envelope, clock: Clock) -> AccountDesk:
    """What operators do with channel accounts."""
    return AccountDesk(database=database, clock=clock, envelope=envelope, tls_only=settings.profile == "production")


def doors_of(
    database: Database,
    channels: Channels,
    edges: Edges,
    envelope: Envelope,
    answers: Answers,
    clock: Clock,
    channel_timeout_s: float,
    *,
    return_base_url: str | None = None,
) -> Doors:
    """The entry points over these write edges."""
    converser = Converser(clock=clock, envelope=envelope, return_base_url=return_base_url)
    asked: dict[str, Any] = {
        "database": database,
        "channels": channels,
        "converser": converser,
        "reporting": edges.reporting,
    }
    refunds: dict[str, Any] = {
        "database": database,
        "channels": channels,
        "clock": clock,
        "channel_timeout_s": channel_timeout_s,
    }
    return Doors(
        api=PaymentsApi(
            **asked,
            starting=edges.starting,
            recording=edges.recording,
            closing=edges.closing,
            repair=Repair(**asked, clock=clock, channel_timeout_s=channel_timeout_s),
            answers=answers,
            clock=clock,
            channel_timeout_s=channel_timeout_s,
        ),
        listing=PaymentList(database=database, envelope=envelope, answers=answers),
        refunds=RefundsApi(**refunds, asking=edges.asking_refunds, recording=edges.recording_refunds),
        webhooks=Webhooks(
            channels=channels,
            reporting=edges.reporting,
            refund_reporting=edges.reporting_refunds,
            database=database,
            envelope=envelope,
            clock=clock,
        ),
        return_page=ReturnPage(**asked),
        querying=QueryAttempts(**asked, channel_timeout_s=channel_timeout_s),
        refunding=QueryRefunds(**refunds, reporting=edges.reporting_refunds),
    )


def public(
    doors: Doors,
    problems: Problems,
    directory: MerchantDirectory | None,
    tokens: PaymentTokens | None,
) -> Edge:
    """The merchants' and channels' port."""
    edge = Edge(
        title="Defray payment service", version=__version__, problems=problems, merchants=directory, tokens=tokens
    )
    doors.api.declare(edge)
    doors.listing.declare(edge)
    doors.refunds.declare(edge)
    doors.webhooks.declare(edge)
    doors.return_page.declare(edge)
    return edge


def internal(cases: CasesApi, desk: AccountsApi, known_operators: OperatorTokens | None) -> Edge:
    """The operators' port."""
    edge = Edge(
        title="Defray payment service, operators",
        version=__version__,
        problems=registry(*accounts.PROBLEMS, *operators.PROBLEMS),
        operators=known_operators,
    )
    cases.declare(edge)
    desk.declare(edge)
    return edge


def declared_public() -> Edge:
    """The public port with nothing behind it: its declarations can be read, its handlers cannot run."""
    doors = Doors(
        api=object.__new__(PaymentsApi),
        listing=object.__new__(PaymentList),
        refunds=object.__new__(RefundsApi),
        webhooks=object.__new__(Webhooks),
        return_page=object.__new__(ReturnPage),
        querying=object.__new__(QueryAttempts),
        refunding=object.__new__(QueryRefunds),
    )
    return public(doors, registry(*PROBLEMS), None, None)


def declared_internal() -> Edge:
    """The same of the operators' port."""
    return internal(object.__new__(CasesApi), object.__new__(AccountsApi), None)


def openapi() -> dict[str, Any]:
    """The document of the public port, made without running anything."""
    return declared_public().openapi()


def internal_openapi() -> dict[str, Any]:
    """The same of the operators' port."""
    return declared_internal().openapi()


def _builder(settings: Settings, session: aiohttp.ClientSession, clock: Clock) -> Builder:
    return Builder(
        session=session,
        notify_base_url=settings.notify_base_url,
        clock=clock,
        timeout_s=settings.channel_timeout_s,
        tls_only=settings.profile == "production",
    )


async def _seed(settings: Settings, database: Database, envelope: Envelope, clock: Clock) -> None:
    """Take over the settings' accounts, once. Raises ConfigInvalid for one that could not sign or verify."""
    for wish in _seeds(settings):
        async with database.transaction() as tx:
            tls_only = settings.profile == "production"
            await manage_accounts.seed(wish, tx, clock, envelope=envelope, tls_only=tls_only)


def _seeds(settings: Settings) -> list[AddAccount]:
    found = []
    if (account := settings.wechat_seed) is not None:
        found.append(seeds.wechat(base_url=settings.wechat_base_url, **account))
    if (account := settings.alipay_seed) is not None:
        found.append(seeds.alipay(gateway_url=settings.alipay_gateway_url, **account))
    return found


async def _channel_account(settings: Settings, arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    envelope = Envelope.from_file(settings.encryption_keys_file)
    async with Database.open(settings.database_dsn, pool_size_max=2, name="defray-payment") as database:
        return await account_verbs.run(account_desk(settings, database, envelope, clock), arguments)


async def _cases(settings: Settings, arguments: argparse.Namespace) -> int:
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    async with Database.open(settings.database_dsn, pool_size_max=2, name="defray-payment") as database:
        return await case_verbs.run(CaseDesk(database=database, clock=clock), arguments)


async def _rotate_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    if not settings.database_owner_dsn:
        raise ConfigInvalid("config_invalid: DEFRAY_PAYMENT_DATABASE_OWNER_DSN: is missing")
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    envelope = Envelope.from_file(settings.encryption_keys_file)
    async with Database.open(settings.database_owner_dsn, pool_size_max=2, name="defray-payment-keys") as database:
        return await key_verbs.run(database, clock, envelope, arguments)


VERBS: Final = (
    Verb(name=key_verbs.NAME, declare=key_verbs.declare, run=_rotate_keys),
    Verb(name=account_verbs.NAME, declare=account_verbs.declare, run=_channel_account),
    Verb(name=case_verbs.NAME, declare=case_verbs.declare, run=_cases),
)


async def _topics(settings: Settings, kafka: Kafka) -> None:
    stated = topics.load(settings.topics_file)
    replication = 1 if settings.profile == "sandbox" else 3
    await topics.create(kafka, [t for t in stated.values() if t.owner == "payment"], replication=replication)
    read = (ORDERS_TOPIC, merchant_v1.TOPIC)
    await topics.check(kafka, [t for t in stated.values() if t.owner == "payment" or t.name in read])


def _orders(database: Database, kafka: Kafka, clock: Clock, after_commit: Callable[[], None]) -> Consumer:
    return Consumer(
        "orders",
        "payment.orders",
        [ORDERS_TOPIC],
        SUBSCRIPTIONS,
        database,
        kafka,
        clock,
        lock=project_order.lock,
        after_commit=after_commit,
        version=__version__,
    )
