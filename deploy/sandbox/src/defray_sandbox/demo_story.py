"""What `defray demo` shows: a plain payment, money given back, a lost answer and money after the close, on two channels."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from defray_sandbox.doors import Doors, Json, eventually, new_key
from defray_sandbox.seed import SeededMerchant, seed_merchants
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.local import LocalStack

_CALLBACKS: Final = 50
_WITHIN_S: Final = 15.0
_ITEMS: Final = (
    {"sku": "book-1", "title": "A lamp at noon", "quantity": 2, "unit_amount_minor": 4_900},
    {"sku": "card-7", "title": "Gift card", "quantity": 1, "unit_amount_minor": 3_500, "discount_minor": 500},
)
_SCANNED: Final = "28" + "7" * 16


@dataclass(slots=True, kw_only=True)
class Story:
    """Told once, in chapters; each ends when everybody who should know, knows. `tell` takes one line."""

    sandbox: LocalStack
    doors: Doors
    tell_line: Callable[[str], None]

    async def tell(self) -> None:
        """From the merchants to the money that came too late."""
        merchants = await seed_merchants(self.sandbox.site, self.doors)
        names = " and ".join(f"{each.name} ({each.merchant_id})" for each in merchants)
        self._line("merchants", f"{names} registered, each with an API key and a webhook endpoint")
        book_shop = _Shop(story=self, merchant=merchants[0])
        self.tell_line("· a payment by WeChat Pay, told of fifty times at once")
        order, payment = await self._plain_payment(book_shop)
        self.tell_line("· a part of it goes back")
        await self._refund_in_part(book_shop, order, payment, 4_900)
        self.tell_line("· a payment by Alipay whose answer is lost")
        order, payment = await self._lost_answer(book_shop)
        await self._refund_in_part(book_shop, order, payment, 3_000)
        self.tell_line("· money that comes after the close")
        await self._money_after_the_close(book_shop)

    async def _plain_payment(self, shop: "_Shop") -> tuple[Json, Json]:
        order = await shop.place()
        payment = await shop.pay(order, "wechat", "native")
        code = payment["next_action"]["data"]["code_url"]
        self._line("payment", f"{payment['payment_id']} created with the order's token; QR text {code}")
        began = time.monotonic()
        wish = {"out_trade_no": payment["attempt_no"], "callbacks": _CALLBACKS, "concurrent": True, "wait": True}
        told = await self._pull("wechat", "/control/pay", wish)
        took_ms = (time.monotonic() - began) * 1000
        statuses = {callback["status"] for callback in told["callbacks"]}
        must(statuses == {204}, f"callbacks were answered {statuses}")
        self._line(
            "payer", f"paid; WeChat called back {_CALLBACKS} times at once: all acknowledged in {took_ms:.0f} ms"
        )
        await shop.payment_reaches(payment, "SUCCEEDED")
        self._line("payment", f"SUCCEEDED {_since(began)} after the payer paid")
        shown = await shop.order_reaches(order, "PAID")
        self._line("order", f"PAID {_since(began)} after; correlation id {shown['correlation_id']}")
        (entry,) = await shop.entries(payment, 1)
        amounts = f"{_yuan(entry['gross_minor'])} = {_yuan(entry['fee_minor'])} fee + {_yuan(entry['net_minor'])} net"
        self._line("books", f"{entry['entry_id']}: CNY {amounts}, {_since(began)} after")
        kinds = await shop.told(order, {"order.paid.v1", "payment.succeeded.v1"})
        self._line("webhooks", f"{kinds}: signatures verified by the shop, {_since(began)} after")
        return order, payment

    async def _refund_in_part(self, shop: "_Shop", order: Json, payment: Json, minor: int) -> None:
        url = f"{shop.url('payment')}/v1/payments/{payment['payment_id']}/refunds"
        wish, key = {"amount_minor": minor, "reason": "one is returned"}, new_key()
        began = time.monotonic()
        refund = await self.doors.post(url, wish, bearer=shop.merchant.api_key, idempotency_key=key)
        again = await self.doors.post(url, wish, bearer=shop.merchant.api_key, idempotency_key=key)
        must(again["refund_id"] == refund["refund_id"], "the same request twice made two refunds")
        await shop.reaches("payment", f"/v1/refunds/{refund['refund_id']}", "SUCCEEDED")
        shown = await shop.order_reaches(order, "PARTIALLY_REFUNDED")
        must(shown["refunded_minor"] == minor, f"the order says {shown['refunded_minor']} went back")
        entries = await shop.entries(payment, 2)
        back = [entry["net_minor"] for entry in entries if entry["kind"] == "refunded"]
        must(back == [-minor], f"the merchant was debited {back}")
        kinds = await shop.told(order, {"refund.succeeded.v1", "order.refunded.v1"})
        self._line(
            "refund",
            f"{refund['refund_id']}: CNY {_yuan(minor)} of {_yuan(order['amount_minor'])} back by {payment['channel']}"
            f" in {_since(began)}; the same request again: the same refund",
        )
        self._line("order", f"PARTIALLY_REFUNDED; books: merchant −{_yuan(minor)}, the fee stays; webhooks {kinds}")

    async def _lost_answer(self, shop: "_Shop") -> tuple[Json, Json]:
        """The payer's code is scanned, Alipay takes the money, its answer breaks off and no notification comes."""
        order = await shop.place()
        await self._pull("alipay", "/control/faults", {"operation": "pay", "action": "drop", "count": 1})
        await self._pull("alipay", "/control/callbacks", {"never": True, "count": 1})
        payment = await shop.pay(order, "alipay", "pay", payer={"auth_code": _SCANNED})
        must(payment["status"] == "PENDING", f"an unclear outcome was told as {payment['status']}")
        self._line("payment", f"{payment['payment_id']}: the payer's code was scanned, the answer broke off: PENDING")
        began = time.monotonic()
        await shop.payment_reaches(payment, "SUCCEEDED")
        taken = await self._read("alipay", f"/control/orders/{payment['attempt_no']}")
        must(taken["create_requests"] == 1, f"the code was charged by {taken['create_requests']} requests")
        self._line("payment", f"a question to Alipay found the truth in {_since(began)}: SUCCEEDED, charged once")
        await shop.order_reaches(order, "PAID")
        await shop.entries(payment, 1)
        return order, payment

    async def _money_after_the_close(self, shop: "_Shop") -> None:
        order = await shop.place()
        first = await shop.pay(order, "wechat", "native")
        closing = f"{shop.url('payment')}/v1/payments/{first['payment_id']}/close"
        await self.doors.post(closing, bearer=order["payment_token"])
        await shop.payment_reaches(first, "CLOSED")
        second = await shop.pay(order, "alipay", "precreate")
        await self._pull("alipay", "/control/pay", {"out_trade_no": second["attempt_no"], "wait": True})
        await shop.payment_reaches(second, "SUCCEEDED")
        await shop.order_reaches(order, "PAID")
        self._line("order", f"the payer turned from WeChat Pay (closed there) to Alipay: {order['order_id']} PAID")
        began = time.monotonic()
        wish = {"out_trade_no": first["attempt_no"], "late": True, "wait": True}
        await self._pull("wechat", "/control/pay", wish)
        await shop.payment_reaches(first, "DUPLICATE")
        self._line("payer", "the payer's bank was slow: WeChat Pay has the money after all; told as DUPLICATE")

        async def sent_back() -> Json | None:
            url = f"{shop.url('order')}/v1/orders/{order['order_id']}"
            shown = await self.doors.get(url, bearer=shop.merchant.api_key)
            done = [each for each in shown["refunds"] if each["status"] == "SUCCEEDED"]
            return shown if done else None

        shown = await eventually("the money to go back", sent_back, timeout_s=_WITHIN_S)
        must(shown["status"] == "PAID" and shown["refunded_minor"] == 0, f"the order became {shown['status']}")
        entries = await shop.entries(first, 2)
        must({entry["kind"] for entry in entries} == {"duplicate", "returned"}, "suspense was not cleared")
        minor = _yuan(shown["refunds"][0]["amount_minor"])
        self._line("refund", f"CNY {minor} sent back by rule, {_since(began)} after it came; the order stays PAID")

    async def _pull(self, channel: str, path: str, wish: Mapping[str, object]) -> Json:
        return await self.doors.post(f"{self.sandbox.addresses.channels[channel].internal_url}{path}", wish)

    async def _read(self, channel: str, path: str) -> Json:
        return await self.doors.get(f"{self.sandbox.addresses.channels[channel].internal_url}{path}")

    def _line(self, who: str, what: str) -> None:
        self.tell_line(f"{who:<9} {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shop:
    """One merchant and its payers, at the services' public doors."""

    story: Story
    merchant: SeededMerchant

    def url(self, service: str) -> str:
        return self.story.sandbox.addresses.services[service].public_url

    async def place(self) -> Json:
        body = {
            "merchant_order_no": f"demo-{new_key()[:12]}", "currency": "CNY", "amount_minor": 12_800, "items": _ITEMS,
        }  # fmt: skip
        key, url = new_key(), f"{self.url('order')}/v1/orders"
        order = await self.story.doors.post(url, body, bearer=self.merchant.api_key, idempotency_key=key)
        again = await self.story.doors.post(url, body, bearer=self.merchant.api_key, idempotency_key=key)
        must(again["order_id"] == order["order_id"], "the same request twice made two orders")
        text = f"{order['order_id']} placed, CNY 128.00; the same request again: the same order"
        self.story.tell_line(f"{'order':<9} {text}")
        return order

    async def pay(self, order: Json, channel: str, product: str, **more: object) -> Json:
        body = {"channel": channel, "product": product, "description": self.merchant.name} | more
        url = f"{self.url('payment')}/v1/payments"
        return await self.story.doors.post(url, body, bearer=order["payment_token"], idempotency_key=new_key())

    async def payment_reaches(self, payment: Json, status: str) -> Json:
        return await self.reaches("payment", f"/v1/payments/{payment['payment_id']}", status)

    async def order_reaches(self, order: Json, status: str) -> Json:
        return await self.reaches("order", f"/v1/orders/{order['order_id']}", status)

    async def reaches(self, service: str, path: str, status: str) -> Json:
        """The thing at this path once it has that status."""

        async def reached() -> Json | None:
            shown = await self.story.doors.get(self.url(service) + path, bearer=self.merchant.api_key)
            return shown if shown["status"] == status else None

        return await eventually(f"{service} {path} to be {status}", reached, timeout_s=_WITHIN_S)

    async def entries(self, payment: Json, count: int) -> list[Json]:
        """The ledger entries of a payment and its refunds, as soon as there are so many; never more."""
        url = f"{self.url('settlement')}/v1/ledger/entries?payment_id={payment['payment_id']}"

        async def posted() -> list[Json] | None:
            found: list[Json] = (await self.story.doors.get(url, bearer=self.merchant.api_key))["data"]
            return found if len(found) >= count else None

        found = await eventually(f"{count} ledger entries", posted, timeout_s=_WITHIN_S)
        must(len(found) == count, f"{len(found)} ledger entries where {count} belong")
        return found

    async def told(self, order: Json, kinds: set[str]) -> str:
        """Wait until the shop has webhooks of these kinds about an order; returns all kinds that it has."""
        control = f"{self.story.sandbox.addresses.shop.internal_url}/received"

        async def received() -> list[Json] | None:
            shop = (await self.story.doors.get(control)).get(self.merchant.shop, {"received": []})
            about = [each for each in shop["received"] if _order_of(each) == order["order_id"]]
            return about if {each["type"] for each in about} >= kinds else None

        webhooks = await eventually(f"webhooks {', '.join(sorted(kinds))}", received, timeout_s=_WITHIN_S)
        refused = [each["refused"] for each in webhooks if each["refused"]]
        must(not refused, f"the shop refused webhooks: {refused}")
        return ", ".join(dict.fromkeys(each["type"].removesuffix(".v1") for each in webhooks if each["type"] in kinds))


def must(holds: object, otherwise: str) -> None:
    """Raise StackError when something that the story tells of did not happen."""
    if not holds:
        raise StackError(otherwise, "this is a defect: please report it with the services' logs")


def _order_of(webhook: Json) -> object:
    data = webhook["data"]
    return data.get("order_id") if isinstance(data, dict) else None


def _since(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def _yuan(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02d}"
