"""The operators' API on the internal port: cases that a person must look at."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import CaseId, parse, show
from defray_kernel.problems import Problem, ProblemKind
from defray_payment.commands import claim_case, note_case, resolve_case
from defray_payment.commands.claim_case import ClaimCase
from defray_payment.commands.note_case import NoteCase
from defray_payment.commands.resolve_case import ResolveCase
from defray_payment.domain.refusals import CaseReason, CaseRefusal
from defray_payment.store import cases
from defray_payment.store.cases import CaseState, HeldCase, Note, Wanted

PAGE_MAX: Final = 100
PROBLEMS: Final = (
    ProblemKind(code=CaseRefusal.CLAIMED, status=409, title="Somebody else works on this case"),
    ProblemKind(code=CaseRefusal.RESOLVED, status=409, title="The case is resolved"),
)
_FILTERS: Final = frozenset({"after", "limit", "state", "reason", "owner", "order_id", "payment_id"})


class NoteBody(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wrote to a case."""

    author: str
    text: str
    written_at: dt.datetime


class CaseBody(msgspec.Struct, frozen=True, kw_only=True):
    """A case; `cause` names the callback, question or event that led to it."""

    case_id: str
    reason: CaseReason
    cause: str
    state: CaseState
    owner: str | None
    order_id: str | None
    payment_id: str | None
    refund_id: str | None
    attempt_no: str | None
    opened_at: dt.datetime
    claimed_at: dt.datetime | None
    resolved_at: dt.datetime | None
    resolved_by: str | None
    resolution: str | None


class CaseDetailBody(CaseBody, frozen=True, kw_only=True):
    """A case with its newest notes, oldest first."""

    notes: list[NoteBody]


class CaseListBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of cases, oldest first; `?after=<next_after>` with the same filters gives the next one."""

    data: list[CaseBody]
    next_after: str | None


class Resolution(RequestModel):
    """What was done about it."""

    resolution: Annotated[str, Text(500)]


class Claiming(RequestModel):
    """`take_over` takes the case from whoever works on it."""

    take_over: bool = False


class Noting(RequestModel):
    """What was found, asked or agreed. No personal data: notes are kept as they are."""

    text: Annotated[str, Text(2000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDesk:
    """What operators do with cases, alike over HTTP and on the command line; each act and its audit row are one
    transaction. Raises Problem for what is refused.
    """

    database: Database
    clock: Clock

    async def page(self, query: dict[str, str]) -> CaseListBody:
        """Cases by filters, page by page."""
        if unknown := set(query) - _FILTERS:
            raise Problem("invalid_parameter", field=min(unknown) if len(unknown) == 1 else None)
        text = query.get("limit", str(PAGE_MAX))
        if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= PAGE_MAX):
            raise Problem("invalid_parameter", field="limit")
        wanted = Wanted(
            state=_read(query, "state", CaseState),
            reason=_read(query, "reason", CaseReason),
            owner=query.get("owner"),
            order_id=_read(query, "order_id", lambda value: parse("ord", value)),
            payment_id=_read(query, "payment_id", lambda value: parse("pay", value)),
        )
        after = _read(query, "after", lambda value: parse("case", value)) or UUID(int=0)
        async with self.database.read() as conn:
            found = await cases.page(conn, wanted, after=after, limit=int(text) + 1)
        shown = [_shown(each) for each in found[: int(text)]]
        return CaseListBody(data=shown, next_after=shown[-1].case_id if len(found) > int(text) else None)

    async def show(self, case_id: CaseId) -> CaseDetailBody:
        """One case with its notes."""
        async with self.database.read() as conn:
            held = await cases.find(conn, case_id)
            notes = await cases.notes(conn, case_id)
        if held is None:
            raise Problem("not_found")
        return msgspec.convert(
            msgspec.structs.asdict(_shown(held)) | {"notes": [_note(each) for each in notes]}, CaseDetailBody
        )

    async def claim(self, command: ClaimCase) -> None:
        """Take a case."""
        async with self.database.transaction() as tx:
            _done(await claim_case.handle(command, tx, self.clock))

    async def note(self, command: NoteCase) -> None:
        """Write to a case."""
        async with self.database.transaction() as tx:
            _done(await note_case.handle(command, tx, self.clock))

    async def resolve(self, command: ResolveCase) -> None:
        """Close a case; one that is closed is not there any more."""
        async with self.database.transaction() as tx:
            _done(await resolve_case.handle(command, tx, self.clock))


class CasesApi:
    """Handlers of the internal port."""

    def __init__(self, desk: CaseDesk) -> None:
        self._desk = desk

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        base, one = "/internal/v1/cases", "/internal/v1/cases/{case_id}"
        filters = "?state= ?reason= ?owner= ?order_id= ?payment_id= ?after= ?limit="
        edge.route(
            "GET",
            base,
            self.page,
            summary=f"List cases ({filters})",
            response=CaseListBody,
            auth="operator",
            scope="viewer",
        )
        edge.route(
            "GET",
            one,
            self.show,
            summary="Show a case with its notes",
            response=CaseDetailBody,
            auth="operator",
            scope="viewer",
        )
        acts: tuple[tuple[str, Any, Any, str, dict[str, Any]], ...] = (
            ("claim", self.claim, Claiming, "Work on a case", {"take_over": False}),
            ("notes", self.note, Noting, "Write a note to a case", {"text": "asked the channel, ticket 4711"}),
            (
                "resolve",
                self.resolve,
                Resolution,
                "Resolve a case",
                {"resolution": "refunded in the channel's console"},
            ),
        )
        for act, handler, request, summary, example in acts:
            edge.route(
                "POST",
                f"{one}/{act}",
                handler,
                summary=summary,
                request=request,
                status=204,
                auth="operator",
                scope="operator",
                example=example,
            )

    async def page(self, call: Call[None]) -> Reply:
        """Page through cases; without a state, those that are not resolved."""
        return Reply(content=await self._desk.page(dict(call.query)))

    async def show(self, call: Call[None]) -> Reply:
        """One case."""
        return Reply(content=await self._desk.show(_case_id(call)))

    async def claim(self, call: Call[Claiming]) -> Reply:
        """The case is the caller's."""
        await self._desk.claim(ClaimCase(case_id=_case_id(call), actor=_actor(call), take_over=call.body.take_over))
        return Reply(status=204)

    async def note(self, call: Call[Noting]) -> Reply:
        """The note is the caller's."""
        await self._desk.note(NoteCase(case_id=_case_id(call), actor=_actor(call), text=call.body.text))
        return Reply(status=204)

    async def resolve(self, call: Call[Resolution]) -> Reply:
        """Close one case."""
        command = ResolveCase(case_id=_case_id(call), actor=_actor(call), resolution=call.body.resolution)
        await self._desk.resolve(command)
        return Reply(status=204)


def read_case_id(text: str) -> CaseId:
    """The id in a public text. Raises Problem `not_found`."""
    try:
        return CaseId(parse("case", text))
    except ValueError:
        raise Problem("not_found") from None


def _case_id(call: Call[Any]) -> CaseId:
    return read_case_id(call.path_params["case_id"])


def _actor(call: Call[Any]) -> str:
    assert call.operator is not None
    return call.operator.subject


def _done(refusal: CaseRefusal | None) -> None:
    if refusal is not None:
        raise Problem(refusal)


def _read(query: dict[str, str], name: str, form: Any) -> Any:  # noqa: ANN401 - as the form has it
    try:
        return form(query[name]) if name in query else None
    except ValueError:
        raise Problem("invalid_parameter", field=name) from None


def _note(note: Note) -> NoteBody:
    return NoteBody(author=note.author, text=note.text, written_at=note.written_at)


def _shown(held: HeldCase) -> CaseBody:
    case = held.case
    return CaseBody(
        case_id=show("case", held.case_id),
        reason=case.reason,
        cause=case.cause,
        state=held.state,
        owner=held.owner,
        order_id=None if case.order_id is None else show("ord", case.order_id),
        payment_id=None if case.payment_id is None else show("pay", case.payment_id),
        refund_id=None if case.refund_id is None else show("rfd", case.refund_id),
        attempt_no=case.attempt_no,
        opened_at=held.opened_at,
        claimed_at=held.claimed_at,
        resolved_at=held.resolved_at,
        resolved_by=held.resolved_by,
        resolution=held.resolution,
    )
