"""The merchant's API: where to be told, and what became of each message."""

import datetime as dt
from typing import Annotated, Final
from uuid import UUID

import msgspec
from asyncpg import Record
from pydantic import Field

from defray_kernel.db import Database
from defray_kernel.fields import RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import EndpointId, MerchantId, parse, show, uuid7
from defray_kernel.problems import Problem, ProblemKind
from defray_notifier.commands.add_endpoint import AddEndpoint
from defray_notifier.commands.disable_endpoint import DisableEndpoint
from defray_notifier.delivery.address_guard import AddressRefused, Guard
from defray_notifier.delivery.signing import Secrets, new_secret
from defray_notifier.domain.delivery import DeliveryState
from defray_notifier.domain.endpoint import ALL_TYPES, Decision, DisabledReason, Endpoint, EndpointState, Refused, Wish
from defray_notifier.domain.message import TOLD_TYPES
from defray_notifier.store import endpoints, messages

PROBLEMS: Final = (
    ProblemKind(code="url_refused", status=422, title="This URL cannot be called"),
    ProblemKind(code="unknown_event_type", status=422, title="There is no event of this type"),
    ProblemKind(code="endpoint_exists", status=409, title="An enabled endpoint has this URL already"),
    ProblemKind(code="too_many_endpoints", status=409, title="Sixteen endpoints are enabled; disable one first"),
)
_OLDEST: Final = UUID(int=0)


class EndpointBody(RequestModel):
    """A new endpoint; `event_types` are names such as `payment.succeeded.v1`, or `*` for all."""

    url: Annotated[str, Text(2048)]
    event_types: Annotated[tuple[Annotated[str, Text(100)], ...], Field(min_length=1, max_length=64, strict=False)]


