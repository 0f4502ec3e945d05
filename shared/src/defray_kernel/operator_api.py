"""What operators may do with parked and published events, alike on the command line and on the internal port."""

import argparse
import datetime as dt
import sys
from typing import Annotated, Any, Final

import msgspec
from pydantic import AwareDatetime

from defray_kernel import audit, event_log, parking
from defray_kernel.clock import Clock
from defray_kernel.db import Database, begin
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.problems import Problem

_KEYS_MAX: Final = 1_000


class ParkedKey(RequestModel):
    """A parked key as `list` shows it."""

    consumer: Annotated[str, Text(100)]
    key: Annotated[str, Text(600)]


class SkippedKey(ParkedKey):
    """`reason` is kept in the audit log."""

    reason: Annotated[str, Text(500)]


class Republished(RequestModel):
    """Events sent in [since, until) of real time, of one topic or of all."""

    since: AwareDatetime
    until: AwareDatetime
    topic: Annotated[str, Text(249)] | None = None


class Operations:
    """The verbs; each act and its audit row are one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    async def parked(self, consumer: str | None) -> list[dict[str, Any]]:
        """Parked keys, oldest first."""
        async with self._database.read() as connection:
            return await parking.list_keys(connection, consumer, limit=_KEYS_MAX)

    async def retry(self, parked: ParkedKey, actor: str) -> bool:
        """Make the key due now; False when it is not parked."""
        async with self._database.transaction() as tx:
            return await parking.retry(tx, parked.consumer, _key(parked), actor=actor, clock=self._clock)

    async def skip(self, parked: SkippedKey, actor: str) -> bool:
        """Give up the key's first event; False when it is not parked."""
        key, reason = _key(parked), parked.reason
        async with self._database.transaction() as tx:
            return await parking.skip(tx, parked.consumer, key, actor=actor, reason=reason, clock=self._clock)

    async def republish(self, wish: Republished, actor: str) -> int:
        """Tell events again; the wish is audited before the first is told. Returns how many."""
        detail = {"since": wish.since.isoformat(), "until": wish.until.isoformat()}
        async with self._database.transaction() as tx:
            subject = wish.topic or "all topics"
            await audit.append(tx, actor=actor, action="republish", subject=subject, clock=self._clock, detail=detail)
        return await event_log.republish(self._database, wish.since, wish.until, wish.topic)

    async def verify_audit(self) -> audit.Verdict:
        """Walk the audit chain in one snapshot."""
        async with self._database.read() as connection, begin(connection) as tx:
            await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return await audit.verify(tx)


def add_routes(edge: Edge, database: Database, clock: Clock) -> None:
    """Declare the routes of the internal port."""
    operations = Operations(database, clock)

    async def parked(call: Call[None]) -> Reply:
        return Reply(content={"parked": await operations.parked(call.query.get("consumer"))})

    async def retry(call: Call[ParkedKey]) -> Reply:
        return _found(await operations.retry(call.body, _actor(call)))

    async def skip(call: Call[SkippedKey]) -> Reply:
        return _found(await operations.skip(call.body, _actor(call)))

    async def republish(call: Call[Republished]) -> Reply:
        return Reply(content={"events": await operations.republish(call.body, _actor(call))})

    async def verify(_call: Call[None]) -> Reply:
        verdict = await operations.verify_audit()
        return Reply(content={"rows": verdict.rows, "broken_at": verdict.broken_at, "reason": verdict.reason})

    base = "/internal/v1"
    edge.route("GET", f"{base}/parked", parked, summary="List parked keys", auth="operator", scope="viewer")
    edge.route("GET", f"{base}/audit/verdict", verify, summary="Verify the audit log", auth="operator", scope="viewer")
    for path, handler, model, summary in (
        ("parked/retry", retry, ParkedKey, "Try a parked key again now"),
        ("parked/skip", skip, SkippedKey, "Give up the first event of a parked key"),
        ("republish", republish, Republished, "Tell past events again"),
    ):
        edge.route("POST", f"{base}/{path}", handler, summary=summary, request=model, auth="operator", scope="operator")


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the verbs of the command line; whoever can start a process here is an operator."""
    acts = verbs.add_parser("parked").add_subparsers(dest="act", required=True)
    acts.add_parser("list").add_argument("--consumer")
    for name in ("retry", "skip"):
        act = acts.add_parser(name)
        act.add_argument("consumer")
        act.add_argument("key")
        act.add_argument("--actor", required=True)
        if name == "skip":
            act.add_argument("--reason", required=True)
    republish = verbs.add_parser("republish")
    republish.add_argument("--since", required=True, type=dt.datetime.fromisoformat)
    republish.add_argument("--until", required=True, type=dt.datetime.fromisoformat)
    republish.add_argument("--topic")
    republish.add_argument("--actor", required=True)


async def run_verb(database: Database, clock: Clock, arguments: argparse.Namespace) -> int:
    """Run one verb, write its answer as JSON lines; returns the exit code: 1 when there was no such parked key."""
    operations = Operations(database, clock)
    match (arguments.verb, getattr(arguments, "act", None)):
        case ("parked", "list"):
            for row in await operations.parked(arguments.consumer):
                _write(row)
            return 0
        case ("parked", "retry"):
            wish = ParkedKey(consumer=arguments.consumer, key=arguments.key)
            done = await operations.retry(wish, arguments.actor)
        case ("parked", _):
            given = SkippedKey(consumer=arguments.consumer, key=arguments.key, reason=arguments.reason)
            done = await operations.skip(given, arguments.actor)
        case _:
            again = Republished(since=arguments.since, until=arguments.until, topic=arguments.topic)
            _write({"events": await operations.republish(again, arguments.actor)})
            return 0
    _write({"done": done})
    return 0 if done else 1


def _write(answer: object) -> None:
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")


def _actor(call: Call[Any]) -> str:
    assert call.operator is not None
    return call.operator.subject


def _found(done: bool) -> Reply:  # noqa: FBT001 - the whole of what is to be told
    if not done:
        raise Problem("not_found")
    return Reply(content={"done": True})


def _key(parked: ParkedKey) -> bytes:
    try:
        return parking.read_key(parked.key)
    except ValueError:
        raise Problem("not_found") from None
