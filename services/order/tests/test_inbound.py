"""Requests of strangers on a real schema: used once, in order per key, waiting for their merchant, or rejected by field."""

import asyncio
import dataclasses
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from defray_kernel import outbox, timers
from defray_kernel.clock import ManualClock, SystemClock
from defray_kernel.contracts.order_v1 import OrderPlaced
from defray_kernel.db import Database
from defray_kernel.errors import Unavailable
from defray_kernel.parking import Record
from defray_order import wiring
from defray_order.commands import redrive_inbound
from defray_order.commands.redrive_inbound import Ended, EndRejected
from defray_order.commands.seal_rejected import RecordContent, RejectedVault
from defray_order.entrypoints import inbound as door
from defray_order.entrypoints.inbound import InboundDoor
from defray_order.store import inbound
from defray_order.store.inbound import RejectedRow
from defray_sandbox.stack.provision import ProvisionedDatabase

from .asking import cancel, changed, know, record, request
from .given import NOW
from .running import ENVELOPE, Shop, running, shop

SCOPES = ["orders:read", "orders:write"]


def nothing() -> None:
    """Nobody is to be woken."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Inbound:
    """The door on one database with a clock of its own, a known merchant, and a registry that is read to its end."""

    database: Database
    clock: ManualClock
    shop: Shop
    vault: RejectedVault
    registry: list[bool | Exception] = dataclasses.field(default_factory=lambda: [True])

    async def take(self, *records: Record, slowly: bool = False) -> None:
        async with self.database.transaction() as tx:
            await InboundDoor(self.clock, self.vault, nothing, waits_s=60).take(tx, records, slowly=slowly)

    async def tick(self) -> None:
        async def caught_up() -> bool:
            said = self.registry[-1]
            if isinstance(said, Exception):
                raise said
            return said

        timer = door.waiting_timer(self.database, self.clock, self.vault, lambda: caught_up, nothing)
        await timers.run_once(self.database, timer, self.clock)

    async def count(self, table: str) -> int:
        async with self.database.read() as conn:
            found: int = await conn.fetchval(f"SELECT count(*) FROM {table}")
        return found

    async def rejected(self) -> list[RejectedRow]:
        async with self.database.read() as conn:
            rows = await inbound.list_rejected(conn, after=UUID(int=0), state=None, reason=None, limit=1_000)
        return sorted(rows, key=lambda row: (row.partition, row.offset))

    async def content(self, row: RejectedRow) -> RecordContent:
        """What is kept of a rejected record, opened."""
        async with self.database.read() as conn:
            whole = await inbound.rejected(conn, row.rejected_id)
        assert whole is not None
        assert whole.sealed is not None
        return self.vault.open(row.rejected_id, whole.sealed)

    async def reasons(self) -> list[tuple[str, str]]:
        return [(row.reason, row.field) for row in await self.rejected()]

    async def told(self, topic: str) -> list[tuple[dict[str, bytes], bytes]]:
        async with self.database.read() as conn:
            rows = await conn.fetch("SELECT headers, payload FROM outbox WHERE topic = $1 ORDER BY id", topic)
        return [(dict(outbox.unpack_headers(row["headers"])), row["payload"]) for row in rows]

    async def states(self) -> dict[str, str]:
        async with self.database.read() as conn:
            rows = await conn.fetch("SELECT merchant_order_no, state FROM orders")
        return {row["merchant_order_no"]: row["state"] for row in rows}


@pytest_asyncio.fixture
async def ours(database: Database) -> AsyncIterator[Inbound]:
    known = shop("one")
    await know(database, known.state(SCOPES))
    yield Inbound(database=database, clock=ManualClock(NOW), shop=known, vault=RejectedVault(database, ENVELOPE))


async def test_a_batch_places_each_order_once_and_tells_whom_to_thank(ours: Inbound) -> None:
    asked = [
        record(request(ours.shop.merchant_id, f"n-{n}"), id_=f"cart {n}", correlationid=b"theirs") for n in range(40)
    ]
    await ours.take(*asked, *asked[:5])
    await ours.take(*asked)
    assert await ours.states() == {f"n-{n}": "PLACED" for n in range(40)}
    told = await ours.told("order.order.events.v1")
    assert len(told) == 40
    by_number = {msgspec.json.decode(body, type=OrderPlaced).merchant_order_no: headers for headers, body in told}
    assert {(h["ce_correlationid"], h["ce_causationid"]) for h in by_number.values()} == {
        (b"theirs", f"cart {n}".encode()) for n in range(40)
    }
    assert await ours.rejected() == []


async def test_a_repeat_is_told_by_source_and_id_or_by_the_number_and_another_wish_is_a_conflict(ours: Inbound) -> None:
    body = request(ours.shop.merchant_id, "n-1")
    await ours.take(record(body, id_="one"))
    await ours.take(record(body, id_="one"), record(body, id_="two"), record(body, id_="one", source=b"/another"))
    assert await ours.rejected() == []
    more = request(ours.shop.merchant_id, "n-1", expires_in_s=600)
    await ours.take(record(more, id_="three"))
    await ours.take(record(request(ours.shop.merchant_id, "n-2"), id_="one"))
    assert await ours.reasons() == [("order_conflict", "merchant_order_no"), ("id_reused", "ce_id")]
    assert await ours.states() == {"n-1": "PLACED"}
    assert len(await ours.told("order.order.events.v1")) == 1


async def test_what_was_rejected_may_come_again_corrected_under_its_id(ours: Inbound) -> None:
    await ours.take(record(request(ours.shop.merchant_id, "n-1"), id_="a"))
    taken = request(ours.shop.merchant_id, "n-1", expires_in_s=600)
    await ours.take(record(taken, id_="b"))
    await ours.take(record(request(ours.shop.merchant_id, "n-2"), id_="b"))
    assert await ours.states() == {"n-1": "PLACED", "n-2": "PLACED"}
    assert len(await ours.rejected()) == 1


async def test_what_cannot_be_used_is_a_dead_letter_with_origin_and_field_and_a_sealed_row(ours: Inbound) -> None:
    bad = changed(record(request(ours.shop.merchant_id, "n-1", amount_minor=301)), partition=7, offset=99)
    await ours.take(record(request(ours.shop.merchant_id, "n-0")), bad, record(request(ours.shop.merchant_id, "n-2")))
    assert await ours.states() == {"n-0": "PLACED", "n-2": "PLACED"}
    ((headers, payload),) = await ours.told("dlq.order.inbound")
    assert payload == b""
    digest = headers.pop("x-value-digest")
    assert {name: headers[name] for name in headers if name != "x-rejected-id"} == {
        "x-origin-topic": b"order.inbound.v1",
        "x-origin-partition": b"7",
        "x-origin-offset": b"99",
        "x-origin-timestamp": b"1700000000000",
        "x-reason": b"amount_mismatch",
        "x-field": b"amount_minor",
        "x-detail": b"the amounts do not add up to the minor unit",
    }
    (row,) = await ours.rejected()
    assert (row.partition, row.offset, row.state, row.truncated) == (7, 99, "OPEN", False)
    assert row.value_digest is not None
    assert digest == row.value_digest.hex().encode()
    content = await ours.content(row)
    assert (content.key, content.value, content.headers) == (bad.key, bad.value, list(bad.headers))
    # The same value again has the same digest, under which nobody can guess it; another has another.
    await ours.take(changed(bad, offset=100), record(b"{"))
    digests = [each.value_digest for each in await ours.rejected()]
    assert sorted(digests.count(each) for each in digests) == [1, 2, 2]
    assert hashlib.sha256(bad.value or b"").digest() not in digests


async def test_what_a_stranger_sent_by_mistake_stands_open_nowhere(
    ours: Inbound, migrated: ProvisionedDatabase
) -> None:
    """In key, header and value of what is rejected; every column of the schema is searched."""
    secret = "ann.wong@example.cn"
    by = cancel(ours.shop.merchant_id, "n-1", by=secret)
    bad = [
        changed(
            record(b'{"buyer":"' + secret.encode() + b'"'), key=secret.encode(), headers=[(secret, secret.encode())]
        ),
        record(request(ours.shop.merchant_id, "n-2", customer=secret), id_=secret),
        record(request(ours.shop.merchant_id, "n-3"), type_=secret),
        record(by, type_="order.cancel_requested.v1"),
    ]
    await ours.take(*bad)
    assert len(await ours.rejected()) == len(bad)
    owner = await asyncpg.connect(migrated.owner_dsn("order"))
    tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    found = [
        table
        for (table,) in tables
        if await owner.fetchval(
            f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE $1 OR t::text LIKE $2',
            f"%{secret}%",
            f"%{secret.encode().hex()}%",
        )
    ]
    await owner.close()
    assert found == []


async def test_a_header_whose_name_is_not_text_is_named_and_stays_so(ours: Inbound) -> None:
    good = record(request(ours.shop.merchant_id, "n-1"))
    await ours.take(changed(good, headers=[*good.headers, ("\ufffdx", b"")]))
    assert await ours.reasons() == [("headers_unreadable", "headers")]
    (row,) = await ours.rejected()
    async with ours.database.transaction() as tx:
        again = EndRejected(rejected_id=row.rejected_id, actor="ann")
        assert await redrive_inbound.redrive(again, tx, ours.clock, ours.vault) is Ended.REFUSED_AGAIN
    assert await ours.states() == {}


async def test_bytes_that_no_table_of_text_could_hold_are_kept_as_they_are(ours: Inbound) -> None:
    ugly = b"\x00\xff\xfe{" + b"\x80" * 10
    odd: Sequence[tuple[str, Any]] = [("ce_id", b"\x00"), ("ce_id", b"\xff"), ("null", None), ("n\u0000l", b"\x00")]
    wild = changed(record(ugly), key=b"\x00\xff", headers=odd, timestamp=-(2**62))
    await ours.take(wild, changed(wild, offset=wild.offset + 1, timestamp=2**62, key=None, value=None))
    assert await ours.reasons() == [("invalid_header", "ce_id")] * 2
    first, second = [await ours.content(row) for row in await ours.rejected()]
    assert (first.key, first.value, second.key, second.value) == (b"\x00\xff", ugly, None, None)
    assert first.headers[2:] == [("null", b""), ("n\u0000l", b"\x00")]


async def test_what_is_too_long_is_cut_and_marked(ours: Inbound) -> None:
    long = changed(record(b'{"a":"' + b"x" * 900_000 + b'"}'), key=b"k" * 5_000)
    await ours.take(long, changed(record(b"{}"), headers=[("h", b"x" * 200_000)]))
    assert await ours.reasons() == [("too_large", "value"), ("too_large", "headers")]
    assert [row.truncated for row in await ours.rejected()] == [True, True]
    assert len(await ours.told("dlq.order.inbound")) == 2


async def test_an_unknown_merchant_is_waited_for_in_order_without_holding_others_up(ours: Inbound) -> None:
    late = shop("late")
    first = record(request(late.merchant_id, "w-1"))
    behind = record(request(late.merchant_id, "w-1", expires_in_s=600))
    await ours.take(first, record(request(ours.shop.merchant_id, "n-1")))
    assert (await ours.states(), await ours.count("inbound_waiting")) == ({"n-1": "PLACED"}, 1)
    await know(ours.database, late.state(SCOPES))
    # It is known by now, and yet may not overtake.
    await ours.take(behind, record(request(late.merchant_id, "w-2")))
    assert (await ours.states(), await ours.count("inbound_waiting")) == ({"n-1": "PLACED", "w-2": "PLACED"}, 2)
    await ours.tick()
    assert (await ours.states())["w-1"] == "PLACED"
    assert await ours.reasons() == [("order_conflict", "merchant_order_no")]
    assert await ours.count("inbound_waiting") == 0


async def test_a_merchant_that_stays_unknown_is_given_up_after_sixty_seconds(ours: Inbound) -> None:
    await ours.take(record(request(shop("never").merchant_id, "w-1")))
    ours.clock.advance(dt.timedelta(seconds=59))
    await ours.tick()
    assert (await ours.count("inbound_waiting"), await ours.rejected()) == (1, [])
    ours.clock.advance(dt.timedelta(seconds=1))
    # A registry that is not read to its end, or cannot be reached, says nothing about a merchant.
    ours.registry.append(False)
    await ours.tick()
    ours.registry.append(Unavailable("Kafka"))
    with pytest.raises(Unavailable):
        await ours.tick()
    assert (await ours.count("inbound_waiting"), await ours.rejected()) == (1, [])
    ours.registry.append(True)
    await ours.tick()
    assert (await ours.count("inbound_waiting"), await ours.reasons()) == (0, [("unknown_merchant", "merchant_id")])
    assert len(await ours.told("dlq.order.inbound")) == 1


async def test_a_consumer_and_the_timer_never_take_a_key_past_each_other(ours: Inbound) -> None:
    late = shop("late")
    await ours.take(*(record(request(late.merchant_id, f"w-{n}")) for n in range(30)))
    await know(ours.database, late.state(SCOPES))
    others = [record(request(late.merchant_id, f"w-{n}", expires_in_s=600)) for n in range(30)]
    await asyncio.gather(ours.tick(), *(ours.take(each) for each in others), ours.tick())
    while await ours.count("inbound_waiting"):
        await ours.tick()
    # The first wish of every number won, whichever way the second came.
    async with ours.database.read() as conn:
        lives = await conn.fetch("SELECT expires_at - placed_at AS life FROM orders")
    assert {row["life"] for row in lives} == {dt.timedelta(seconds=7200)}
    assert await ours.reasons() == [("order_conflict", "merchant_order_no")] * 30


async def test_a_suspended_merchant_places_no_orders_and_one_does_not_sell_in_every_currency(ours: Inbound) -> None:
    closed = shop("closed")
    await know(ours.database, msgspec.structs.replace(closed.state(SCOPES), status="DISABLED"))
    await ours.take(
        record(request(closed.merchant_id, "n-1")), record(request(ours.shop.merchant_id, "n-2", currency="EUR"))
    )
    assert await ours.reasons() == [("merchant_disabled", "merchant_id"), ("unsupported_currency", "currency")]


async def test_record_by_record_comes_to_the_same(ours: Inbound) -> None:
    late = shop("late")
    batch = [
        record(request(ours.shop.merchant_id, "n-1"), id_="a"),
        record(request(ours.shop.merchant_id, "n-1"), id_="a"),
        record(b"{"),
        record(request(late.merchant_id, "w-1")),
        record(request(late.merchant_id, "w-1")),
        record(request(ours.shop.merchant_id, "n-2")),
    ]
    await ours.take(*batch, slowly=True)
    assert (await ours.states(), await ours.count("inbound_waiting")) == ({"n-1": "PLACED", "n-2": "PLACED"}, 2)
    assert await ours.reasons() == [("malformed_json", "value")]


async def test_a_failure_of_our_own_rejects_the_one_record_that_meets_it(
    ours: Inbound, migrated: ProvisionedDatabase
) -> None:
    """As a bug would: here a trigger that fails for one order."""
    owner = await asyncpg.connect(migrated.owner_dsn("order"))
    await owner.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a bug'; END $$;"
        "CREATE TRIGGER bug BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.merchant_order_no = 'bug') EXECUTE FUNCTION fail()"
    )
    await owner.close()
    batch = [record(request(ours.shop.merchant_id, number)) for number in ("n-1", "bug", "n-2")]
    with pytest.raises(asyncpg.RaiseError):
        await ours.take(*batch)
    await ours.take(*batch, slowly=True)
    assert await ours.states() == {"n-1": "PLACED", "n-2": "PLACED"}
    assert await ours.reasons() == [("internal", "value")]


async def test_ids_are_forgotten_after_thirty_days_and_rejected_records_after_ninety(ours: Inbound) -> None:
    await ours.take(record(request(ours.shop.merchant_id, "n-1")), record(b"{"))
    timer = door.purge_timer(ours.clock)
    # Row ids are of real time, which the test's clock is not.
    ours.clock.advance(dt.timedelta(days=29))
    await timers.run_once(ours.database, timer, ours.clock)
    assert await ours.count("inbound_seen") == 1
    ours.clock.advance(dt.timedelta(days=2))
    await timers.run_once(ours.database, timer, ours.clock)
    assert (await ours.count("inbound_seen"), await ours.count("inbound_rejected")) == (0, 1)
    ours.clock.advance(dt.timedelta(days=3650))
    await timers.run_once(ours.database, timer, ours.clock)
    assert await ours.count("inbound_rejected") == 0


async def test_a_cancel_ends_the_order_of_its_number_in_the_same_batch_or_later(ours: Inbound) -> None:
    merchant, type_ = ours.shop.merchant_id, "order.cancel_requested.v1"
    await ours.take(
        record(request(merchant, "n-1")),
        record(cancel(merchant, "n-1", by="customer", reason="changed their mind"), type_=type_),
        record(request(merchant, "n-2")),
    )
    assert await ours.states() == {"n-1": "CLOSING", "n-2": "PLACED"}
    again = record(cancel(merchant, "n-2"), type_=type_)
    await ours.take(again, again)
    await ours.take(again, record(cancel(merchant, "n-1"), type_=type_))
    assert await ours.states() == {"n-1": "CLOSING", "n-2": "CLOSING"}
    assert await ours.rejected() == []
    told = [headers["ce_type"] for headers, _ in await ours.told("order.order.events.v1")]
    assert sorted(told) == [b"order.closing.v1"] * 2 + [b"order.placed.v1"] * 2


async def test_a_cancel_that_comes_first_keeps_the_order_from_coming_to_life(ours: Inbound) -> None:
    merchant = ours.shop.merchant_id
    await ours.take(record(cancel(merchant, "n-1"), type_="order.cancel_requested.v1"))
    await ours.take(record(request(merchant, "n-1")))
    assert await ours.reasons() == [("order_cancelled", "merchant_order_no")]
    assert await ours.states() == {"n-1": "CANCELLED"}


async def test_a_paid_order_is_not_cancelled_and_nobody_else_s_is(ours: Inbound) -> None:
    other, type_ = shop("other"), "order.cancel_requested.v1"
    await know(ours.database, other.state(SCOPES))
    free = [{"sku": "a", "title": "A", "quantity": 1, "unit_amount_minor": 0}]
    await ours.take(record(request(ours.shop.merchant_id, "n-1", amount_minor=0, items=free)))
    await ours.take(record(cancel(ours.shop.merchant_id, "n-1"), type_=type_))
    assert await ours.reasons() == [("invalid_state", "merchant_order_no")]
    await ours.take(
        record(request(ours.shop.merchant_id, "n-2")), record(cancel(other.merchant_id, "n-2"), type_=type_)
    )
    async with ours.database.read() as conn:
        mine = "SELECT state FROM orders WHERE merchant_id = $1 AND merchant_order_no = 'n-2'"
        assert await conn.fetchval(mine, ours.shop.merchant_id) == "PLACED"


async def test_both_doors_are_one(ours: Inbound) -> None:
    """What was placed over HTTP is the same order by event, and the other way round."""
    async with running(ours.database, wiring.placing(ours.database, SystemClock(), after_commit=None)) as service:
        await know(ours.database, service.one.state(SCOPES))
        body = request(service.one.merchant_id, "n-1")
        over_http = {name: value for name, value in body.items() if name != "merchant_id"}
        assert (await service.place(over_http)).status == 201
        await ours.take(record(body), record(request(service.one.merchant_id, "n-2")))
        assert await ours.rejected() == []
        assert (await service.place(over_http | {"merchant_order_no": "n-2"})).status == 200
        assert (await service.place(over_http | {"merchant_order_no": "n-2", "expires_in_s": 600})).status == 409
        await ours.take(record(body | {"expires_in_s": 600}))
        assert await ours.reasons() == [("order_conflict", "merchant_order_no")]
