"""A toy service on the kernel's edge: notes of a merchant, written by group commit under an idempotency key."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
from pydantic import Field

from defray_kernel import idempotency, ids, problems
from defray_kernel.clock import Clock, SystemClock
from defray_kernel.contracts.merchant_v1 import ApiKeyV1, MerchantState
from defray_kernel.db import Database, WriteTx
from defray_kernel.errors import Overloaded
from defray_kernel.fields import AmountMinor, CurrencyCode, RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Limits, Reply, replayed
from defray_kernel.merchants import MerchantDirectory
from defray_kernel.migrate import KERNEL_MIGRATIONS, MERCHANT_MIGRATIONS
from defray_kernel.operators import OperatorTokens
from defray_kernel.roles import ServiceDefinition, Wiring
from defray_kernel.settings import ServiceSettings

MIGRATIONS = (KERNEL_MIGRATIONS, MERCHANT_MIGRATIONS, Path(__file__).parent / "migrations")
KEYS = ("sk_test_" + "a" * 32, "sk_test_" + "b" * 32)
READ_ONLY_KEY = "sk_test_" + "c" * 32
EXPIRED_KEY = "sk_test_" + "d" * 32
MERCHANTS = (UUID(int=0xA0 << 120 | 7 << 76 | 2 << 62), UUID(int=0xB0 << 120 | 7 << 76 | 2 << 62))


class Part(RequestModel):
    sku: Annotated[str, Text(20)]
    quantity: Annotated[int, Field(ge=1, le=1000)]


class PlaceNote(RequestModel):
    title: Annotated[str, Text(40)]
    amount_minor: AmountMinor
    currency: CurrencyCode
    parts: Annotated[tuple[Part, ...], Field(max_length=100)] = ()


class NoteBody(msgspec.Struct, frozen=True, kw_only=True):
    note_id: str
    title: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    note_id: UUID
    merchant_id: UUID
    body: PlaceNote
    key: str
    request_hash: bytes


async def place(commands: Sequence[Place], tx: WriteTx, clock: Clock) -> list[idempotency.Claimed | bytes]:
    claims = [
        idempotency.Claim(
            scope=idempotency.scope_of(c.merchant_id, "place_note"), key=c.key, request_hash=c.request_hash
        )
        for c in commands
    ]
    claimed = await idempotency.claim(tx, claims, clock)
    outcomes: list[idempotency.Claimed | bytes] = []
    answers = []
    for command, claim, result in zip(commands, claims, claimed, strict=True):
        if not isinstance(result, (idempotency.Fresh, idempotency.Resume)):
            outcomes.append(result)
            continue
        note = NoteBody(
            note_id=ids.show("ord", command.note_id),
            title=command.body.title,
            amount_minor=command.body.amount_minor,
            currency=command.body.currency,
        )
        await tx.execute(
            "INSERT INTO note VALUES ($1, $2, $3, $4, $5)",
            command.note_id,
            command.merchant_id,
            note.title,
            note.amount_minor,
            note.currency,
        )
        body = msgspec.json.encode(note)
        outcomes.append(body)
        answers.append(
            idempotency.Answer(scope=claim.scope, key=claim.key, status=201, body=body, resource_id=command.note_id)
        )
    await idempotency.finish(tx, answers)
    return outcomes


class Routes:
    def __init__(self, database: Database, commits: GroupCommit[Place, idempotency.Claimed | bytes]) -> None:
        self._database, self._commits = database, commits

    async def place(self, call: Call[PlaceNote]) -> Reply:
        assert call.merchant is not None
        assert call.idempotency_key is not None
        outcome = await self._commits.submit(
            Place(
                note_id=ids.uuid7(),
                merchant_id=call.merchant.merchant_id,
                body=call.body,
                key=call.idempotency_key,
                request_hash=call.request_hash,
            )
        )
        if isinstance(outcome, bytes):
            return Reply(content=outcome)
        reply = replayed(outcome)
        assert reply is not None
        return reply

    async def read(self, call: Call[None]) -> Reply:
        assert call.merchant is not None
        try:
            note_id = ids.parse("ord", call.path_params["note_id"])
        except ValueError:
            raise problems.Problem("not_found") from None
        async with self._database.read() as connection:
            row = await connection.fetchrow(
                "SELECT title, amount, currency FROM note WHERE merchant_id = $1 AND note_id = $2",
                call.merchant.merchant_id,
                note_id,
            )
        if row is None:
            raise problems.Problem("not_found")
        body = NoteBody(
            note_id=ids.show("ord", note_id), title=row["title"], amount_minor=row["amount"], currency=row["currency"]
        )
        return Reply(content=body)


async def echo_length(call: Call[None]) -> Reply:
    return Reply(
        content={"bytes": len(call.raw), "correlation_id": call.correlation_id, "traceparent": call.traceparent}
    )


async def sleep(call: Call[None]) -> Reply:
    await asyncio.sleep(float(call.query.get("s", "0.2")))
    return Reply(content={"slept": True})


async def fail(call: Call[None]) -> Reply:
    match call.path_params["how"]:
        case "overloaded":
            raise Overloaded("toy")
        case _:
            raise RuntimeError("SELECT secret FROM asyncpg " + KEYS[0])


async def who(call: Call[None]) -> Reply:
    return Reply(content={"subject": call.operator.subject if call.operator else call.token})


def states() -> list[MerchantState]:
    def key(text: str, scopes: list[str], expires_at: dt.datetime | None = None) -> ApiKeyV1:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return ApiKeyV1(
            key_id="key_" + digest[:8], prefix=text[:12], sha256=digest, scopes=scopes, expires_at=expires_at
        )

    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    both = ["notes:write", "notes:read"]
    keys = (
        [key(KEYS[0], both), key(READ_ONLY_KEY, ["notes:read"]), key(EXPIRED_KEY, both, past)],
        [key(KEYS[1], both)],
    )
    return [
        MerchantState(
            merchant_id=ids.show("mer", merchant_id),
            name="Shop",
            status="ACTIVE",
            mode="test",
            currencies=["CNY"],
            api_keys=api_keys,
            changed_at=past,
        )
        for merchant_id, api_keys in zip(MERCHANTS, keys, strict=True)
    ]


def verify_token(token: str) -> object | None:
    return {"order": "ord_1"} if token == "eyJ.payment.token" else None


def build(
    database: Database,
    *,
    clock: Clock | None = None,
    directory: MerchantDirectory | None = None,
    operators: OperatorTokens | None = None,
    limits: Limits | None = None,
) -> Wiring:
    clock = clock or SystemClock()

    async def load() -> list[MerchantState]:
        return states()

    directory = directory or MerchantDirectory(load, clock)
    commits: GroupCommit[Place, Any] = GroupCommit(
        "place_note",
        database,
        place,
        clock,
        keys=lambda c: [f"{c.merchant_id}:{c.key}"],
        natural_key=True,
    )
    routes = Routes(database, commits)
    edge = Edge(
        title="Notes",
        version="1",
        problems=problems.registry(),
        merchants=directory,
        tokens=verify_token,
        operators=operators,
        limits=limits,
    )
    edge.route(
        "POST",
        "/v1/notes",
        routes.place,
        summary="Place a note",
        request=PlaceNote,
        response=NoteBody,
        status=201,
        scope="notes:write",
        idempotency_key=True,
    )
    edge.route("GET", "/v1/notes/{note_id}", routes.read, summary="Read", response=NoteBody, scope="notes:read")
    edge.route("POST", "/v1/echo", echo_length, summary="Count bytes", auth="none")
    edge.route("GET", "/v1/sleep", sleep, summary="Wait", auth="none")
    edge.route("GET", "/v1/fail/{how}", fail, summary="Fail", auth="none")
    edge.route("GET", "/v1/token", who, summary="Token", auth="token")
    internal = Edge(title="Inside", version="1", problems=problems.registry(), operators=operators)
    for role in ("viewer", "operator", "finance"):
        internal.route("GET", f"/internal/v1/{role}", who, summary=role, auth="operator", scope=role)
    return Wiring(
        database=database,
        clock=clock,
        public=edge,
        internal=internal,
        group_commits=[commits],
        directory=directory,
        timers=[idempotency.purge_timer(clock)],
    )


@asynccontextmanager
async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
    async with Database.open(settings.database_dsn, name="toy") as database:
        tokens = OperatorTokens.from_file(settings.operator_jwks_file, issuer=settings.operator_issuer)
        yield build(database, operators=tokens)


SERVICE = ServiceDefinition(
    name="payment", schema="payments", version="1", settings_class=ServiceSettings, wire=wire, migrations=MIGRATIONS
)

if __name__ == "__main__":
    import sys

    from defray_kernel.roles import main

    sys.exit(main(SERVICE, sys.argv[1:]))
