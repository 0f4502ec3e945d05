"""Buyers: checked by field, sealed, found, shown to their merchant, erased; nowhere in the clear, whatever is looked into."""

import asyncio
import base64
import hashlib
import io
import logging as stdlib_logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from defray_kernel import logging
from defray_kernel.clock import SystemClock
from defray_kernel.crypto import CannotOpen, Envelope
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, parse, show, uuid7
from defray_order.commands import erase_buyers
from defray_order.commands.erase_buyers import EraseBuyer
from defray_order.commands.keep_buyers import BuyerVault
from defray_order.domain import buyer as rule
from defray_order.domain.buyer import Buyer, LookUp, WrongField
from defray_order.domain.seals import buyer_context, buyer_key_context
from defray_sandbox.stack.provision import ProvisionedDatabase

from .running import Answer, Service, Shop, order_body

ANN = {"name": "Ann 安", "email": "Ann@Example.cn", "phone": "+8613800138000", "customer_ref": "c-1"}


@pytest_asyncio.fixture
async def owner(migrated: ProvisionedDatabase) -> AsyncIterator[Database]:
    """The schema as its owner has it."""
    async with Database.open(migrated.owner_dsn("order")) as opened:
        yield opened


async def placed(service: Service, number: str, buyer: dict[str, str] | None = None, by: Shop | None = None) -> str:
    answer = await service.place(order_body(number, buyer=buyer or ANN), by=by)
    assert answer.status == 201, answer.body
    order_id: str = answer.body["order_id"]
    return order_id


async def shown(service: Service, order_id: str, by: Shop | None = None) -> Answer:
    return await service.call("GET", f"/v1/orders/{order_id}/buyer", by=by or service.one)


async def erased(service: Service, by: Shop | None = None, **whom: object) -> Answer:
    return await service.call("POST", "/v1/buyers/erase", by=by or service.one, body=whom)


async def erasure(service: Service, kind: LookUp, value: str, *, orders_max: int) -> EraseBuyer:
    vault = BuyerVault(service.database, Envelope({"k1": bytes(range(32))}, "k1"))
    merchant_id = service.one.merchant_id
    digest = await vault.digest(merchant_id, kind, value)
    return EraseBuyer(merchant_id=merchant_id, key_id="key_1", kind=kind, digest=digest, orders_max=orders_max)


async def found(service: Service, query: str, by: Shop | None = None) -> list[str]:
    answer = await service.call("GET", f"/v1/orders?{query}", by=by or service.one)
    assert answer.status == 200, answer.body
    return [order["order_id"] for order in answer.body["data"]]


async def test_a_buyer_is_kept_and_shown_to_its_merchant(service: Service) -> None:
    order_id = await placed(service, "no-1")
    answer = await shown(service, order_id)
    assert (answer.status, answer.body) == (
        200,
        {"order_id": order_id, "status": "KEPT", "erased_at": None} | ANN,
    )
    partly = await placed(service, "no-2", {"phone": "+12025550123"})
    assert (await shown(service, partly)).body["email"] is None
    without = await service.place(order_body("no-3"))
    assert (await shown(service, without.body["order_id"])).status == 404
    assert (await shown(service, order_id, service.other)).status == 404
    assert (await shown(service, order_id, service.reader)).status == 403
    order = await service.call("GET", f"/v1/orders/{order_id}", by=service.one)
    assert order.status == 200
    assert not any(value in str(order.body) for value in ANN.values())


async def test_the_same_order_with_the_same_buyer_is_a_repeat_and_with_another_a_conflict(service: Service) -> None:
    body = order_body("no-1", buyer=ANN)
    first = await service.place(body, key="k-1")
    again = await service.place(body, key="k-1")
    assert (again.status, again.headers["Idempotency-Replayed"], again.body) == (201, "true", first.body)
    assert (await service.place(body, key="k-2")).status == 200
    other = order_body("no-1", buyer=ANN | {"phone": "+8613800138001"})
    assert (await service.place(other, key="k-3")).body["code"] == "order_conflict"
    assert (await service.place(other, key="k-1")).body["code"] == "idempotency_mismatch"
    assert (await service.place(order_body("no-1"), key="k-4")).body["code"] == "order_conflict"


