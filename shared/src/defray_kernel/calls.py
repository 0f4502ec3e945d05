"""What a route is made of: its declaration, the checked request a handler gets, and the reply it gives."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
from pydantic import BaseModel

from defray_kernel.contracts.envelope import Cause
from defray_kernel.idempotency import Claimed, Mismatch, Replay, Running
from defray_kernel.merchants import Merchant, MerchantDirectory
from defray_kernel.operators import Operator, OperatorTokens
from defray_kernel.problems import Problem, Problems

Body = TypeVar("Body", bound=BaseModel | None)

Auth = Literal["api_key", "token", "api_key_or_token", "operator", "none"]
"""Who may call: a merchant's API key; a payment token; either; an operator's token; anybody (channel callbacks, pages)."""

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one edge lets in; sizes in bytes, times in seconds."""

    body_bytes_max: int = 64 * 1024
    body_timeout_s: float = 10
    handler_timeout_s: float = 30
    concurrent_max: int = 1024
    header_bytes_max: int = 16 * 1024
    header_count_max: int = 100
    merchant_rate_per_s: float = 5_000  # bucket of one second; above it 429 with Retry-After


class Call(msgspec.Struct, Generic[Body], frozen=True, kw_only=True):
    """One request that passed every check of the edge."""

    body: Body  # the validated request model; None where the route declares none
    raw: bytes  # the body's exact bytes (what a channel signed)
    path_params: Mapping[str, str]
    query: Mapping[str, str]  # each name at most once, else 400 before the handler
    headers: Mapping[str, str]  # names in lower case; of twins the first
    merchant: Merchant | None  # set when an API key was used
    token: Any  # what Edge(tokens=…) made of the payment token; None when an API key was used
    operator: Operator | None
    idempotency_key: str | None
    request_hash: bytes  # SHA-256 of method, path and canonical body: the request_hash of idempotency.Claim
    correlation_id: str
    traceparent: str  # the caller's trace continued, or a new one

    @property
    def cause(self) -> Cause:
        """What the events that follow from this request carry."""
        return Cause(correlation_id=self.correlation_id, traceparent=self.traceparent)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler answers; content is encoded by msgspec unless it is bytes already.

    A generator is sent piece by piece, none held longer than the caller takes; one that fails ends the connection,
    so that nobody takes a part for the whole.
    """

    content: msgspec.Struct | Mapping[str, Any] | list[Any] | bytes | AsyncGenerator[bytes, None] | None = None
    status: int | None = None  # None = the route's declared status
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    content_type: str = "application/json"


Handler = Callable[[Call[Any]], Awaitable[Reply]]


def replayed(claimed: Claimed) -> Reply | None:
    """The reply to a request whose key was used before; None when the work is to be done (Fresh, Resume).

    Raises Problem `idempotency_mismatch` or `in_progress`.
    """
    match claimed:
        case Replay(status=status, body=body):
            return Reply(content=body, status=status, headers={"Idempotency-Replayed": "true"})
        case Mismatch():
            raise Problem("idempotency_mismatch")
        case Running(retry_after_s=seconds):
            raise Problem("in_progress", retry_after_s=seconds)
        case _:
            return None


class TokenVerifier(Protocol):
    """Checks a payment token; None when it is forged, expired or not ours (the edge answers 401)."""

    def __call__(self, token: str) -> object | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """One declared route."""

    method: Method
    path: str
    handler: Handler
    summary: str
    request: type[BaseModel] | None
    response: type[BaseModel] | type[msgspec.Struct] | None
    status: int
    auth: Auth
    scope: str | None
    idempotency_key: bool
    example: Mapping[str, Any] | None = None
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    also: tuple[int, ...] = ()
    media_type: str = "application/json"

    @property
    def name(self) -> str:
        """Its name in metrics and logs."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What an edge checks callers with."""

    problems: Problems
    merchants: MerchantDirectory | None
    tokens: TokenVerifier | None
    operators: OperatorTokens | None
    limits: Limits
