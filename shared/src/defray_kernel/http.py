"""One HTTP edge of a service: declared routes, checked requests, encoded replies and the OpenAPI text made from the same lines."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from defray_kernel import guard, openapi
from defray_kernel.calls import Auth, Call, Doors, Handler, Limits, Method, Reply, RouteSpec, TokenVerifier, replayed
from defray_kernel.endpoint import Endpoint, Rates
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.operators import OperatorTokens
from defray_kernel.problems import Problem, Problems

__all__ = ["Auth", "Call", "Edge", "Handler", "Limits", "Method", "Reply", "TokenVerifier", "replayed"]

_STATUS_CODES: Final = {404: "not_found", 405: "method_not_allowed"}


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
    ) -> None:
        self.title, self.version, self.docs = title, version, docs
        self.doors = Doors(
            problems=problems, merchants=merchants, tokens=tokens, operators=operators, limits=limits or Limits()
        )
        self.routes: list[RouteSpec] = []

    def route(  # noqa: PLR0913 - one line per property of a route
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
        example: Mapping[str, Any] | None = None,
        query: Mapping[str, Mapping[str, Any]] | None = None,
        also: tuple[int, ...] = (),
        media_type: str = "application/json",
    ) -> None:
        """Declare one route. `path` is Starlette's ("/v1/orders/{order_id}").

        For the documents: `example` is a body, `query` the JSON Schemas of query parameters, `also` further statuses with the same reply. `scope` is the API-key scope ("orders:write"), or with auth="operator" the role (viewer | operator | finance); without it: 403.
        """
        spec = RouteSpec(
            method=method,
            path=path,
            handler=handler,
            summary=summary,
            request=request,
            response=response,
            status=status,
            auth=auth,
            scope=scope,
            idempotency_key=idempotency_key,
            example=example,
            query=query or {},
            also=also,
            media_type=media_type,
        )
        assert spec.name not in {other.name for other in self.routes}, f"{spec.name} is declared twice"
        assert auth != "operator" or scope is not None, "an operator's route names the role it needs"
        self.routes.append(spec)

    def app(self) -> FastAPI:
        """The ASGI application; built anew at every call."""
        docs = (
            {"openapi_url": "/openapi.json", "docs_url": "/docs"}
            if self.docs
            else {"openapi_url": None, "docs_url": None}
        )
        app = FastAPI(title=self.title, version=self.version, redoc_url=None, redirect_slashes=False, **docs)
        rates = Rates(self.doors.limits.merchant_rate_per_s)
        direct: dict[str, ASGIApp] = {}
        for path in dict.fromkeys(spec.path for spec in self.routes):
            endpoint = Endpoint(self.doors, [spec for spec in self.routes if spec.path == path], rates)
            app.router.routes.append(Route(path, endpoint))
            if "{" not in path:
                direct[path] = endpoint
        app.openapi = self.openapi  # type: ignore[method-assign]  # FastAPI asks for its document by this name
        app.add_exception_handler(HTTPException, self._http_exception)
        limits = self.doors.limits
        app.add_middleware(
            guard.Guard,
            direct=direct,
            problems=self.doors.problems,
            concurrent_max=limits.concurrent_max,
            header_bytes_max=limits.header_bytes_max,
            header_count_max=limits.header_count_max,
        )
        return app

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of the declared routes, stable from run to run."""
        return openapi.document(self)

    async def _http_exception(self, request: Request, error: Exception) -> Response:
        code = _STATUS_CODES.get(getattr(error, "status_code", 500), "malformed_request")
        status, body = self.doors.problems.encode(Problem(code), request.scope["correlation_id"])
        return Response(body, status, media_type="application/problem+json")
