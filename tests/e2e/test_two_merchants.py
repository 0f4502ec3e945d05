"""Two merchants are strictly apart: what belongs to the other is not there, in the same words as what never was."""

import pytest

from defray_kernel.ids import show, uuid7
from tests.e2e.world import Answer, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _words(answer: Answer) -> tuple[int, object]:
    """Status and body but for the request's own correlation id."""
    body = answer.body
    return answer.status, {k: v for k, v in body.items() if k != "correlation_id"} if isinstance(body, dict) else body


async def test_every_kind_of_object_of_the_other_is_not_there(world: World) -> None:
    order = (await world.place()).body
    payment = (await world.pay(order["payment_token"])).body
    await world.channel("/control/pay", {"out_trade_no": payment["attempt_no"], "wait": True})
    await world.order_reaches(order["order_id"], "PAID")
    await world.entries(payment["payment_id"])
    messages = await world.ask("GET", world.url("notifier", "/v1/messages"), by=world.one.api_key)
    message_id = messages.body["data"][0]["message_id"]
    objects = [
        ("GET", "order", "/v1/orders/{}", order["order_id"], "ord", None),
        ("GET", "payment", "/v1/payments/{}", payment["payment_id"], "pay", None),
        ("POST", "payment", "/v1/payments/{}/close", payment["payment_id"], "pay", None),
        ("GET", "notifier", "/v1/webhook-endpoints/{}", world.one.endpoint_id, "end", None),
        ("DELETE", "notifier", "/v1/webhook-endpoints/{}", world.one.endpoint_id, "end", None),
        ("GET", "notifier", "/v1/messages/{}", message_id, "msg", None),
    ]
    for method, service, path, theirs, prefix, body in objects:
        told = []
        for object_id in (theirs, show(prefix, uuid7()), show("evt", uuid7()), "x"):
            url = world.url(service, path.format(object_id))
            told.append(_words(await world.ask(method, url, by=world.other.api_key, body=body)))
        assert {status for status, _ in told} == {404}, (path, told)
        assert [words for words in told if words != told[0]] == [], path
        own = await world.ask(
            "GET", world.url(service, path.removesuffix("/close").format(theirs)), by=world.one.api_key
        )
        assert own.status == 200, path


async def test_lists_and_look_ups_show_nothing_of_the_other(world: World) -> None:
    number = uuid7().hex
    order = (await world.place(merchant_order_no=number)).body
    payment = (await world.pay(order["payment_token"])).body
    empty = [
        ("order", f"/v1/orders?merchant_order_no={number}"),
        ("payment", f"/v1/payments?order_id={order['order_id']}"),
        ("settlement", f"/v1/ledger/entries?payment_id={payment['payment_id']}"),
    ]
    for service, path in empty:
        answer = await world.ask("GET", world.url(service, path), by=world.other.api_key)
        assert (answer.status, answer.body["data"]) == (200, []), path
    for path in ("/v1/messages", "/v1/webhook-endpoints"):
        theirs = await world.ask("GET", world.url("notifier", path), by=world.one.api_key)
        mine = await world.ask("GET", world.url("notifier", path), by=world.other.api_key)
        assert theirs.body["data"]
        assert world.one.merchant_id not in str(mine.body)
        assert not {str(row) for row in theirs.body["data"]} & {str(row) for row in mine.body["data"]}


async def test_the_others_order_cannot_be_paid_and_its_keys_mean_nothing_here(world: World) -> None:
    number, key = uuid7().hex, uuid7().hex
    mine = await world.place(merchant_order_no=number, key=key)
    theirs = await world.place(world.other, merchant_order_no=number, key=key)
    assert (mine.status, theirs.status) == (201, 201)
    assert mine.body["order_id"] != theirs.body["order_id"]
    body = {"channel": "wechat", "product": "native", "order_id": mine.body["order_id"]}
    for credential in (world.other.api_key, theirs.body["payment_token"]):
        answer = await world.ask(
            "POST", world.url("payment", "/v1/payments"), by=credential, body=body, key=uuid7().hex
        )
        assert answer.status == 404, answer
    payment = (await world.pay(mine.body["payment_token"])).body
    url = world.url("payment", f"/v1/payments/{payment['payment_id']}")
    assert (await world.ask("GET", url, by=theirs.body["payment_token"])).status == 404
    assert (await world.ask("GET", url, by=mine.body["payment_token"])).status == 200


async def test_credentials_that_prove_nothing_are_answered_alike(world: World) -> None:
    token = (await world.place()).body["payment_token"]
    forged = [None, "sk_test_nobody", token, world.one.api_key[:-1], world.one.api_key + "a", "a.b.c", ""]
    told = [_words(await world.ask("GET", world.url("order", "/v1/orders/ord_1"), by=by)) for by in forged]
    assert [status for status, _ in told] == [401] * len(forged)
    assert [words for words in told if words != told[0]] == []
    broken = [token[:-4] + "AAAA", token.rpartition(".")[0] + ".", "eyJhbGciOiJub25lIn0.e30."]
    for by in broken:
        assert (await world.ask("GET", world.url("payment", "/v1/payments/pay_1"), by=by)).status == 401
