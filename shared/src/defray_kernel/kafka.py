"""Kafka clients built from settings, started with patience and stopped within a time limit; aiokafka's corners stay here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaConnectionError, KafkaError

from defray_kernel.db import backoff_s
from defray_kernel.errors import Unavailable
from defray_kernel.settings import ServiceSettings

_log = structlog.get_logger()

BATCH_BYTES_MAX: Final = 512 * 1024
"""Of one produced batch; below the topics' max.message.bytes, which limits batches and not records."""
REQUEST_TIMEOUT_MS: Final = 10_000
_START_WITHIN_S: Final = 60.0
_STOP_WITHIN_S: Final = 10.0


Client: TypeAlias = AIOKafkaProducer | AIOKafkaConsumer | AIOKafkaAdminClient
C = TypeVar("C", AIOKafkaProducer, AIOKafkaConsumer, AIOKafkaAdminClient)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kafka:
    """Where the brokers are and how to speak to them. Each call makes a new, started client."""

    bootstrap: str
    security: str = "PLAINTEXT"
    tls: ssl.SSLContext | None = None
    sasl_mechanism: str = "PLAIN"
    sasl_username: str = ""
    sasl_password: str = ""
    session_timeout_ms: int = 15_000
    start_within_s: float = _START_WITHIN_S

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> Kafka:
        """Read certificates and password from their mounted files. Raises OSError when one is missing."""
        tls = None
        if settings.kafka_security in {"SSL", "SASL_SSL"}:
            tls = ssl.create_default_context(cafile=_path(settings.kafka_tls_ca_file))
            if settings.kafka_tls_cert_file is not None:
                tls.load_cert_chain(settings.kafka_tls_cert_file, _path(settings.kafka_tls_key_file))
        password = settings.kafka_sasl_password_file
        return cls(
            bootstrap=settings.kafka_bootstrap,
            security=settings.kafka_security,
            tls=tls,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=password.read_text("utf-8").strip() if password is not None else "",
            session_timeout_ms=settings.kafka_session_timeout_ms,
        )

    async def producer(self) -> AIOKafkaProducer:
        """An idempotent producer for the batch API (`linger_ms=0`: an open batch would wait). Raises Unavailable."""
        return await self._started(
            lambda: AIOKafkaProducer(
                **self.common(),
                acks="all",
                enable_idempotence=True,
                # Not lz4: the client compresses with its slowest level, 33 µs a KB against 4, half of all that the relay did.
                compression_type="snappy",
                linger_ms=0,
                max_batch_size=BATCH_BYTES_MAX,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
        )

    async def consumer(
        self,
        group: str,
        topics: Sequence[str],
        listener: Callable[[AIOKafkaConsumer], ConsumerRebalanceListener],
        *,
        batch_max: int = 500,
    ) -> AIOKafkaConsumer:
        """A member of `group` that commits nothing by itself and never guesses an offset. Raises Unavailable."""

        def make() -> AIOKafkaConsumer:
            consumer = AIOKafkaConsumer(
                **self.common(),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                # One assignor: JoinGroup is sent once per assignor.
                partition_assignment_strategy=(RoundRobinPartitionAssignor,),
                session_timeout_ms=self.session_timeout_ms,
                heartbeat_interval_ms=max(200, self.session_timeout_ms // 5),
                rebalance_timeout_ms=max(5_000, self.session_timeout_ms),
                max_poll_interval_ms=300_000,
                fetch_max_wait_ms=250,
                max_partition_fetch_bytes=1_048_576,
                max_poll_records=batch_max,
                request_timeout_ms=max(REQUEST_TIMEOUT_MS, self.session_timeout_ms + 5_000),
            )
            consumer.subscribe(topics=list(topics), listener=listener(consumer))
            return consumer

        return await self._started(make)

    async def end_offsets(self, topic: str) -> dict[int, int]:
        """Where each partition of a topic ends now. Raises Unavailable, also while the topic is not there."""
        admin, client = await self.admin(), None
        try:
            # A consumer without a subscription keeps no partitions of any topic; the admin client asks.
            (described,) = await admin.describe_topics([topic])
            parts = [TopicPartition(topic, part["partition"]) for part in described["partitions"]]
            if described["error_code"] != 0 or not parts:
                raise Unavailable(f"there is no topic {topic} yet")
            client = await self._started(lambda: AIOKafkaConsumer(**self.common(), enable_auto_commit=False))
            return {part.partition: end for part, end in (await client.end_offsets(parts)).items()}
        except KafkaError as error:
            raise Unavailable(f"Kafka at {self.bootstrap}: {type(error).__name__}") from error
        finally:
            for each in (admin, client):
                if each is not None:
                    await stop(each)

    async def admin(self) -> AIOKafkaAdminClient:
        """A client that creates and describes topics. Raises Unavailable."""
        return await self._started(lambda: AIOKafkaAdminClient(**self.common()))

    def common(self) -> dict[str, Any]:
        """What every client needs to reach the brokers."""
        common: dict[str, Any] = {"bootstrap_servers": self.bootstrap, "security_protocol": self.security}
        if self.tls is not None:
            common["ssl_context"] = self.tls
        if self.security.startswith("SASL"):
            common |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        return common

    async def _started(self, make: Callable[[], C]) -> C:
        # start() on a dead port raises at once and leaves a half-open client behind, which must be stopped.
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.start_within_s
        attempt = 0
        while True:
            client = make()
            try:
                async with asyncio.timeout_at(give_up_at):
                    await client.start()
                return client
            except (KafkaConnectionError, KafkaError, OSError, TimeoutError) as error:
                await stop(client)
                if loop.time() >= give_up_at:
                    raise Unavailable(f"Kafka at {self.bootstrap}: {type(error).__name__}") from error
                attempt += 1
                _log.warning("kafka_not_there_yet", bootstrap=self.bootstrap, error=type(error).__name__)
                await asyncio.sleep(backoff_s(attempt, base_s=0.1, cap_s=2.0))
            except BaseException:
                await stop(client)
                raise


async def stop(client: Client, *, within_s: float = _STOP_WITHIN_S) -> bool:
    """Stop a client; False when it did not stop in time (a frozen broker) or failed, and must be taken for undead."""
    try:
        async with asyncio.timeout(within_s):
            if isinstance(client, AIOKafkaAdminClient):
                await client.close()
            else:
                await client.stop()  # type: ignore[no-untyped-call]  # the library gives no types
    except (TimeoutError, KafkaError, OSError) as error:
        _log.warning("kafka_client_did_not_stop", error=type(error).__name__)
        return False
    return True


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
