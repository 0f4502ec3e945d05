"""The operators' API on the internal port: cases that a person must look at."""

import datetime as dt
from typing import Annotated, Final
from uuid import UUID

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import CaseId, parse, show
from defray_kernel.problems import Problem
from defray_order.commands import resolve_case
from defray_order.commands.resolve_case import ResolveCase
from defray_order.domain.case import Case
from defray_order.domain.order import Refusal
from defray_order.store import cases

_PAGE: Final = 100


class CaseShown(msgspec.Struct, frozen=True, kw_only=True):
    """An open case."""

    case_id: str
    order_id: str
    reason: Refusal
    subject: str
    detail: str
    opened_at: dt.datetime
    correlation_id: str
    causation_id: str | None


class CasesShown(msgspec.Struct, frozen=True, kw_only=True):
    """Open cases, oldest first, at most 100; ask again with `after` = the last case id for the next."""

    data: list[CaseShown]


class Resolution(RequestModel):
    """What was done about it."""

    resolution: Annotated[str, Text(500)]


class CasesApi:
    """Handlers of the internal port."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route("GET", "/internal/v1/cases", self.list_open, summary="Open cases",
                   response=CasesShown, auth="operator", scope="viewer")  # fmt: skip
        edge.route("POST", "/internal/v1/cases/{case_id}/resolve", self.resolve, summary="Resolve a case",
                   request=Resolution, status=204, auth="operator", scope="operator")  # fmt: skip

    async def list_open(self, call: Call[None]) -> Reply:
        """Page through open cases."""
        after = UUID(int=0)
        if "after" in call.query:
            try:
                after = parse("case", call.query["after"])
            except ValueError:
                raise Problem("invalid_parameter", field="after") from None
        async with self._database.read() as conn:
            found = await cases.list_open(conn, after=after, limit=_PAGE)
        return Reply(content=CasesShown(data=[_shown(case) for case in found]))

    async def resolve(self, call: Call[Resolution]) -> Reply:
        """Close one case; resolving again what is resolved answers 404."""
        assert call.operator is not None
        try:
            case_id = CaseId(parse("case", call.path_params["case_id"]))
        except ValueError:
            raise Problem("not_found") from None
        command = ResolveCase(case_id=case_id, actor=call.operator.subject, resolution=call.body.resolution)
        async with self._database.transaction() as tx:
            done = await resolve_case.handle(command, tx, self._clock)
        if not done:
            raise Problem("not_found")
        return Reply(status=204)


def _shown(case: Case) -> CaseShown:
    return CaseShown(
        case_id=show("case", case.case_id),
        order_id=show("ord", case.order_id),
        reason=case.reason,
        subject=case.subject,
        detail=case.detail,
        opened_at=case.opened_at,
        correlation_id=case.cause.correlation_id,
        causation_id=case.cause.causation_id,
    )
