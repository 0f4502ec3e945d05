"""The OpenAPI 3.1 document of an edge, made from the same declarations that serve the requests."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from defray_kernel.calls import RouteSpec
from defray_kernel.problems import ProblemBody

if TYPE_CHECKING:
    from defray_kernel.http import Edge

_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"{([a-z_]+)(?::[a-z]+)?}")
_SCHEMES: Final = {
    "api_key": {"type": "http", "scheme": "bearer", "description": "A merchant's API key (sk_test_… or sk_live_…)."},
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The payment token of one order.",
    },
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An operator's token with roles.",
    },
}
_STATUS_TEXTS: Final = {200: "Done", 201: "Created", 202: "Accepted, not finished", 204: "Done, nothing to say"}


def document(edge: "Edge") -> dict[str, Any]:
    """The document, sorted by path and method."""
    paths: dict[str, dict[str, Any]] = {}
    for spec in sorted(edge.routes, key=lambda spec: (spec.path, spec.method)):
        paths.setdefault(_PARAMETER.sub(r"{\1}", spec.path), {})[spec.method.lower()] = _operation(edge, spec)
    used = sorted({name for spec in edge.routes for name in _schemes(spec)})
    return {
        "openapi": "3.1.0",
        "info": {"title": edge.title, "version": edge.version},
        "paths": paths,
        "components": {
            "schemas": _schemas(edge.routes),
            "securitySchemes": {name: _SCHEMES[name] for name in used},
            "responses": {
                str(status): {
                    "description": "; ".join(codes),
                    "content": {"application/problem+json": {"schema": _reference(ProblemBody)}},
                }
                for status, codes in _codes_by_status(edge).items()
            },
        },
    }


def _operation(edge: "Edge", spec: RouteSpec) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(spec.path)
    ]
    if spec.idempotency_key:
        schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": True, "schema": schema})
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in spec.query.items()]
    reply: dict[str, Any] = {}
    names = ("X-Correlation-Id", *(("RateLimit", "RateLimit-Policy") if "api_key" in _schemes(spec) else ()))
    reply["headers"] = {name: {"schema": {"type": "string"}} for name in names}
    if spec.response is not None or spec.media_type != "application/json":
        shape: dict[str, Any] = {"type": "string"} if spec.response is None else _reference(spec.response)
        reply["content"] = {spec.media_type: {"schema": shape}}
    told = sorted({spec.status, *spec.also})
    replies = {str(status): {"description": _STATUS_TEXTS.get(status, "Answer")} | reply for status in told}
    problems = {str(s): {"$ref": f"#/components/responses/{s}"} for s in _statuses(spec) if s in _codes_by_status(edge)}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"[^a-z0-9]+", "_", spec.name.lower()).strip("_"),
        "summary": spec.summary,
        "security": [{name: []} for name in _schemes(spec)],
        "parameters": parameters,
        "responses": replies | problems,
    }
    if spec.scope is not None:
        operation["description"] = f"Needs `{spec.scope}`."
    if spec.request is not None:
        body: dict[str, Any] = {"schema": _reference(spec.request)}
        if spec.example is not None:
            body["example"] = spec.example
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    return operation


def _schemes(spec: RouteSpec) -> tuple[str, ...]:
    return {"api_key_or_token": ("api_key", "token"), "none": ()}.get(spec.auth, (spec.auth,))


def _statuses(spec: RouteSpec) -> list[int]:
    statuses = {400, 404, 409, 413, 503}
    if spec.request is not None:
        statuses |= {408, 415, 422}
    if spec.auth != "none":
        statuses |= {401, 403, 429}
    return sorted(statuses)


def _codes_by_status(edge: "Edge") -> dict[int, list[str]]:
    codes: dict[int, list[str]] = {}
    for kind in sorted(edge.doors.problems.kinds(), key=lambda kind: (kind.status, kind.code)):
        codes.setdefault(kind.status, []).append(kind.code)
    return codes


def _reference(model: type[BaseModel] | type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=model.__name__)}


def _schemas(routes: Iterable[RouteSpec]) -> dict[str, Any]:
    models = {m for spec in routes for m in (spec.request, spec.response) if m is not None} | {ProblemBody}
    pydantic_models = sorted((m for m in models if issubclass(m, BaseModel)), key=lambda m: m.__name__)
    structs = sorted((m for m in models if issubclass(m, msgspec.Struct)), key=lambda m: m.__name__)
    _, ours = models_json_schema(
        [(m, "validation") for m in pydantic_models],  # type: ignore[misc]  # its parameter is invariant
        ref_template="#/components/schemas/{model}",
    )
    _, theirs = msgspec.json.schema_components(structs, ref_template=_REF)
    schemas = ours.get("$defs", {}) | theirs
    return {name: schemas[name] for name in sorted(schemas)}
