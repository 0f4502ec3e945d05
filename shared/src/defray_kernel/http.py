"""One HTTP edge of a service: declared routes, checked requests, encoded replies and the OpenAPI text made from the same lines."""
# ruff: noqa: A005  (the package name keeps it apart from the standard library's http)

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel

from defray_kernel.merchants import Merchant, MerchantDirectory
from defray_kernel.operators import Operator, OperatorTokens
from defray_kernel.problems import Problems

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[Body]):
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
    traceparent: str  # the caller's, or a new one


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a handler answers; content is encoded by msgspec unless it is bytes already."""

    content: msgspec.Struct | Mapping[str, Any] | list[Any] | bytes | None = None
    status: int | None = None  # None = the route's declared status
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Handler = Callable[[Call[Any]], Awaitable[Reply]]


class TokenVerifier(Protocol):
    """Checks a payment token; None when it is forged, expired or not ours (the edge answers 401)."""

    def __call__(self, token: str) -> object | None: ...


class Edge:
    """The routes of one port; built in wiring, served by defray_kernel.server.

    Handlers raise `problems.Problem` to refuse, or errors.Overloaded / Unavailable / OutcomeUnknown for 503; the edge answers the rest.
    """

    def __init__(
        self,
        *,
        title: str,
        version: str,
        problems: Problems,
        merchants: MerchantDirectory | None = None,
        tokens: TokenVerifier | None = None,
        operators: OperatorTokens | None = None,
        limits: Limits | None = None,
        docs: bool = False,
    ) -> None: ...

    def route(
        self,
        method: Method,
        path: str,
        handler: Handler,
        *,
        summary: str,
        request: type[BaseModel] | None = None,
        response: type[BaseModel] | type[msgspec.Struct] | None = None,
        status: int = 200,
        auth: Auth = "api_key",
        scope: str | None = None,
        idempotency_key: bool = False,
    ) -> None:
        """Declare one route. `path` is Starlette's ("/v1/orders/{order_id}").

        `scope` is the API-key scope ("orders:write"), or with auth="operator" the role (viewer | operator | finance); without it: 403.
        """

    def app(self) -> FastAPI: ...

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of the declared routes, stable from run to run."""
        ...