WRONG: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({}, "invalid_field", "buyer"),
    ({"name": ""}, "invalid_field", "buyer.name"),
    ({"name": "x" * 101}, "invalid_field", "buyer.name"),
    ({"name": "a\u0007b"}, "invalid_field", "buyer.name"),
    ({"email": "ann"}, "invalid_field", "buyer.email"),
    ({"email": "ann@host"}, "invalid_field", "buyer.email"),
    ({"email": "ann smith@host.cn"}, "invalid_field", "buyer.email"),
    ({"email": "ann@host..cn"}, "invalid_field", "buyer.email"),
    ({"email": "a" * 250 + "@host.cn"}, "invalid_field", "buyer.email"),
    ({"email": "ann@host.cn\n"}, "invalid_field", "buyer.email"),
    ({"phone": "13800138000"}, "invalid_field", "buyer.phone"),
    ({"phone": "+86 138 0013 8000"}, "invalid_field", "buyer.phone"),
    ({"phone": "+0123456789"}, "invalid_field", "buyer.phone"),
    ({"phone": "+1234567890123456"}, "invalid_field", "buyer.phone"),
    ({"phone": 13800138000}, "invalid_field", "buyer.phone"),
    ({"customer_ref": "c 1"}, "invalid_field", "buyer.customer_ref"),
    ({"customer_ref": "x" * 65}, "invalid_field", "buyer.customer_ref"),
    ({"address": "x"}, "unknown_field", "buyer.address"),
    ({"name": "4111 1111 1111 1111"}, "pan_not_allowed", "buyer.name"),
)


async def test_what_is_wrong_with_a_buyer_is_named_and_never_repeated(service: Service) -> None:
    told = []
    for buyer, _, _ in WRONG:
        answer = await service.place(order_body("no-1", buyer=buyer))
        told.append((buyer, answer.body["code"], answer.body.get("field")))
        assert answer.status == 422
        assert not any(str(value) in str(answer.body) for value in buyer.values() if len(str(value)) > 3)
    assert told == list(WRONG)


def test_an_address_is_read_in_time_whatever_it_is() -> None:
    assert isinstance(rule.read(email="a@" + "a." * 100_000), WrongField)
    assert isinstance(rule.read(email="张@例子.中国"), Buyer)
    assert repr(rule.read(email="ann@host.cn")) == "Buyer()"


async def test_buyers_are_found_by_what_is_known_of_them(service: Service) -> None:
    one = await placed(service, "no-1")
    two = await placed(service, "no-2", {"email": "ann@example.CN"})
    three = await placed(service, "no-3", {"phone": ANN["phone"], "customer_ref": "c-3"})
    theirs = await placed(service, "no-1", by=service.other)
    assert await found(service, "email=ann@example.cn") == [one, two]
    assert await found(service, "phone=%2B8613800138000") == [one, three]
    assert await found(service, "customer_ref=c-3") == [three]
    assert await found(service, "email=ANN@EXAMPLE.CN&phone=%2B8613800138000") == [one]
    assert await found(service, "email=ann@example.cn&merchant_order_no=no-2") == [two]
    assert await found(service, "email=ann@example.cn&status=PAID") == []
    assert await found(service, "email=bob@example.cn") == []
    assert await found(service, "email=ann@example.cn", service.other) == [theirs]
    async with service.database.read() as conn:
        digests = await conn.fetch(
            "SELECT kind, count(*), count(DISTINCT digest) AS forms FROM buyer_digest GROUP BY kind"
        )
    # Two merchants' digests of one buyer have nothing in common.
    assert {row["kind"]: (row["count"], row["forms"]) for row in digests} == {
        "email": (3, 2),
        "phone": (3, 2),
        "customer_ref": (3, 3),
    }


