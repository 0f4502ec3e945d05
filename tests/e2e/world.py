"""One running sandbox as its users see it: merchants, payers, the channel's levers, webhook receivers, operators."""

import asyncio
import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from defray_kernel.ids import uuid7
from defray_kernel.testing.eventually import eventually
from defray_sandbox import checks, sandbox_clock
from defray_sandbox.doors import Doors
from defray_sandbox.seed import SeededMerchant
from defray_sandbox.stack.local import LocalStack

ITEM = {"sku": "tea-1", "title": "Tea 茶", "quantity": 2, "unit_amount_minor": 4_900}
NOT_NOW = (409, 503)


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply; `body` is its JSON, or None when it has none."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass(slots=True)
class Receiver:
    """A merchant's endpoint that keeps every delivery as it came: headers and raw body."""

    deliveries: list[tuple[dict[str, str], str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """Accept anything; the judge looks at it later."""
        named = {name.lower(): value for name, value in request.headers.items()}
        self.deliveries.append((named, (await request.read()).decode()))
        return web.Response(status=204)

    def messages(self) -> set[tuple[str, str, str]]:
        """(type, order id, webhook id) of all deliveries: one that came twice is one."""
        bodies = [(json.loads(body), headers["webhook-id"]) for headers, body in self.deliveries]
        return {(body["type"], body["data"].get("order_id", ""), webhook_id) for body, webhook_id in bodies}

    def told(self, order_id: str) -> dict[str, set[str]]:
        """Webhook ids of an order's messages, by type."""
        found: dict[str, set[str]] = {}
        for kind, about, webhook_id in self.messages():
            if about == order_id:
                found.setdefault(kind, set()).add(webhook_id)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the tests act through: public doors, the payer's and the channel's levers, and operators' doors."""

    stack: LocalStack
    doors: Doors
    http: aiohttp.ClientSession
    one: SeededMerchant
    other: SeededMerchant

    def url(self, service: str, path: str) -> str:
        """A public address."""
        return self.stack.addresses.services[service].public_url + path

    async def ask(
        self,
        method: str,
        url: str,
        *,
        by: str | None = None,
        body: object = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request; `by` is a bearer credential."""
        sent = {"Authorization": f"Bearer {by}"} if by else {}
        sent |= {"Idempotency-Key": key} if key is not None else {}
        sent |= headers or {}
        content: dict[str, Any] = {"json": body} if raw is None else {"data": raw}
        async with self.http.request(method, url, headers=sent, **content) as reply:
            text = await reply.read()
            is_json = "json" in reply.headers.get("Content-Type", "")
            return Answer(
                reply.status, await reply.json(content_type=None) if text and is_json else None, reply.headers
            )

    async def place(
        self, merchant: SeededMerchant | None = None, *, key: str | None = None, correlation_id: str | None = None,
        **changes: object,
    ) -> Answer:  # fmt: skip
        """A merchant's order of 98.00 CNY."""
        body = {"merchant_order_no": uuid7().hex, "currency": "CNY", "amount_minor": 9_800, "items": [ITEM]} | changes
        headers = {"X-Correlation-Id": correlation_id} if correlation_id else {}
        url = self.url("order", "/v1/orders")
        by = (merchant or self.one).api_key
        return await self.ask("POST", url, by=by, body=body, key=key or uuid7().hex, headers=headers)

    async def pay(
        self, token: str, *, key: str | None = None, channel: str = "wechat", product: str = "native"
    ) -> Answer:
        """The cashier asks for a QR code with the order's token."""
        body = {"channel": channel, "product": product}
        return await self.ask("POST", self.url("payment", "/v1/payments"), by=token, body=body, key=key or uuid7().hex)

    async def refund(self, payment_id: str, amount_minor: int, *, key: str | None = None) -> Answer:
        """Merchant one asks for money to go back."""
        url = self.url("payment", f"/v1/payments/{payment_id}/refunds")
        by = self.one.api_key
        return await self.ask("POST", url, by=by, body={"amount_minor": amount_minor}, key=key or uuid7().hex)

    async def request_refund(self, order_id: str, *, key: str | None = None, **wish: object) -> Answer:
        """Merchant one asks the order service for money of an order to go back."""
        url = self.url("order", f"/v1/orders/{order_id}/refund-requests")
        body = {"reason": "one tin returned"} | wish
        return await self.ask("POST", url, by=self.one.api_key, body=body, key=key or uuid7().hex)

    async def channel(self, path: str, body: object = None, *, of: str = "wechat") -> Any:  # noqa: ANN401 - the simulator's JSON
        """Pull one of a channel's levers."""
        url = self.stack.addresses.channels[of].internal_url + path
        answer = await self.ask("GET" if body is None else "POST", url, body=body)
        assert answer.status == 200, answer
        return answer.body

    async def advance(self, seconds: int) -> None:
        """Move business time on, for the services and the channels."""
        await sandbox_clock.advance(self.stack.clock_file, self.stack.addresses, seconds)

    async def operate(self, service: str, path: str, body: object) -> Answer:
        """An operator's act on an internal port."""
        url = self.stack.addresses.services[service].internal_url + path
        return await self.ask("POST", url, by=self.stack.credentials.operator_token("e2e", ["operator"]), body=body)

    async def reaches(self, url: str, by: str, status: str, *, within_s: float = 20) -> dict[str, Any]:
        """The object once it has that status; services that are being restarted are waited for."""

        async def reached() -> dict[str, Any] | None:
            try:
                answer = await self.ask("GET", url, by=by)
            except aiohttp.ClientError:
                return None
            return answer.body if answer.status == 200 and answer.body["status"] == status else None

        found = await eventually(reached, within_s=within_s, what=f"{url} to be {status}")
        assert found is not None
        return found

    async def order_reaches(self, order_id: str, status: str, *, within_s: float = 20) -> dict[str, Any]:
        return await self.reaches(
            self.url("order", f"/v1/orders/{order_id}"), self.one.api_key, status, within_s=within_s
        )

    async def payment_reaches(self, payment_id: str, status: str, *, within_s: float = 20) -> dict[str, Any]:
        url = self.url("payment", f"/v1/payments/{payment_id}")
        return await self.reaches(url, self.one.api_key, status, within_s=within_s)

    async def entries(self, payment_id: str, *, count: int = 1) -> list[dict[str, Any]]:
        """How a payment and its refunds were booked, as soon as there are so many entries."""
        url = self.url("settlement", f"/v1/ledger/entries?payment_id={payment_id}")

        async def posted() -> list[dict[str, Any]]:
            data: list[dict[str, Any]] = (await self.ask("GET", url, by=self.one.api_key)).body["data"]
            return data if len(data) >= count else []

        return await eventually(posted, what=f"{count} ledger entries")

    async def comes_to_rest(self, *, within_s: float = 30) -> None:
        """Nothing is unsent, parked, open or undelivered anywhere, and the books agree with themselves and the channels."""
        left: dict[str, int] = {}

        async def at_rest() -> bool:
            nonlocal left
            left = await checks.undone(self.stack)
            return not left

        try:
            await eventually(at_rest, within_s=within_s, every_s=0.2)
        except AssertionError:
            raise AssertionError(f"still undone: {left}") from None
        findings = await checks.books(self.stack, self.doors)
        assert [each for each in findings if not each.holds] == []

    async def republish(self, service: str, since: dt.datetime) -> int:
        """Tell all that a service told since then again."""
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)
        wish = {"since": since.isoformat(), "until": until.isoformat()}
        answer = await self.operate(service, "/internal/v1/republish", wish)
        assert answer.status == 200, answer
        return int(answer.body["events"])

    async def patiently(self, ask: Any, *, within_s: float = 60) -> Answer:  # noqa: ANN401 - a function of no arguments
        """Repeat one request, as a client with a retry policy does, until it is answered for good."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            try:
                answer: Answer = await ask()
                if answer.status not in NOT_NOW:
                    return answer
            except aiohttp.ClientError as error:
                answer = Answer(0, repr(error), {})
            assert asyncio.get_running_loop().time() < deadline, answer
            await asyncio.sleep(0.2)
