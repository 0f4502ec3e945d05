"""What operators do with rejected requests: list, show, redrive, dismiss, alike on the internal port and in a shell."""

import argparse
import base64
import datetime as dt
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import parse, show
from defray_kernel.parking import show_key
from defray_kernel.problems import Problem
from defray_order.commands import redrive_inbound
from defray_order.commands.redrive_inbound import Ended, EndRejected
from defray_order.commands.seal_rejected import RejectedVault
from defray_order.store import inbound
from defray_order.store.inbound import RejectedRow

VERB: Final = "inbound"
_PAGE: Final = 100
_ALL_MAX: Final = 10_000
_STATES: Final = ("OPEN", "REDRIVEN", "DISMISSED")
_FILTERS: Final = frozenset({"state", "reason", "after"})


class RejectedShown(msgspec.Struct, frozen=True, kw_only=True):
    """A rejected request; `truncated` ones were cut, or held a card number, and cannot be redriven.

    What the stranger wrote (`key`, `headers`, `value_base64`) only where one is looked at, which is audited; key and header
    values as text where they are plain text, else `hex:` and their bytes. Equal values have one `value_digest`.
    """

    rejected_id: str
    topic: str
    partition: int
    offset: int
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    headers: list[tuple[str, str]] | msgspec.UnsetType = msgspec.UNSET
    value_bytes: int
    value_base64: str | msgspec.UnsetType = msgspec.UNSET
    value_digest: str | None
    truncated: bool
    reason: str
    field: str
    detail: str
    state: str
    rejected_at: dt.datetime
    tries: int
    ended_at: dt.datetime | None
    ended_by: str | None


class RejectedPage(msgspec.Struct, frozen=True, kw_only=True):
    """Rejected requests, oldest first, at most 100; ask again with `after` = the last id for the next."""

    data: list[RejectedShown]


class RedrivenShown(msgspec.Struct, frozen=True, kw_only=True):
    """How many were tried again, and how many of them were used this time."""

    tried: int
    redriven: int


class Reason(RequestModel):
    """Why they were rejected, such as `internal` after a fault of ours is mended."""

    reason: Annotated[str, Text(64)]


class Dismissal(RequestModel):
    """Why nothing is to be done about it."""

    note: Annotated[str, Text(500)]


class InboundDesk:
    """The acts. Raises Problem: `not_found`, `invalid_state` (ended already, or only partly kept), `invalid_parameter`."""

    def __init__(self, database: Database, clock: Clock, vault: RejectedVault) -> None:
        self._database, self._clock, self._vault = database, clock, vault

    async def page(self, filters: Mapping[str, str]) -> RejectedPage:
        """Those of a state (all without one), of a reason, from behind `after`."""
        state, reason = filters.get("state"), filters.get("reason")
        for wrong in sorted(filters.keys() - _FILTERS):
            raise Problem("invalid_parameter", field=wrong if wrong.isidentifier() else None)
        if state is not None and state not in _STATES:
            raise Problem("invalid_parameter", field="state")
        after = UUID(int=0)
        if "after" in filters:
            try:
                after = parse("rej", filters["after"])
            except ValueError:
                raise Problem("invalid_parameter", field="after") from None
        async with self._database.read() as conn:
            rows = await inbound.list_rejected(conn, after=after, state=state, reason=reason, limit=_PAGE)
        return RejectedPage(data=[_shown(row) for row in rows])

    async def show(self, command: EndRejected) -> RejectedShown:
        """One, with what the stranger wrote, once the look is in the audit log. Raises CannotOpen like a redrive."""
        async with self._database.transaction() as tx:
            row = await inbound.rejected(tx, command.rejected_id)
            if row is None:
                raise Problem("not_found")
            await redrive_inbound.look(command, tx, self._clock)
        shown = _shown(row)
        if row.sealed is None:
            return shown
        content = self._vault.open(row.rejected_id, row.sealed)
        return msgspec.structs.replace(
            shown,
            key=None if content.key is None else show_key(content.key),
            headers=[(show_key(name.encode()), show_key(value)) for name, value in content.headers],
            value_base64=msgspec.UNSET if content.value is None else base64.b64encode(content.value).decode(),
        )

    async def redrive(self, command: EndRejected) -> RejectedShown:
        """Try it again; it is shown with its state: REDRIVEN, or OPEN and why it was refused this time."""
        async with self._database.transaction() as tx:
            ended = await redrive_inbound.redrive(command, tx, self._clock, self._vault)
        return await self._after(ended, command)

    async def redrive_all(self, reason: str, actor: str) -> RedrivenShown:
        """Try all that are open for this reason again, oldest first, each in a transaction of its own; at most 10,000."""
        redriven, tried, after = 0, 0, UUID(int=0)
        while tried < _ALL_MAX:
            async with self._database.read() as conn:
                rows = await inbound.list_rejected(conn, after=after, state="OPEN", reason=reason, limit=_PAGE)
            for row in rows:
                async with self._database.transaction() as tx:
                    command = EndRejected(rejected_id=row.rejected_id, actor=actor)
                    ended = await redrive_inbound.redrive(command, tx, self._clock, self._vault)
                    redriven += ended is Ended.REDRIVEN
            tried += len(rows)
            if len(rows) < _PAGE:
                break
            after = rows[-1].rejected_id
        return RedrivenShown(tried=tried, redriven=redriven)

    async def dismiss(self, command: EndRejected) -> RejectedShown:
        """Give it up."""
        async with self._database.transaction() as tx:
            ended = await redrive_inbound.dismiss(command, tx, self._clock)
        return await self._after(ended, command)

    async def _after(self, ended: Ended, command: EndRejected) -> RejectedShown:
        async with self._database.read() as conn:
            row = await inbound.rejected(conn, command.rejected_id)
        if row is None:
            raise Problem("not_found")
        if ended in {Ended.NOT_OPEN, Ended.CUT}:
            raise Problem("invalid_state")
        return _shown(row)


