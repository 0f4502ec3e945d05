"""The demo's chapters of the order service: an order by event, the coupon that comes with it, its use, and what goes back."""

import json
import time
from collections.abc import Mapping
from typing import Final

from defray_kernel.contracts.order_inbound_v1 import TOPIC, OrderRequested
from defray_sandbox.demo_till import WITHIN_S, Till, must, since, yuan
from defray_sandbox.doors import Json, eventually, new_key
from defray_sandbox.event_levers import Published, publish, read_events

_OFF: Final = 2_000
_BOX: Final = {"sku": "TEA-LJ-250", "title": "Longjing tea, 250 g", "quantity": 2, "unit_amount_minor": 6_400}
_PRICE: Final = 12_800


async def tell_of_a_coupon(shop: Till, *, stranger: Till) -> None:
    """Three chapters; `stranger` is another merchant, to whom none of it is there."""
    shop.tell_line("· an order by event, and the coupon that comes with its payment")
    first, code = await _by_event(shop, stranger)
    shop.tell_line("· the coupon pays for a part of another order")
    await _used(shop, first, code)
    shop.tell_line("· half of the first order goes back, and with it the coupon's share")
    await _goes_back(shop, first, code)


async def _by_event(shop: Till, stranger: Till) -> tuple[Json, str]:
    coupon = {"value": "fixed", "amount_minor": _OFF, "uses_max": 2, "valid_days": 30}
    wish = {"name": "A thank-you for tea", "kind": "coupon", "currency": "CNY", "coupon": coupon}
    benefit = await shop.ask("/v1/benefits", wish)
    shop.line("benefit", f"{benefit['benefit_id']}: who buys the tea gets a coupon, twice CNY {yuan(_OFF)} off")
    body = _order(items=[_BOX | {"benefits": [benefit["benefit_id"]]}])
    began = time.monotonic()
    event = _event(shop, body)
    await publish([event, event], shop.sandbox.addresses.kafka)
    order_id = await _placed(shop, str(body["merchant_order_no"]))
    text = f"{OrderRequested.TYPE} published twice on {TOPIC}: one order, {order_id}, {since(began)} after"
    shop.line("event", text)
    order = await shop.ask("/v1/orders", body)
    must(order["order_id"] == order_id, "the same order by event and over HTTP became two")
    shop.line("order", "asked for over HTTP too: the same order, with its payment token")
    began = time.monotonic()
    await _pay(shop, order, "wechat", "native", "FULFILLED")
    (grant,) = (await shop.look(f"/v1/orders/{order_id}/grants"))["data"]
    code = grant["coupon_code"]
    kinds = await shop.told(order, {"order.paid.v1", "grant.granted.v1", "order.fulfilled.v1"})
    shop.line(
        "payer", f"paid by WeChat Pay; PAID, the coupon GRANTED, FULFILLED {since(began)} after; webhooks {kinds}"
    )
    await stranger.look(f"/v1/coupons/{code}", expect=(404,))
    shop.line("coupon", f"{code}, good for {grant['uses_max']} orders; the other merchant asks for it: 404")
    return order, code


async def _used(shop: Till, first: Json, code: str) -> None:
    due = _PRICE - _OFF
    order = await shop.ask("/v1/orders", _order(amount_minor=due, items=[_BOX], coupon_codes=[code]))
    must(order["coupons_minor"] == _OFF, f"the coupon took off {order['coupons_minor']}")
    shop.line(
        "order", f"{order['order_id']} placed, CNY {yuan(_PRICE)} less {yuan(_OFF)}: one use of the coupon reserved"
    )
    await _pay(shop, order, "alipay", "precreate", "PAID")
    (grant,) = (await shop.look(f"/v1/orders/{first['order_id']}/grants"))["data"]
    must((grant["uses"], grant["reserved"]) == (1, 0), f"the coupon has {grant['uses']} uses")
    kinds = await shop.told(first, {"grant.used.v1"})
    shop.line("payer", f"CNY {yuan(due)} paid by Alipay; the use counts, one is left; webhook {kinds}")


async def _goes_back(shop: Till, first: Json, code: str) -> None:
    began = time.monotonic()
    path = f"/v1/orders/{first['order_id']}/refund-requests"
    asked = await shop.ask(path, {"lines": [{"line": 1, "quantity": 1}], "reason": "one box is returned"})
    steps = " → ".join(step["kind"] for step in asked["steps"])
    request = await shop.reaches("order", f"/v1/refund-requests/{asked['refund_request_id']}", "SUCCEEDED")
    amount = f"CNY {yuan(request['amount_minor'])} of {yuan(_PRICE)}"
    shop.line("refund", f"{request['refund_request_id']}: {steps} → SUCCEEDED: {amount} back in {since(began)}")
    shown = await shop.order_reaches(first, "PARTIALLY_REFUNDED")
    coupon = await shop.look(f"/v1/coupons/{code}")
    half = _OFF // 2
    must((coupon["amount_minor"], coupon["uses_left"]) == (half, 1), f"the coupon takes off {coupon['amount_minor']}")
    must(shown["grant_debt_minor"] == half, f"the order owes {shown['grant_debt_minor']}")
    text = f"half of it came back: its other use takes CNY {yuan(half)} off; of the use that is gone the order owes {yuan(half)}"
    shop.line("coupon", text)
    kinds = await shop.told(first, {"grant.revoked.v1", "grant.owed.v1", "refund.succeeded.v1", "order.refunded.v1"})
    steps = (await shop.look(f"/v1/orders/{first['order_id']}/timeline"))["data"]
    shop.line("webhooks", f"{kinds}; the order's timeline has {len(steps)} steps, each with its cause")


async def _pay(shop: Till, order: Json, channel: str, product: str, status: str) -> None:
    payment = await shop.pay(order, channel, product)
    await shop.pull(channel, "/control/pay", {"out_trade_no": payment["attempt_no"], "wait": True})
    await shop.order_reaches(order, status)
    await shop.entries(payment, 1)


async def _placed(shop: Till, number: str) -> str:
    async def listed() -> str | None:
        found: list[Json] = (await shop.look(f"/v1/orders?merchant_order_no={number}"))["data"]
        return found[0]["order_id"] if found else None

    return await eventually("the order to be placed", listed, timeout_s=WITHIN_S)


def _order(**changes: object) -> dict[str, object]:
    number = f"demo-{new_key()[:12]}"
    return {"merchant_order_no": number, "currency": "CNY", "amount_minor": _PRICE, "expires_in_s": 1_800} | changes


def _event(shop: Till, body: Mapping[str, object]) -> Published:
    """As a file for `defray events publish` would have it."""
    attributes = {
        "specversion": "1.0",
        "id": f"cart {new_key()[:8]}",
        "source": "/tea/checkout",
        "type": OrderRequested.TYPE,
    }
    document = attributes | {"data": dict(body) | {"merchant_id": shop.merchant.merchant_id}}
    (event,) = read_events(json.dumps(document).encode())
    assert isinstance(event, Published), event
    return event
