"""A merchant's webhook endpoint: which events it is told, and the acts that move it."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from defray_kernel.ids import EndpointId, MerchantId

ENDPOINTS_MAX: Final = 16
ALL_TYPES: Final = "*"


class EndpointState(StrEnum):
    """ENABLED → DISABLED."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class DisabledReason(StrEnum):
    """Who ended it: its merchant, or the endpoint by answering 410."""

    MERCHANT = "merchant"
    GONE = "gone"


class Refusal(StrEnum):
    """Why an endpoint is not added; stable codes."""

    ENDPOINT_EXISTS = "endpoint_exists"
    TOO_MANY_ENDPOINTS = "too_many_endpoints"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address that a merchant wants to be told at; `slot` is one of sixteen."""

    endpoint_id: EndpointId
    merchant_id: MerchantId
    slot: int
    url: str
    event_types: tuple[str, ...]
    state: EndpointState
    disabled_reason: DisabledReason | None
    version: int
    created_at: dt.datetime

    def wants(self, event_type: str) -> bool:
        """Whether it is told events of this type."""
        return ALL_TYPES in self.event_types or event_type in self.event_types


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An endpoint to add."""

    endpoint_id: EndpointId
    merchant_id: MerchantId
    url: str
    event_types: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """The new endpoint."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """It was added before under the same id."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It is not added."""

    reason: Refusal


Decision: TypeAlias = Added | Repeated | Refused


def decide(enabled: Sequence[Endpoint], wish: Wish, now: dt.datetime) -> Decision:
    """Whether a merchant with these enabled endpoints may have one more."""
    for endpoint in enabled:
        if endpoint.endpoint_id == wish.endpoint_id:
            return Repeated(endpoint=endpoint)
    if any(endpoint.url == wish.url for endpoint in enabled):
        return Refused(reason=Refusal.ENDPOINT_EXISTS)
    free = sorted(set(range(1, ENDPOINTS_MAX + 1)) - {endpoint.slot for endpoint in enabled})
    if not free:
        return Refused(reason=Refusal.TOO_MANY_ENDPOINTS)
    return Added(
        endpoint=Endpoint(
            endpoint_id=wish.endpoint_id,
            merchant_id=wish.merchant_id,
            slot=free[0],
            url=wish.url,
            event_types=wish.event_types,
            state=EndpointState.ENABLED,
            disabled_reason=None,
            version=1,
            created_at=now,
        )
    )