class EndpointShown(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint; `secret` stands only in the reply to its creation."""

    endpoint_id: str
    url: str
    event_types: list[str]
    state: EndpointState
    disabled_reason: DisabledReason | None
    created_at: dt.datetime
    secret: str | None = None


class EndpointsShown(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints, oldest first, at most 100; ask again with `after` = the last endpoint id for the next."""

    data: list[EndpointShown]


class AttemptShown(msgspec.Struct, frozen=True, kw_only=True):
    """One try; without a `status` there was no answer and `error` says why. `reply` is its beginning as text."""

    attempt_no: int
    at: dt.datetime
    duration_ms: int
    status: int | None
    error: str | None
    reply: str
    state_after: DeliveryState


class MessageShown(msgspec.Struct, frozen=True, kw_only=True):
    """What was told about one event, and how its delivery stands."""

    message_id: str
    endpoint_id: str
    event_type: str
    subject: str
    sequence: int
    correlation_id: str
    created_at: dt.datetime
    delivery_id: str
    state: DeliveryState
    attempts_made: int
    next_at: dt.datetime | None
    last_status: int | None


class MessageWhole(MessageShown, frozen=True, kw_only=True):
    """The same with what is sent, byte for byte as JSON, and every attempt."""

    payload: msgspec.Raw
    attempts: list[AttemptShown]


class MessagesShown(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, newest first, at most 100; ask again with `before` = the last message id for the next."""

    data: list[MessageShown]


class WebhooksApi:
    """Handlers of the public port."""

    def __init__(
        self,
        database: Database,
        adding: GroupCommit[AddEndpoint, Decision],
        disabling: GroupCommit[DisableEndpoint, bool],
        guard: Guard,
        secrets: Secrets,
    ) -> None:
        self._database, self._adding, self._disabling = database, adding, disabling
        self._guard, self._secrets = guard, secrets

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        one = "/v1/webhook-endpoints/{endpoint_id}"
        edge.route("POST", "/v1/webhook-endpoints", self.add, summary="Add a webhook endpoint; its secret is shown once",
                   request=EndpointBody, response=EndpointShown, status=201, scope="webhooks:write")  # fmt: skip
        edge.route("GET", "/v1/webhook-endpoints", self.page, summary="List webhook endpoints",
                   response=EndpointsShown, scope="webhooks:read")  # fmt: skip
        edge.route("GET", one, self.get, summary="Show a webhook endpoint",
                   response=EndpointShown, scope="webhooks:read")  # fmt: skip
        edge.route("DELETE", one, self.disable, summary="Disable a webhook endpoint",
                   status=204, scope="webhooks:write")  # fmt: skip
        edge.route("GET", "/v1/messages", self.message_page, summary="List messages",
                   response=MessagesShown, scope="webhooks:read")  # fmt: skip
        edge.route("GET", "/v1/messages/{message_id}", self.message, summary="Show a message and its attempts",
                   response=MessageWhole, scope="webhooks:read")  # fmt: skip

    async def add(self, call: Call[EndpointBody]) -> Reply:
        """Check the address as every attempt will, then wait for the commit."""
        types = tuple(dict.fromkeys(call.body.event_types))
        for index, event_type in enumerate(types):
            if event_type not in TOLD_TYPES and event_type != ALL_TYPES:
                raise Problem("unknown_event_type", field=f"event_types[{index}]")
        try:
            await self._guard.check(call.body.url)
        except AddressRefused as refused:
            raise Problem("url_refused", field="url", detail=refused.reason) from None
        endpoint_id, secret = EndpointId(uuid7()), new_secret()
        wish = Wish(endpoint_id=endpoint_id, merchant_id=_merchant(call), url=call.body.url, event_types=types)
        outcome = await self._adding.submit(
            AddEndpoint(wish=wish, sealed_secret=self._secrets.seal(endpoint_id, secret), cause=call.cause)
        )
        if isinstance(outcome, Refused):
            raise Problem(outcome.reason, field="url")
        shown = msgspec.structs.replace(_shown(outcome.endpoint), secret=secret)
        return Reply(content=shown, headers={"Cache-Control": "no-store"})

    async def page(self, call: Call[None]) -> Reply:
        """The caller's endpoints."""
        after = _cursor(call, "after", "end", _OLDEST)
        async with self._database.read() as conn:
            found = await endpoints.page(conn, _merchant(call), after, endpoints.PAGE_MAX)
        return Reply(content=EndpointsShown(data=[_shown(endpoint) for endpoint in found]))

    async def get(self, call: Call[None]) -> Reply:
        """One endpoint of the caller's."""
        return Reply(content=_shown(await self._own(call)))

    async def disable(self, call: Call[None]) -> Reply:
        """Disabling again changes nothing."""
        endpoint = await self._own(call)
        await self._disabling.submit(DisableEndpoint(endpoint_id=endpoint.endpoint_id, cause=call.cause))
        return Reply(status=204)

    async def message_page(self, call: Call[None]) -> Reply:
        """The caller's messages."""
        before = _cursor(call, "before", "msg", messages.NEWEST)
        async with self._database.read() as conn:
            rows = await messages.page(conn, _merchant(call), before, messages.PAGE_MAX)
        return Reply(content=MessagesShown(data=[_message(row) for row in rows]))

    async def message(self, call: Call[None]) -> Reply:
        """One message of the caller's."""
        message_id = _path_id(call, "message_id", "msg")
        async with self._database.read() as conn:
            found = await messages.get(conn, _merchant(call), message_id)
        if found is None:
            raise Problem("not_found")
        row, attempts = found
        whole = MessageWhole(
            **msgspec.structs.asdict(_message(row)),
            payload=msgspec.Raw(row["payload"]),
            attempts=[_attempt(attempt) for attempt in attempts],
        )
        return Reply(content=whole)

    async def _own(self, call: Call[None]) -> Endpoint:
        endpoint_id = _path_id(call, "endpoint_id", "end")
        async with self._database.read() as conn:
            found = await endpoints.get(conn, _merchant(call), endpoint_id)
        if found is None:
            raise Problem("not_found")
        return found


def _merchant(call: Call[EndpointBody] | Call[None]) -> MerchantId:
    assert call.merchant is not None
    return call.merchant.merchant_id


def _path_id(call: Call[None], name: str, prefix: str) -> UUID:
    try:
        return parse(prefix, call.path_params[name])
    except ValueError:
        raise Problem("not_found") from None


def _cursor(call: Call[None], name: str, prefix: str, start: UUID) -> UUID:
    try:
        return parse(prefix, call.query[name]) if name in call.query else start
    except ValueError:
        raise Problem("invalid_parameter", field=name) from None


def _shown(endpoint: Endpoint) -> EndpointShown:
    return EndpointShown(
        endpoint_id=show("end", endpoint.endpoint_id),
        url=endpoint.url,
        event_types=list(endpoint.event_types),
        state=endpoint.state,
        disabled_reason=endpoint.disabled_reason,
        created_at=endpoint.created_at,
    )


def _message(row: Record) -> MessageShown:
    return MessageShown(
        message_id=show("msg", row["message_id"]),
        endpoint_id=show("end", row["endpoint_id"]),
        event_type=row["event_type"],
        subject=row["subject"],
        sequence=row["sequence"],
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
        delivery_id=show("dlv", row["delivery_id"]),
        state=DeliveryState(row["state"]),
        attempts_made=row["attempts"],
        next_at=row["next_at"],
        last_status=row["last_status"],
    )


def _attempt(row: Record) -> AttemptShown:
    return AttemptShown(
        attempt_no=row["attempt_no"],
        at=row["at"],
        duration_ms=row["duration_ms"],
        status=row["status"],
        error=row["error"],
        reply=row["reply"].decode("utf-8", "replace"),
        state_after=DeliveryState(row["state_after"]),
    )
