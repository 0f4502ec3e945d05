"""Errors on the wire: RFC 9457 problem bodies from one registry of stable codes, never with the caller's input in them."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemKind:
    """One code, the HTTP status it is told with, and a title that is the same for every occurrence."""

    code: str
    status: int
    title: str


def _kinds(*rows: tuple[str, int, str]) -> tuple[ProblemKind, ...]:
    return tuple(ProblemKind(code=code, status=status, title=title) for code, status, title in rows)


KERNEL_PROBLEMS = _kinds(
    ("malformed_request", 400, "The request cannot be read"),
    ("malformed_json", 400, "The body is not strict JSON"),
    ("invalid_parameter", 400, "A query parameter is not acceptable"),
    ("idempotency_key_missing", 400, "This request needs an Idempotency-Key header"),
    ("idempotency_key_invalid", 400, "The Idempotency-Key must be 1 to 255 visible ASCII characters"),
    ("unauthenticated", 401, "The credentials are missing or not valid"),
    ("forbidden", 403, "The credentials do not allow this operation"),
    ("not_found", 404, "There is no such thing here"),
    ("method_not_allowed", 405, "This method is not offered here"),
    ("request_timeout", 408, "The request took too long to arrive"),
    ("in_progress", 409, "A request with this Idempotency-Key is being worked on"),
    ("invalid_state", 409, "The object's state does not allow this"),
    ("body_too_large", 413, "The body is too large"),
    ("unsupported_media_type", 415, "The body must be application/json in UTF-8, not encoded"),
    ("invalid_field", 422, "A field has a value that is not acceptable"),
    ("invalid_amount", 422, "An amount must be an integer of minor units within the limits"),
    ("missing_field", 422, "A required field is missing"),
    ("unknown_field", 422, "A field is not known, or not writable"),
    ("unsupported_currency", 422, "The currency is not supported"),
    ("pan_not_allowed", 422, "Card numbers must never be sent here"),
    ("idempotency_mismatch", 422, "This Idempotency-Key was used with another request"),
    ("rate_limited", 429, "Too many requests from this merchant"),
    ("headers_too_large", 431, "The headers are too large"),
    ("internal", 500, "Something went wrong on our side"),
    ("overloaded", 503, "Too much work at the moment; try again"),
    ("unavailable", 503, "A part that is needed is not available; try again"),
    ("outcome_unknown", 503, "Whether this took effect is not known; repeat it with the same Idempotency-Key"),
)


class Problem(Exception):
    """A refusal on its way to the caller. `detail` is our own text: never put input, ids of others or driver messages in it."""

    def __init__(
        self, code: str, *, field: str | None = None, detail: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.field = field
        self.detail = detail
        self.retry_after_s = retry_after_s


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every error reply (application/problem+json)."""

    type: str
    title: str
    status: int
    code: str
    correlation_id: str
    detail: str | None = None
    field: str | None = None


class Problems:
    """All codes one edge may answer with."""

    def __init__(self, kinds: Mapping[str, ProblemKind]) -> None:
        self._kinds = kinds

    def __contains__(self, code: str) -> bool:
        return code in self._kinds

    def kinds(self) -> tuple[ProblemKind, ...]:
        return tuple(self._kinds.values())

    def encode(self, problem: Problem, correlation_id: str) -> tuple[int, bytes]:
        """Status and body; a code that is not registered is our bug and becomes 500 `internal`."""
        kind = self._kinds.get(problem.code) or self._kinds["internal"]
        body = ProblemBody(
            type=f"urn:defray:problem:{kind.code}",
            title=kind.title,
            status=kind.status,
            code=kind.code,
            correlation_id=correlation_id,
            detail=problem.detail if kind.code == problem.code else None,
            field=problem.field,
        )
        return kind.status, msgspec.json.encode(body)


def registry(*kinds: ProblemKind) -> Problems:
    """The kernel's codes and a service's own. Raises ValueError for a code declared twice."""
    known: dict[str, ProblemKind] = {}
    for kind in (*KERNEL_PROBLEMS, *kinds):
        if kind.code in known:
            raise ValueError(f"problem code declared twice: {kind.code}")
        known[kind.code] = kind
    return Problems(known)
