"""Merchants as this service knows them: a projection of the registry's topic, and the directory that API keys are checked in."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import structlog

from defray_kernel import ids, metrics
from defray_kernel.applying import Subscription
from defray_kernel.clock import Clock
from defray_kernel.consumer import Consumer
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.merchant_v1 import TOPIC, ApiKeyV1, MerchantState
from defray_kernel.db import Database, WriteTx, is_transient
from defray_kernel.ids import MerchantId
from defray_kernel.kafka import Kafka
from defray_kernel.parking import Record
from defray_kernel.sql import queries
from defray_kernel.timers import wait_for_stop

Q = queries(__file__)

CONSUMER: Final = "merchants"
REREAD_S: Final = 15.0
MERCHANTS_MAX: Final = 100_000
_MISS_REREAD_S: Final = 1.0
_API_KEY_CHARACTERS_MAX: Final = 200
_log = structlog.get_logger()

Load: TypeAlias = Callable[[], Awaitable[Sequence[MerchantState]]]
CaughtUp: TypeAlias = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merchant:
    """A caller who proved to be this merchant with one of its API keys."""

    merchant_id: MerchantId
    state: MerchantState
    key_id: str
    scopes: frozenset[str]


async def project(events: Sequence[Event[MerchantState]], tx: WriteTx, _clock: Clock) -> None:
    """Consumer handler: keep each merchant's newest state; an older one, sent again, changes nothing."""
    newest = {event.data.merchant_id: event for event in sorted(events, key=lambda event: event.sequence)}
    rows = [
        (
            ids.parse("mer", event.data.merchant_id),
            event.sequence,
            event.data.status,
            msgspec.json.encode(event.data),
            ",".join(key.sha256 for key in event.data.api_keys),
            event.data.changed_at,
        )
        for event in newest.values()
    ]
    if rows:
        await tx.execute(Q.project, *map(list, zip(*rows, strict=True)))


async def disable_unreadable(record_key: bytes | None, reason: str, tx: WriteTx, clock: Clock) -> None:
    """What to do with a record that does not parse: disable that merchant and page; a state topic never parks.

    A newer readable record enables the merchant again.
    """
    metrics.count("merchant_unreadable")
    try:
        merchant_id = ids.parse("mer", (record_key or b"").decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        _log.error("merchant_state_unreadable", merchant="unknown", reason=reason)
        return
    _log.error("merchant_state_unreadable", merchant=ids.show("mer", merchant_id), reason=reason)
    await tx.execute(Q.disable, merchant_id, clock.real())


def consumer(service: str, database: Database, kafka: Kafka, clock: Clock) -> Consumer:
    """The consumer that feeds the projection; one per service."""

    async def unreadable(record: Record, error: Exception, tx: WriteTx) -> None:
        await disable_unreadable(record.key, str(error), tx, clock)

    subscriptions = [Subscription(MerchantState, project)]
    group = f"{service}.{CONSUMER}"
    return Consumer(CONSUMER, group, [TOPIC], subscriptions, database, kafka, clock, on_unreadable=unreadable)


def caught_up(database: Database, kafka: Kafka) -> CaughtUp:
    """Whether the projection has reached the end of the topic as it was when first asked, in whichever process."""
    ends: dict[int, int] = {}

    async def reached() -> bool:
        if not ends:
            ends.update(await kafka.end_offsets(TOPIC))
        async with database.read() as connection:
            rows = await connection.fetch(Q.stored_offsets, CONSUMER, TOPIC)
        stored = {row["part"]: row["next_offset"] for row in rows}
        return all(stored.get(part, 0) >= end for part, end in ends.items())

    return reached


def projected(database: Database) -> Load:
    """Loads the directory from the projection."""

    async def load() -> Sequence[MerchantState]:
        async with database.read() as connection:
            rows = await connection.fetch(Q.all, MERCHANTS_MAX)
        return [msgspec.json.decode(row["state"], type=MerchantState) for row in rows if row["status"] == "ACTIVE"]

    return load


class MerchantDirectory:
    """Merchants in memory, read again every 15 s, and at most once a second when an unknown key is shown.

    `caught_up` says whether the projection has reached the end of the topic as it was at start; until then, and until
    the first read, `ready` is False and the edge answers 503, not 401.
    """

    def __init__(self, load: Load, clock: Clock, *, caught_up: CaughtUp | None = None) -> None:
        self._load, self._clock, self._caught_up = load, clock, caught_up
        self._by_hash: Mapping[bytes, tuple[Merchant, ApiKeyV1]] = {}
        self._by_id: Mapping[MerchantId, MerchantState] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self.ready = False

    def get(self, merchant_id: MerchantId) -> MerchantState | None:
        """An active merchant; None when unknown or disabled."""
        return self._by_id.get(merchant_id)

    async def authenticate(self, api_key: str) -> Merchant | None:
        """The active merchant whose unexpired key this is, else None, whatever the reason."""
        if not api_key.startswith("sk_") or len(api_key) > _API_KEY_CHARACTERS_MAX:
            return None
        digest = hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).digest()
        found = self._by_hash.get(digest)
        if found is None:
            await self._reread(_MISS_REREAD_S)
            found = self._by_hash.get(digest)
        if found is None:
            return None
        merchant, key = found
        # The look-up above compares hashes of secrets, not secrets; this compares once more without a shortcut.
        if not hmac.compare_digest(bytes.fromhex(key.sha256), digest):
            return None
        if key.expires_at is not None and key.expires_at <= self._clock.real():
            return None
        return merchant

    async def run(self, stopping: asyncio.Event) -> None:
        """Read until told to stop; a database that is away leaves what is known in place."""
        while not stopping.is_set():
            await self._reread(0.0)
            await wait_for_stop(stopping, REREAD_S if self.ready else 0.5)

    async def _reread(self, older_than_s: float) -> None:
        if time.monotonic() - self._read_at < older_than_s:
            return
        async with self._reading:
            if time.monotonic() - self._read_at < older_than_s:
                return
            try:
                caught_up = self.ready or self._caught_up is None or await self._caught_up()
                states = await self._load()
            except Exception as error:
                if not is_transient(error):
                    raise
                _log.warning("merchant_directory_waits", error=type(error).__name__)
                return
            finally:
                self._read_at = time.monotonic()
            self._by_hash = {
                bytes.fromhex(key.sha256): (_caller(state, key), key) for state in states for key in state.api_keys
            }
            self._by_id = {MerchantId(ids.parse("mer", state.merchant_id)): state for state in states}
            self.ready = caught_up


def _caller(state: MerchantState, key: ApiKeyV1) -> Merchant:
    merchant_id = MerchantId(ids.parse("mer", state.merchant_id))
    return Merchant(merchant_id=merchant_id, state=state, key_id=key.key_id, scopes=frozenset(key.scopes))
