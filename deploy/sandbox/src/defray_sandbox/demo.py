"""`defray demo`: one order through payment to the books and the merchant's webhook, narrated, then checked."""

import hashlib
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from defray_sandbox import checks
from defray_sandbox.doors import Doors, Json, eventually, new_key
from defray_sandbox.seed import SeededMerchant, seed_merchants
from defray_sandbox.stack import aot
from defray_sandbox.stack.errors import StackError
from defray_sandbox.stack.local import LocalStack, Options, local_stack
from defray_sandbox.stack.paths import StackPaths, private_folder, stack_paths, sweep_scratch
from defray_sandbox.timeline import Timeline

_EVENTS = ("order.paid.v1", "payment.succeeded.v1")
_CALLBACKS = 50
_WITHIN_S = 15.0


async def run(timeline: Timeline, *, postgres: str | None, kafka: str | None) -> int:
    """Bring a fresh sandbox up, tell the story, check, and take it down; returns 0 when all of it held.

    With servers of the user's own nothing is thrown away: their data and ours must keep fitting together.
    """
    paths = stack_paths()
    sweep_scratch(paths)
    own_servers = postgres is not None or kafka is not None
    if own_servers:
        pair = hashlib.sha256(f"{postgres} {kafka}".encode()).hexdigest()[:8]
        folder = paths.base / f"demo-{paths.uid}-{pair}"
    else:
        folder = private_folder(paths, "demo")
    options = Options(folder=folder, logs=_fresh_logs(paths), postgres=postgres, kafka=kafka)
    with ExitStack() as stack:
        if not own_servers:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        async with local_stack(options, timeline.tell) as sandbox, Doors() as doors:
            story = _Story(sandbox=sandbox, doors=doors, timeline=timeline)
            try:
                await story.tell()
                held = await story.check()
            except StackError:
                timeline.tell(f"the services' logs are in {options.logs}")
                raise
            timeline.tell("stopping")
    timeline.tell("all of it held" if held else "something did NOT hold; see above")
    if aot.ensure_in_background():
        timeline.tell("making Kafka's start-up cache in the background (once, 15 s); the next start is faster")
    return 0 if held else 1


def _fresh_logs(paths: StackPaths) -> Path:
    logs = paths.log / "demo"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    return logs


