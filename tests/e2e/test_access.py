"""Merchants' standing and buyers' privacy over all services: a suspension arrives and goes, and no buyer stands open in any file."""

import asyncio
from pathlib import Path

import pytest

from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from tests.e2e.test_refund_requests import paid
from tests.e2e.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

BUYER = {
    "name": "Kanari Kzq7",
    "email": "kzq7e2e@canary-mail.cn",
    "phone": "+8613977219911",
    "customer_ref": "kzq7e2e-81",
}


async def test_a_suspended_merchant_places_nothing_and_all_else_goes_on(world: World) -> None:
    order, _ = await paid(world)
    waiting = (await world.place()).body
    path = f"/internal/v1/merchants/{world.one.merchant_id}"
    assert (await world.operate("settlement", f"{path}/suspend", None)).status == 200

    async def refused() -> bool:
        answer = await world.place()
        assert answer.status in {201, 403}
        return answer.status == 403 and bool(answer.body["code"] == "merchant_suspended")

    async def placed() -> bool:
        return (await world.place()).status == 201

    try:
        await eventually(refused, within_s=30, what="the suspension is known")
        assert (await world.request_refund(order["order_id"], amount_minor=1_000)).status in {201, 202}
        await world.order_reaches(order["order_id"], "PARTIALLY_REFUNDED")
        url = world.url("order", f"/v1/orders/{waiting['order_id']}/cancel")
        assert (await world.ask("POST", url, by=world.one.api_key, body={})).status == 200
        await world.order_reaches(waiting["order_id"], "CANCELLED")
        assert (await world.place(world.other)).status == 201
    finally:
        assert (await world.operate("settlement", f"{path}/resume", None)).status == 200
        await eventually(placed, within_s=30, what="the merchant is resumed")
    await world.comes_to_rest()


async def test_no_buyer_stands_open_in_any_file_of_databases_topics_and_logs(world: World) -> None:
    placed = await world.place(buyer=BUYER, merchant_order_no=uuid7().hex)
    assert placed.status == 201, placed
    order_id = placed.body["order_id"]
    world_url = world.url("order", f"/v1/orders/{order_id}/buyer")
    assert (await world.ask("GET", world_url, by=world.one.api_key)).body["email"] == BUYER["email"]
    assert (await world.ask("GET", world_url, by=world.other.api_key)).status == 404
    assert (await world.place(buyer=BUYER | {"email": "kzq7e2e"})).status == 422
    await world.pay(placed.body["payment_token"])
    await world.comes_to_rest()
    operator = world.stack.credentials.operator_token("e2e", ["operator"])
    internal = world.stack.addresses.services["order"].internal_url
    seen = await world.ask("GET", f"{internal}/internal/v1/orders/{order_id}/buyer", by=operator)
    assert (seen.status, seen.body["phone"]) == (200, BUYER["phone"])
    verdict = await world.ask("GET", f"{internal}/internal/v1/audit/verdict", by=operator)
    assert (verdict.body["broken_at"], verdict.body["rows"] > 0) == (None, True)
    folder = world.stack.clock_file.parent
    searched, found = await asyncio.to_thread(search, folder, [order_id.removeprefix("ord_"), *BUYER.values()])
    # The order's id is found: the search sees what there is. Kafka's files are compressed, but what was told to topics
    # stands plain in the databases' outbox and event_log.
    assert searched > 0
    assert found[order_id.removeprefix("ord_")] > 0
    assert {value: count for value, count in found.items() if value in BUYER.values() and count} == {}
    # An open payment would be asked about while others look whether anything moves.
    cancel = world.url("order", f"/v1/orders/{order_id}/cancel")
    assert (await world.ask("POST", cancel, by=world.one.api_key, body={})).status == 200
    await world.order_reaches(order_id, "CANCELLED")


def search(folder: Path, values: list[str]) -> tuple[int, dict[str, int]]:
    """How many files were read, and in how many each value stands as text."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = dict.fromkeys(values, 0)
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        for value in values:
            found[value] += value.encode() in content
    return len(files), found
