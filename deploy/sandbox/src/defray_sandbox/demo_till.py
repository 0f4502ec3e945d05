"""One merchant of the demo and its payers: what they ask at the public doors, and what they wait to see there."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from defray_sandbox.doors import Doors, Json, eventually, new_key
from defray_sandbox.seed import SeededMerchant
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.local import LocalStack

WITHIN_S: Final = 15.0
_ITEMS: Final = (
    {"sku": "book-1", "title": "A lamp at noon", "quantity": 2, "unit_amount_minor": 4_900},
    {"sku": "card-7", "title": "Gift card", "quantity": 1, "unit_amount_minor": 3_500, "discount_minor": 500},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Till:
    """One merchant and its payers, at the services' public doors; `tell_line` takes one line of the story."""

    sandbox: LocalStack
    doors: Doors
    tell_line: Callable[[str], None]
    merchant: SeededMerchant

    def line(self, who: str, what: str) -> None:
        """Tell what somebody did."""
        self.tell_line(f"{who:<9} {what}")

    def url(self, service: str) -> str:
        return self.sandbox.addresses.services[service].public_url

    async def ask(self, path: str, body: Mapping[str, object], *, key: str | None = None) -> Json:
        """Ask the order service for something, under a fresh key unless it is asked again."""
        url = self.url("order") + path
        return await self.doors.post(url, body, bearer=self.merchant.api_key, idempotency_key=key or new_key())

    async def look(self, path: str, *, expect: tuple[int, ...] = (200,)) -> Json:
        """What the order service shows."""
        return await self.doors.get(self.url("order") + path, bearer=self.merchant.api_key, expect=expect)

    async def place(self) -> Json:
        body = {
            "merchant_order_no": f"demo-{new_key()[:12]}", "currency": "CNY", "amount_minor": 12_800, "items": _ITEMS,
        }  # fmt: skip
        key = new_key()
        order = await self.ask("/v1/orders", body, key=key)
        again = await self.ask("/v1/orders", body, key=key)
        must(again["order_id"] == order["order_id"], "the same request twice made two orders")
        text = f"{order['order_id']} placed, CNY 128.00; the same request again: the same order"
        self.line("order", text)
        return order

    async def pay(self, order: Json, channel: str, product: str, **more: object) -> Json:
        body = {"channel": channel, "product": product, "description": self.merchant.name} | more
        url = f"{self.url('payment')}/v1/payments"
        return await self.doors.post(url, body, bearer=order["payment_token"], idempotency_key=new_key())

    async def pull(self, channel: str, path: str, wish: Mapping[str, object]) -> Json:
        """Pull one of a channel's levers."""
        return await self.doors.post(f"{self.sandbox.addresses.channels[channel].internal_url}{path}", wish)

    async def lever(self, channel: str, path: str) -> Json:
        """What a channel's lever shows."""
        return await self.doors.get(f"{self.sandbox.addresses.channels[channel].internal_url}{path}")

    async def payment_reaches(self, payment: Json, status: str) -> Json:
        return await self.reaches("payment", f"/v1/payments/{payment['payment_id']}", status)

    async def order_reaches(self, order: Json, status: str) -> Json:
        return await self.reaches("order", f"/v1/orders/{order['order_id']}", status)

    async def reaches(self, service: str, path: str, status: str) -> Json:
        """The thing at this path once it has that status."""

        async def reached() -> Json | None:
            shown = await self.doors.get(self.url(service) + path, bearer=self.merchant.api_key)
            return shown if shown["status"] == status else None

        return await eventually(f"{service} {path} to be {status}", reached, timeout_s=WITHIN_S)

    async def entries(self, payment: Json, count: int) -> list[Json]:
        """The ledger entries of a payment and its refunds, as soon as there are so many; never more."""
        url = f"{self.url('settlement')}/v1/ledger/entries?payment_id={payment['payment_id']}"

        async def posted() -> list[Json] | None:
            found: list[Json] = (await self.doors.get(url, bearer=self.merchant.api_key))["data"]
            return found if len(found) >= count else None

        found = await eventually(f"{count} ledger entries", posted, timeout_s=WITHIN_S)
        must(len(found) == count, f"{len(found)} ledger entries where {count} belong")
        return found

    async def told(self, order: Json, kinds: set[str]) -> str:
        """Wait until the shop has webhooks of these kinds about an order; returns all kinds that it has."""
        control = f"{self.sandbox.addresses.shop.internal_url}/received"

        async def received() -> list[Json] | None:
            shop = (await self.doors.get(control)).get(self.merchant.shop, {"received": []})
            about = [each for each in shop["received"] if _order_of(each) == order["order_id"]]
            return about if {each["type"] for each in about} >= kinds else None

        webhooks = await eventually(f"webhooks {', '.join(sorted(kinds))}", received, timeout_s=WITHIN_S)
        refused = [each["refused"] for each in webhooks if each["refused"]]
        must(not refused, f"the shop refused webhooks: {refused}")
        return ", ".join(dict.fromkeys(each["type"].removesuffix(".v1") for each in webhooks if each["type"] in kinds))


def must(holds: object, otherwise: str) -> None:
    """Raise StackError when something that the story tells of did not happen."""
    if not holds:
        raise StackError(otherwise, "this is a defect: please report it with the services' logs")


def since(began: float) -> str:
    """How long ago that was (monotonic seconds), for a person."""
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def yuan(minor: int) -> str:
    """An amount in minor units, for a person."""
    return f"{minor // 100}.{minor % 100:02d}"


def _order_of(webhook: Json) -> object:
    data = webhook["data"]
    return data.get("order_id") if isinstance(data, dict) else None