@dataclass(slots=True, kw_only=True)
class _Story:
    sandbox: LocalStack
    doors: Doors
    timeline: Timeline

    async def tell(self) -> None:
        """Eight lines, from the merchant to the webhook."""
        merchants = await seed_merchants(self.sandbox.site, self.doors)
        merchant = merchants[0]
        names = " and ".join(f"{each.name} ({each.merchant_id})" for each in merchants)
        self._line("merchants", f"{names} registered, each with an API key and a webhook endpoint")
        order = await self._place(merchant)
        payment = await self._pay(order)
        paid_at = await self._payer_pays()
        await self._settled(merchant, order, payment, paid_at)
        await self._told(merchant, order, paid_at)

    async def _place(self, merchant: SeededMerchant) -> Json:
        url = f"{self.sandbox.addresses.services['order'].public_url}/v1/orders"
        body = {
            "merchant_order_no": f"demo-{new_key()[:12]}", "currency": "CNY", "amount_minor": 12_800,
            "items": [
                {"sku": "book-1", "title": "A lamp at noon", "quantity": 2, "unit_amount_minor": 4_900},
                {"sku": "card-7", "title": "Gift card", "quantity": 1, "unit_amount_minor": 3_500, "discount_minor": 500},
            ],
        }  # fmt: skip
        key = new_key()
        order = await self.doors.post(url, body, bearer=merchant.api_key, idempotency_key=key)
        again = await self.doors.post(url, body, bearer=merchant.api_key, idempotency_key=key)
        self._must(again["order_id"] == order["order_id"], "the same request twice made two orders")
        self._line("order", f"{order['order_id']} placed, CNY 128.00; the same request again: the same order")
        return order

    async def _pay(self, order: Json) -> Json:
        url = f"{self.sandbox.addresses.services['payment'].public_url}/v1/payments"
        body = {"channel": "wechat", "product": "native", "description": "Lantern Books"}
        answer = await self.doors.post(url, body, bearer=order["payment_token"], idempotency_key=new_key())
        payment: Json = answer.get("payment", answer)
        code = answer["next_action"]["data"]["code_url"]
        self._line("payment", f"{payment['payment_id']} created with the order's token; QR text {code}")
        return payment

    async def _payer_pays(self) -> float:
        control = self.sandbox.addresses.channel.internal_url
        waiting = (await self.doors.get(f"{control}/control/orders?state=NOTPAY"))["orders"]
        began = time.monotonic()
        body = {"out_trade_no": waiting[-1]["out_trade_no"], "callbacks": _CALLBACKS, "concurrent": True, "wait": True}
        told = await self.doors.post(f"{control}/control/pay", body)
        statuses = {callback["status"] for callback in told["callbacks"]}
        took_ms = (time.monotonic() - began) * 1000
        self._must(statuses == {204}, f"callbacks were answered {statuses}")
        self._line(
            "payer", f"paid; the channel called back {_CALLBACKS} times at once: all acknowledged in {took_ms:.0f} ms"
        )
        return began

    async def _settled(self, merchant: SeededMerchant, order: Json, payment: Json, paid_at: float) -> None:
        services = self.sandbox.addresses.services
        payment_url = f"{services['payment'].public_url}/v1/payments/{payment['payment_id']}"
        await self._reaches(payment_url, merchant, "SUCCEEDED")
        self._line("payment", f"SUCCEEDED {_since(paid_at)} after the payer paid")
        order_url = f"{services['order'].public_url}/v1/orders/{order['order_id']}"
        shown = await self._reaches(order_url, merchant, "PAID")
        self._line("order", f"PAID {_since(paid_at)} after; correlation id {shown['correlation_id']}")
        entries_url = f"{services['settlement'].public_url}/v1/ledger/entries?payment_id={payment['payment_id']}"

        async def entries() -> list[Json] | None:
            return (await self.doors.get(entries_url, bearer=merchant.api_key))["data"] or None

        posted = await eventually("the ledger entry", entries, timeout_s=_WITHIN_S)
        self._must(len(posted) == 1, f"{len(posted)} ledger entries for one payment")
        entry = posted[0]
        amounts = " = ".join(
            (_yuan(entry["gross_minor"]), f"{_yuan(entry['fee_minor'])} fee + {_yuan(entry['net_minor'])} net")
        )
        self._line("books", f"{entry['entry_id']}: CNY {amounts}, {_since(paid_at)} after")

    async def _told(self, merchant: SeededMerchant, order: Json, paid_at: float) -> None:
        control = f"{self.sandbox.addresses.shop.internal_url}/received"

        async def received() -> list[Json] | None:
            shop = (await self.doors.get(control)).get(merchant.shop, {"received": []})
            about = [each for each in shop["received"] if _order_of(each) == order["order_id"]]
            return about if {each["type"] for each in about} >= set(_EVENTS) else None

        webhooks = await eventually(f"webhooks {', '.join(_EVENTS)}", received, timeout_s=_WITHIN_S)
        refused = [each["refused"] for each in webhooks if each["refused"]]
        self._must(not refused, f"the shop refused webhooks: {refused}")
        kinds = ", ".join(each["type"].removesuffix(".v1") for each in webhooks)
        self._line("webhooks", f"{kinds}: signatures verified by the shop, {_since(paid_at)} after")

    async def check(self) -> bool:
        """Print each check with its figures; return whether all hold."""
        left: dict[str, int] = {}

        async def at_rest() -> bool | None:
            nonlocal left
            left = await checks.undone(self.sandbox)
            return None if left else True

        try:
            await eventually("everything to come to rest", at_rest, timeout_s=_WITHIN_S)
        except StackError:
            self.timeline.tell(f"check  still undone: {left}")
        findings = await checks.books(self.sandbox, self.doors)
        findings.append(checks.Finding(what="nothing is pending anywhere", holds=not left, figures=str(left or "")))
        for each in findings:
            self.timeline.tell(f"check     {'holds' if each.holds else 'FAILS'}: {each.what}  {each.figures}")
        return all(each.holds for each in findings)

    async def _reaches(self, url: str, merchant: SeededMerchant, status: str) -> Json:
        async def reached() -> Json | None:
            shown = await self.doors.get(url, bearer=merchant.api_key)
            return shown if shown["status"] == status else None

        return await eventually(f"{url} to be {status}", reached, timeout_s=_WITHIN_S)

    def _line(self, who: str, what: str) -> None:
        self.timeline.tell(f"{who:<9} {what}")

    @staticmethod
    def _must(holds: object, otherwise: str) -> None:
        if not holds:
            raise StackError(otherwise, "this is a defect: please report it with the services' logs")


def _order_of(webhook: Json) -> object:
    data = webhook["data"]
    return data.get("order_id") if isinstance(data, dict) else None


def _since(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def _yuan(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02d}"