async def test_an_erased_buyer_is_gone_and_the_books_stay(service: Service) -> None:
    gone = await placed(service, "no-1")
    # The same customer by the merchant's own reference, without the address that is asked for.
    same = await placed(service, "no-2", {"customer_ref": "c-1", "name": "Ann"})
    stays = await placed(service, "no-3", {"email": "bob@example.cn", "customer_ref": "c-2"})
    theirs = await placed(service, "no-1", by=service.other)
    before = [(await service.call("GET", f"/v1/orders/{each}", by=service.one)).body for each in (gone, same, stays)]
    first = await erased(service, email="ann@EXAMPLE.cn")
    assert (first.status, first.body) == (200, {"orders": 2, "complete": True})
    assert (await erased(service, email="ann@example.cn")).body == {"orders": 0, "complete": True}
    for each in (gone, same):
        body = (await shown(service, each)).body
        assert (body["status"], body["name"], body["email"], body["phone"]) == ("ERASED", None, None, None)
        assert body["erased_at"] is not None
    assert (await shown(service, stays)).body["email"] == "bob@example.cn"
    assert (await shown(service, theirs, service.other)).body["email"] == ANN["email"]
    after = [(await service.call("GET", f"/v1/orders/{each}", by=service.one)).body for each in (gone, same, stays)]
    assert after == before
    assert await found(service, "email=ann@example.cn") == []
    assert await found(service, "customer_ref=c-1") == []
    assert await found(service, "") == [gone, same, stays]
    again = await service.place(order_body("no-1", buyer=ANN))
    assert (again.status, again.body["order_id"]) == (200, gone)
    async with service.database.read() as conn:
        acts = await conn.fetch("SELECT actor, action, detail FROM audit_log ORDER BY seq")
    assert [(row["action"], msgspec.json.decode(row["detail"])["orders"]) for row in acts] == [
        ("order.buyer.erase", 2),
        ("order.buyer.erase", 0),
    ]
    assert acts[0]["actor"].startswith(show("mer", service.one.merchant_id))


async def test_erasing_needs_one_field_and_the_right(service: Service) -> None:
    refused = [
        await erased(service),
        await erased(service, email="ann"),
        await erased(service, email="ann@example.cn", phone="+8613800138000"),
        await erased(service, name="Ann"),
    ]
    assert [(each.status, each.body["code"], each.body["field"]) for each in refused] == [
        (422, "missing_field", "customer_ref"),
        (422, "invalid_field", "email"),
        (422, "invalid_field", "phone"),
        (422, "unknown_field", "name"),
    ]
    assert (await erased(service, service.reader, email="ann@example.cn")).status == 403


async def test_what_is_left_of_an_erased_buyer_opens_for_nobody(service: Service, owner: Database) -> None:
    order_id = await placed(service, "no-1")
    uuid = parse("ord", order_id)
    envelope = Envelope({"k1": bytes(range(32))}, "k1")
    async with owner.read() as conn:
        kept = await conn.fetchval("SELECT enciphered FROM order_buyer WHERE order_id = $1", uuid)
        sealed = await conn.fetchval("SELECT key_sealed FROM buyer_key WHERE order_id = $1", uuid)
    own = Envelope({"own": envelope.open(sealed, buyer_key_context(uuid))}, "own")
    assert ANN["email"] in own.open(kept, buyer_context(uuid)).decode()
    with pytest.raises(CannotOpen):
        own.open(kept, buyer_context("another order"))
    await erased(service, customer_ref="c-1")
    async with owner.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM buyer_key") == 0
        assert await conn.fetchval("SELECT count(*) FROM buyer_digest") == 0
        left = await conn.fetchval("SELECT enciphered FROM order_buyer WHERE order_id = $1", uuid)
    for key in (envelope, Envelope({"own": bytes(range(32))}, "own")):
        with pytest.raises(CannotOpen):
            key.open(left, buyer_context(uuid))