class InboundApi:
    """Handlers of the internal port."""

    def __init__(self, desk: InboundDesk) -> None:
        self._desk = desk

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        base = "/internal/v1/inbound/rejected"
        edge.route("GET", base, self.page, summary="Requests of others that could not be used",
                   response=RejectedPage, auth="operator", scope="viewer")  # fmt: skip
        edge.route("POST", f"{base}/redrive", self.redrive_all, summary="Try all of one reason again",
                   request=Reason, response=RedrivenShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("GET", f"{base}/{{rejected_id}}", self.show, summary="Show a rejected request with its value",
                   response=RejectedShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("POST", f"{base}/{{rejected_id}}/redrive", self.redrive, summary="Try a rejected request again",
                   response=RejectedShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("POST", f"{base}/{{rejected_id}}/dismiss", self.dismiss, summary="Give a rejected request up",
                   request=Dismissal, response=RejectedShown, auth="operator", scope="operator")  # fmt: skip

    async def page(self, call: Call[None]) -> Reply:
        """A page by filters."""
        return Reply(content=await self._desk.page(call.query))

    async def show(self, call: Call[None]) -> Reply:
        """One."""
        return Reply(content=await self._desk.show(_command(call)))

    async def redrive(self, call: Call[None]) -> Reply:
        """Try again."""
        return Reply(content=await self._desk.redrive(_command(call)))

    async def redrive_all(self, call: Call[Reason]) -> Reply:
        """Try again what one mended cause has kept out."""
        assert call.operator is not None
        return Reply(content=await self._desk.redrive_all(call.body.reason, call.operator.subject))

    async def dismiss(self, call: Call[Dismissal]) -> Reply:
        """Give up."""
        return Reply(content=await self._desk.dismiss(_command(call, call.body.note)))


def declare_verb(parser: argparse.ArgumentParser) -> None:
    """The acts and their arguments; whoever can start a process here is an operator."""
    acts = parser.add_subparsers(dest="act", required=True)
    listing = acts.add_parser("list")
    listing.add_argument("--state", default="OPEN", choices=_STATES)
    for name in ("reason", "after"):
        listing.add_argument(f"--{name}")
    everything = acts.add_parser("redrive-all")
    everything.add_argument("--reason", required=True)
    everything.add_argument("--actor", required=True)
    for name in ("show", "redrive", "dismiss"):
        act = acts.add_parser(name)
        act.add_argument("rejected_id")
        act.add_argument("--actor", required=True)
        if name == "dismiss":
            act.add_argument("--note", required=True)


async def run_verb(desk: InboundDesk, arguments: argparse.Namespace) -> int:
    """Do one act and write its answer as JSON lines; 1 when it is refused, with the reason on standard error."""
    try:
        for shown in await _act(desk, arguments):
            sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
    except Problem as problem:
        sys.stderr.write(f"refused: {problem.code} {problem.field or ''}\n")
        return 1
    return 0


async def _act(desk: InboundDesk, arguments: argparse.Namespace) -> Sequence[RejectedShown | RedrivenShown]:
    if arguments.act == "list":
        given = {name: getattr(arguments, name) for name in _FILTERS if getattr(arguments, name) is not None}
        return (await desk.page(given)).data
    if arguments.act == "redrive-all":
        return [await desk.redrive_all(arguments.reason, arguments.actor)]
    rejected_id = read_id(arguments.rejected_id)
    note = arguments.note if arguments.act == "dismiss" else ""
    if len(note) > 500:
        raise Problem("invalid_field", field="note")
    command = EndRejected(rejected_id=rejected_id, actor=arguments.actor, note=note)
    acts = {"show": desk.show, "redrive": desk.redrive, "dismiss": desk.dismiss}
    return [await acts[arguments.act](command)]


def read_id(text: str) -> UUID:
    """The id as `list` shows it. Raises Problem `not_found`."""
    try:
        return parse("rej", text)
    except ValueError:
        raise Problem("not_found") from None


def _command(call: Call[Any], note: str = "") -> EndRejected:
    assert call.operator is not None
    return EndRejected(rejected_id=read_id(call.path_params["rejected_id"]), actor=call.operator.subject, note=note)


def _shown(row: RejectedRow) -> RejectedShown:
    return RejectedShown(
        rejected_id=show("rej", row.rejected_id),
        topic=row.topic,
        partition=row.partition,
        offset=row.offset,
        value_bytes=row.value_bytes,
        value_digest=None if row.value_digest is None else row.value_digest.hex(),
        truncated=row.truncated,
        reason=row.reason,
        field=row.field,
        detail=row.detail,
        state=row.state,
        rejected_at=row.rejected_at,
        tries=row.tries,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
    )
