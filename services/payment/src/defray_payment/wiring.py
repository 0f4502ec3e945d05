"""Builds the payment service's object graph; the only place that picks implementations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from defray_kernel import merchants, migrate, topics
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
from defray_kernel.problems import Problems, registry
from defray_kernel.relay import Relay
from defray_kernel.roles import Task, Wiring
from defray_kernel.wakeup import Wakeup
from defray_payment import __version__
from defray_payment.channels.registry import Channels
from defray_payment.channels.wechat import keys as wechat_keys
from defray_payment.channels.wechat.channel import CAPABILITIES as WECHAT
from defray_payment.channels.wechat.channel import WechatChannel
from defray_payment.commands import apply_channel_report, ask_close, project_order, record_answer, start_payment
from defray_payment.commands.apply_channel_report import Applied, ApplyChannelReport
from defray_payment.commands.ask_close import AskClose
from defray_payment.commands.converse import Converser
from defray_payment.commands.query_attempts import QueryAttempts
from defray_payment.commands.record_answer import RecordAnswer
from defray_payment.commands.start_payment import StartOutcome, StartPayment, Told
from defray_payment.domain.reports import ChannelAccount
from defray_payment.entrypoints.answers import PROBLEMS, Answers
from defray_payment.entrypoints.consumers import ORDERS_TOPIC, SUBSCRIPTIONS
from defray_payment.entrypoints.http import PaymentsApi
from defray_payment.entrypoints.operators import CasesApi
from defray_payment.entrypoints.timers import timers
from defray_payment.entrypoints.tokens import PaymentTokens
from defray_payment.entrypoints.webhooks import Webhooks
from defray_payment.settings import Settings
from defray_payment.store.payments import Found

MIGRATIONS: Final = (
    migrate.KERNEL_MIGRATIONS,
    migrate.MERCHANT_MIGRATIONS,
    Path(__file__).parents[2] / "migrations",
)
_CHANNEL_CONNECTIONS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """The write edges: what callers submit to and wait for. Each finds its own first result again when run twice."""

    starting: GroupCommit[StartPayment, StartOutcome]
    recording: GroupCommit[RecordAnswer, Told]
    reporting: GroupCommit[ApplyChannelReport, Applied]
    closing: GroupCommit[AskClose, Found]

    @property
    def all(self) -> tuple[GroupCommit[Any, Any], ...]:
        """For the roles that run them."""
        return self.starting, self.recording, self.reporting, self.closing


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What hears merchants, channels and the time."""

    api: PaymentsApi
    webhooks: Webhooks
    querying: QueryAttempts


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The whole graph. Raises ConfigInvalid when a channel could not verify, Unavailable while Kafka is away."""
    clock = SystemClock() if settings.sandbox_clock_file is None else SandboxClock(settings.sandbox_clock_file)
    operators = OperatorTokens.from_file(settings.operator_jwks_file, issuer=settings.operator_issuer)
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
        channels = Channels([wechat(settings, session, clock)])
        problems = registry(*PROBLEMS)
        answers = Answers(envelope, problems, clock)
        edges = write_edges(database, clock, answers, wakeup.poke)
        directory = MerchantDirectory(
            merchants.projected(database), clock, caught_up=merchants.caught_up(database, kafka)
        )
        doors = doors_of(database, channels, edges, envelope, answers, clock, settings.channel_timeout_s)
        yield Wiring(
            database=database,
            clock=clock,
            public=public(doors.api, doors.webhooks, problems, directory, tokens),
            internal=internal(CasesApi(database, clock), operators),
            group_commits=edges.all,
            directory=directory,
            consumers=(
                _orders(database, kafka, clock, wakeup.poke),
                merchants.consumer("payment", database, kafka, clock),
            ),
            relay=Relay(database, kafka),
            timers=timers(doors.querying, database, clock),
            tasks=(Task(name="wakeup", role="all", run=wakeup.run),),
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


def wechat(settings: Settings, session: aiohttp.ClientSession, clock: Clock) -> WechatChannel:
    """The WeChat account of the settings."""
    return WechatChannel(
        session=session,
        base_url=settings.wechat_base_url,
        account=ChannelAccount(merchant_ref=settings.wechat_mchid, app_ref=settings.wechat_appid),
        keys=wechat_keys.load(
            merchant_private_file=settings.wechat_merchant_private_key_file,
            merchant_serial=settings.wechat_merchant_serial,
            platform_dir=settings.wechat_platform_keys_dir,
            apiv3_key_file=settings.wechat_apiv3_key_file,
        ),
        notify_url=f"{settings.notify_base_url}/v1/webhooks/{WECHAT.channel}",
        clock=clock,
        timeout_s=settings.channel_timeout_s,
    )


def write_edges(database: Database, clock: Clock, answers: Answers, after_commit: Callable[[], None] | None) -> Edges:
    """The group commits of this service."""
    return Edges(
        starting=GroupCommit(
            "start_payment",
            database,
            partial(start_payment.handle, answers=answers),
            clock,
            keys=start_payment.keys,
            natural_key=True,
            after_commit=after_commit,
        ),
        recording=GroupCommit(
            "record_answer",
            database,
            partial(record_answer.handle, answers=answers),
            clock,
            keys=record_answer.keys,
            natural_key=True,
            resolve=record_answer.resolve,
            after_commit=after_commit,
        ),
        reporting=GroupCommit(
            "apply_channel_report",
            database,
            apply_channel_report.handle,
            clock,
            keys=apply_channel_report.keys,
            natural_key=True,
            resolve=apply_channel_report.resolve,
            after_commit=after_commit,
        ),
        closing=GroupCommit(
            "ask_close", database, ask_close.handle, clock, keys=ask_close.keys, natural_key=True, connections=1
        ),
    )


def doors_of(
    database: Database,
    channels: Channels,
    edges: Edges,
    envelope: Envelope,
    answers: Answers,
    clock: Clock,
    channel_timeout_s: float,
) -> Doors:
    """The entry points over these write edges."""
    converser = Converser(clock=clock, envelope=envelope)
    return Doors(
        api=PaymentsApi(
            database=database,
            starting=edges.starting,
            recording=edges.recording,
            reporting=edges.reporting,
            closing=edges.closing,
            channels=channels,
            converser=converser,
            answers=answers,
            clock=clock,
            channel_timeout_s=channel_timeout_s,
        ),
        webhooks=Webhooks(
            channel=channels.get(WECHAT.channel),
            reporting=edges.reporting,
            database=database,
            envelope=envelope,
            clock=clock,
        ),
        querying=QueryAttempts(
            channels=channels,
            converser=converser,
            reporting=edges.reporting,
            channel_timeout_s=channel_timeout_s,
        ),
    )


def public(
    api: PaymentsApi,
    webhooks: Webhooks,
    problems: Problems,
    directory: MerchantDirectory | None,
    tokens: PaymentTokens | None,
) -> Edge:
    """The merchants' and channels' port."""
    edge = Edge(
        title="Defray payment service", version=__version__, problems=problems, merchants=directory, tokens=tokens
    )
    api.declare(edge)
    webhooks.declare(edge)
    return edge


def internal(api: CasesApi, operators: OperatorTokens | None) -> Edge:
    """The operators' port."""
    edge = Edge(
        title="Defray payment service, operators", version=__version__, problems=registry(), operators=operators
    )
    api.declare(edge)
    return edge


def openapi() -> dict[str, Any]:
    """The document of the public port, made without running anything: only declarations are read."""
    webhooks = object.__new__(Webhooks)
    object.__setattr__(webhooks, "channel", _Declared())
    return public(object.__new__(PaymentsApi), webhooks, registry(*PROBLEMS), None, None).openapi()


def internal_openapi() -> dict[str, Any]:
    """The same of the operators' port."""
    return internal(object.__new__(CasesApi), None).openapi()


class _Declared:
    """As much of a channel as a declaration reads."""

    capabilities = WECHAT


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
