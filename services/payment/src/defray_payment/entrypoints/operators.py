"""The operators' API on the internal port: cases that a person must look at."""

from __future__ import annotations

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
from defray_payment.commands import resolve_case
from defray_payment.commands.resolve_case import ResolveCase
from defray_payment.domain.refusals import CaseReason
from defray_payment.store import cases
from defray_payment.store.cases import OpenCase

_PAGE: Final = 100


class CaseBody(msgspec.Struct, frozen=True, kw_only=True):
    """An open case; `cause` names the callback, question or event that led to it."""

    case_id: str
    reason: CaseReason
    cause: str
    order_id: str | None
    payment_id: str | None
    attempt_no: str | None
    opened_at: dt.datetime


class CaseListBody(msgspec.Struct, frozen=True, kw_only=True):
    """Open cases, oldest first, at most 100; `?after=` the last one's id gives the next."""

    data: list[CaseBody]


class Resolution(RequestModel):
    """What was done about it."""

    resolution: Annotated[str, Text(500)]


class CasesApi:
    """Handlers of the internal port."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        edge.route(
            "GET",
            "/internal/v1/cases",
            self.list_open,
            summary="List open cases",
            response=CaseListBody,
            auth="operator",
            scope="viewer",
        )
        edge.route(
            "POST",
            "/internal/v1/cases/{case_id}/resolve",
            self.resolve,
            summary="Resolve a case",
            request=Resolution,
            status=204,
            auth="operator",
            scope="operator",
        )

    async def list_open(self, call: Call[None]) -> Reply:
        """Page through open cases."""
        try:
            after = parse("case", call.query["after"]) if "after" in call.query else UUID(int=0)
        except ValueError:
            raise Problem("invalid_parameter", field="after") from None
        async with self._database.read() as conn:
            found = await cases.list_open(conn, after=after, limit=_PAGE)
        return Reply(content=CaseListBody(data=[_shown(each) for each in found]))

    async def resolve(self, call: Call[Resolution]) -> Reply:
        """Close one case; one that is closed is not there any more."""
        assert call.operator is not None
        try:
            case_id = CaseId(parse("case", call.path_params["case_id"]))
        except ValueError:
            raise Problem("not_found") from None
        command = ResolveCase(case_id=case_id, actor=call.operator.subject, resolution=call.body.resolution)
        async with self._database.transaction() as tx:
            if not await resolve_case.handle(command, tx, self._clock):
                raise Problem("not_found")
        return Reply(status=204)


def _shown(waiting: OpenCase) -> CaseBody:
    case = waiting.case
    return CaseBody(
        case_id=show("case", waiting.case_id),
        reason=case.reason,
        cause=case.cause,
        order_id=None if case.order_id is None else show("ord", case.order_id),
        payment_id=None if case.payment_id is None else show("pay", case.payment_id),
        attempt_no=case.attempt_no,
        opened_at=waiting.opened_at,
    )
