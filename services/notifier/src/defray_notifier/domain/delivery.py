"""A delivery and the rule it moves by: what an attempt's answer makes of it."""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never
from uuid import UUID

from defray_kernel.ids import DeliveryId, EndpointId, MerchantId, MessageId
from defray_notifier.domain import retry_schedule


class DeliveryState(StrEnum):
    """PENDING → DELIVERED | EXHAUSTED."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    EXHAUSTED = "EXHAUSTED"


class Result(StrEnum):
    """What one attempt came to."""

    ACCEPTED = "accepted"  # 2xx
    FAILED = "failed"  # any other answer, or none
    GONE = "gone"  # 410: the endpoint wants no more
    ENDPOINT_DISABLED = "endpoint_disabled"  # not even tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery whose next attempt is ours to make; `version` is that of the claim, `sealed` are live secrets."""

    delivery_id: DeliveryId
    message_id: MessageId
    endpoint_id: EndpointId
    merchant_id: MerchantId
    event_id: UUID
    event_type: str
    correlation_id: str
    attempt_no: int
    version: int
    payload: bytes
    url: str
    enabled: bool
    sealed: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try that ended; `status` is None without an answer, then `error` says why. Times are real."""

    claimed: Claimed
    result: Result
    at: dt.datetime
    duration_ms: int
    status: int | None
    error: str | None
    reply: bytes
    retry_after: dt.timedelta | None
    jitter_permille: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The delivery's state after the attempt; `next_at` in business time while it is pending."""

    state: DeliveryState
    next_at: dt.datetime | None
    disables_endpoint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The delivery was settled before; an attempt that ends late changes nothing."""


Decision: TypeAlias = Moved | Repeated


def result_of(status: int | None) -> Result:
    """Success is 2xx only; a redirect is a failure and is never followed."""
    if status is not None and 200 <= status <= 299:
        return Result.ACCEPTED
    return Result.GONE if status == 410 else Result.FAILED


def decide(state: DeliveryState, attempt: Attempt, now: dt.datetime) -> Decision:
    """What an attempt makes of a delivery; `now` is business time."""
    match state:
        case DeliveryState.DELIVERED | DeliveryState.EXHAUSTED:
            return Repeated()
        case DeliveryState.PENDING:
            return _decide_pending(attempt, now)
        case _:
            assert_never(state)


def _decide_pending(attempt: Attempt, now: dt.datetime) -> Moved:
    match attempt.result:
        case Result.ACCEPTED:
            return Moved(state=DeliveryState.DELIVERED, next_at=None)
        case Result.GONE:
            return Moved(state=DeliveryState.EXHAUSTED, next_at=None, disables_endpoint=True)
        case Result.ENDPOINT_DISABLED:
            return Moved(state=DeliveryState.EXHAUSTED, next_at=None)
        case Result.FAILED:
            wait = retry_schedule.wait_after(
                attempt.claimed.attempt_no,
                jitter_permille=attempt.jitter_permille,
                retry_after=attempt.retry_after,
            )
            if wait is None:
                return Moved(state=DeliveryState.EXHAUSTED, next_at=None)
            return Moved(state=DeliveryState.PENDING, next_at=now + wait)
        case _:
            assert_never(attempt.result)
