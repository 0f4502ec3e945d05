"""What `defray demo` shows: payments, money given back, a lost answer, money after the close, an order by event, a coupon."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from defray_sandbox.demo_coupon import tell_of_a_coupon
from defray_sandbox.demo_till import WITHIN_S, Till, must, since, yuan
from defray_sandbox.doors import Doors, Json, eventually, new_key
from defray_sandbox.seed import SeededMerchant, seed_merchants
from defray_sandbox.stack.local import LocalStack

_CALLBACKS: Final = 50
_SCANNED: Final = "28" + "7" * 16


@dataclass(slots=True, kw_only=True)
class Story:
    """Told once, in chapters; each ends when everybody who should know, knows. `tell_line` takes one line."""

    sandbox: LocalStack
    doors: Doors
    tell_line: Callable[[str], None]

    async def tell(self) -> None:
        """From the merchants to what a coupon owes."""
        merchants = await seed_merchants(self.sandbox.site, self.doors)
        books, tea = (self._till(each) for each in merchants)
        names = " and ".join(f"{each.name} ({each.merchant_id})" for each in merchants)
        books.line("merchants", f"{names} registered, each with an API key and a webhook endpoint")
        self.tell_line("· a payment by WeChat Pay, told of fifty times at once")
        order, payment = await self._plain_payment(books)
        self.tell_line("· a part of it goes back")
        await self._refund_in_part(books, order, payment, 4_900)
        self.tell_line("· a payment by Alipay whose answer is lost")
        order, payment = await self._lost_answer(books)
        await self._refund_in_part(books, order, payment, 3_000)
        self.tell_line("· money that comes after the close")
        await self._money_after_the_close(books)
        await tell_of_a_coupon(tea, stranger=books)

    def _till(self, merchant: SeededMerchant) -> Till:
        return Till(sandbox=self.sandbox, doors=self.doors, tell_line=self.tell_line, merchant=merchant)

    async def _plain_payment(self, shop: Till) -> tuple[Json, Json]:
        order = await shop.place()
        payment = await shop.pay(order, "wechat", "native")
        code = payment["next_action"]["data"]["code_url"]
        shop.line("payment", f"{payment['payment_id']} created with the order's token; QR text {code}")
        began = time.monotonic()
        wish = {"out_trade_no": payment["attempt_no"], "callbacks": _CALLBACKS, "concurrent": True, "wait": True}
        told = await shop.pull("wechat", "/control/pay", wish)
        took_ms = (time.monotonic() - began) * 1000
        statuses = {callback["status"] for callback in told["callbacks"]}
        must(statuses == {204}, f"callbacks were answered {statuses}")
        shop.line("payer", f"paid; WeChat called back {_CALLBACKS} times at once: all acknowledged in {took_ms:.0f} ms")
        await shop.payment_reaches(payment, "SUCCEEDED")
        shop.line("payment", f"SUCCEEDED {since(began)} after the payer paid")
        shown = await shop.order_reaches(order, "PAID")
        shop.line("order", f"PAID {since(began)} after; correlation id {shown['correlation_id']}")
        (entry,) = await shop.entries(payment, 1)
        amounts = f"{yuan(entry['gross_minor'])} = {yuan(entry['fee_minor'])} fee + {yuan(entry['net_minor'])} net"
        shop.line("books", f"{entry['entry_id']}: CNY {amounts}, {since(began)} after")
        kinds = await shop.told(order, {"order.paid.v1", "payment.succeeded.v1"})
        shop.line("webhooks", f"{kinds}: signatures verified by the shop, {since(began)} after")
        return order, payment

    async def _refund_in_part(self, shop: Till, order: Json, payment: Json, minor: int) -> None:
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
        shop.line(
            "refund",
            f"{refund['refund_id']}: CNY {yuan(minor)} of {yuan(order['amount_minor'])} back by {payment['channel']}"
            f" in {since(began)}; the same request again: the same refund",
        )
        shop.line("order", f"PARTIALLY_REFUNDED; books: merchant −{yuan(minor)}, the fee stays; webhooks {kinds}")

    async def _lost_answer(self, shop: Till) -> tuple[Json, Json]:
        """The payer's code is scanned, Alipay takes the money, its answer breaks off and no notification comes."""
        order = await shop.place()
        await shop.pull("alipay", "/control/faults", {"operation": "pay", "action": "drop", "count": 1})
        await shop.pull("alipay", "/control/callbacks", {"never": True, "count": 1})
        payment = await shop.pay(order, "alipay", "pay", payer={"auth_code": _SCANNED})
        must(payment["status"] == "PENDING", f"an unclear outcome was told as {payment['status']}")
        shop.line("payment", f"{payment['payment_id']}: the payer's code was scanned, the answer broke off: PENDING")
        began = time.monotonic()
        await shop.payment_reaches(payment, "SUCCEEDED")
        taken = await shop.lever("alipay", f"/control/orders/{payment['attempt_no']}")
        must(taken["create_requests"] == 1, f"the code was charged by {taken['create_requests']} requests")
        shop.line("payment", f"a question to Alipay found the truth in {since(began)}: SUCCEEDED, charged once")
        await shop.order_reaches(order, "PAID")
        await shop.entries(payment, 1)
        return order, payment

    async def _money_after_the_close(self, shop: Till) -> None:
        order = await shop.place()
        first = await shop.pay(order, "wechat", "native")
        closing = f"{shop.url('payment')}/v1/payments/{first['payment_id']}/close"
        await self.doors.post(closing, bearer=order["payment_token"])
        await shop.payment_reaches(first, "CLOSED")
        second = await shop.pay(order, "alipay", "precreate")
        await shop.pull("alipay", "/control/pay", {"out_trade_no": second["attempt_no"], "wait": True})
        await shop.payment_reaches(second, "SUCCEEDED")
        await shop.order_reaches(order, "PAID")
        shop.line("order", f"the payer turned from WeChat Pay (closed there) to Alipay: {order['order_id']} PAID")
        began = time.monotonic()
        wish = {"out_trade_no": first["attempt_no"], "late": True, "wait": True}
        await shop.pull("wechat", "/control/pay", wish)
        await shop.payment_reaches(first, "DUPLICATE")
        shop.line("payer", "the payer's bank was slow: WeChat Pay has the money after all; told as DUPLICATE")

        async def sent_back() -> Json | None:
            url = f"{shop.url('order')}/v1/orders/{order['order_id']}"
            shown = await self.doors.get(url, bearer=shop.merchant.api_key)
            done = [each for each in shown["refunds"] if each["status"] == "SUCCEEDED"]
            return shown if done else None

        shown = await eventually("the money to go back", sent_back, timeout_s=WITHIN_S)
        must(shown["status"] == "PAID" and shown["refunded_minor"] == 0, f"the order became {shown['status']}")
        entries = await shop.entries(first, 2)
        must({entry["kind"] for entry in entries} == {"duplicate", "returned"}, "suspense was not cleared")
        minor = yuan(shown["refunds"][0]["amount_minor"])
        shop.line("refund", f"CNY {minor} sent back by rule, {since(began)} after it came; the order stays PAID")