async def test_a_buyer_of_very_many_orders_is_erased_in_several_acts(service: Service) -> None:
    named = [await placed(service, f"no-{n}", {"email": "ann@example.cn", "customer_ref": "c-1"}) for n in range(2)]
    same = [await placed(service, f"same-{n}", {"customer_ref": "c-1"}) for n in range(3)]
    command = await erasure(service, LookUp.EMAIL, "ann@example.cn", orders_max=2)
    acts = []
    for _ in range(4):
        async with service.database.transaction() as tx:
            done = await erase_buyers.handle(command, tx, SystemClock())
        acts.append((done.orders, done.complete))
    assert acts == [(2, False), (2, False), (1, True), (0, True)]
    assert {(await shown(service, each)).body["status"] for each in named + same} == {"ERASED"}


async def test_processes_share_one_index_key(database: Database) -> None:
    envelope = Envelope({"k1": bytes(32)}, "k1")
    vaults = [BuyerVault(database, envelope) for _ in range(8)]
    merchant_id = MerchantId(uuid7())
    digests = await asyncio.gather(*(vault.digest(merchant_id, LookUp.EMAIL, "ann@example.cn") for vault in vaults))
    assert len(set(digests)) == 1


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that the service logs, at its most talkative."""
    root, stream = stdlib_logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logging.configure("order", "debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


CANARIES = {
    "name": "Canary Kzqv7e",
    "email": "kzqv7e@canary-mail.cn",
    "phone": "+8613977215566",
    "customer_ref": "ref-kzqv7e-81",
}


async def standing_open(owner: Database) -> dict[str, list[str]]:
    """Tables in whose rows a canary stands open: as text, in bytes, in base64, or as an unkeyed hash."""
    shapes = []
    for value in CANARIES.values():
        raw = value.encode()
        shapes += [value, raw.hex(), base64.b64encode(raw).decode().rstrip("=")]
        shapes += [hash_(raw).hexdigest() for hash_ in (hashlib.sha256, hashlib.sha1, hashlib.md5)]
    found: dict[str, list[str]] = {}
    async with owner.read() as conn:
        tables = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY 1"
        )
        for (table,) in tables:
            sql = f"SELECT s FROM unnest($1::text[]) AS s WHERE EXISTS (SELECT FROM {table} t WHERE t::text ILIKE '%' || s || '%')"
            rows = await conn.fetch(sql, shapes)
            if rows:
                found[table] = [row["s"] for row in rows]
    return found


async def test_no_canary_stands_open_anywhere(service: Service, owner: Database, log: io.StringIO) -> None:
    body = order_body("no-1", buyer=CANARIES)
    first = await service.place(body, key="k-1")
    told = [first, await service.place(body, key="k-1"), await service.place(body, key="k-2")]
    told.append(await service.place(order_body("no-1", buyer=CANARIES | {"name": "Other"})))
    told.append(await service.place(order_body("no-2", buyer=CANARIES, amount_minor=299)))
    told += [
        await service.place(order_body("no-3", buyer=CANARIES | {each: CANARIES[each] + "\n"})) for each in CANARIES
    ]
    told.append(await service.call("GET", f"/v1/orders?email={CANARIES['email']}&limit=0", by=service.one))
    told.append(await service.call("GET", f"/v1/orders?phone={CANARIES['phone']}", by=service.one))
    told.append(await service.call("GET", f"/v1/orders?email={CANARIES['email']}", by=service.one))
    told.append(await service.call("GET", f"/v1/orders/{first.body['order_id']}", by=service.one))
    assert [each.status for each in told] == [201, 201, 200, 409, 422, 422, 422, 422, 422, 400, 400, 200, 200]
    assert [each for each in told for value in CANARIES.values() if value in str(each.body)] == []
    assert await standing_open(owner) == {}
    await erased(service, email=CANARIES["email"])
    assert await standing_open(owner) == {}
    assert [value for value in CANARIES.values() if value in log.getvalue()] == []
    # The other way round: where one stands open, it is found.
    async with owner.transaction() as tx:
        await tx.execute("UPDATE order_buyer SET enciphered = $1 || enciphered", CANARIES["email"].encode())
    assert list(await standing_open(owner)) == ["order_buyer"]
