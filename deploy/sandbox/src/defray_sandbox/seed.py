"""Seeds the sandbox's two merchants, kept strictly apart, with one API key each and a shop that takes their webhooks."""

import asyncio
import json
from dataclasses import asdict, dataclass, replace

from defray_sandbox.doors import Doors, eventually
from defray_sandbox.stack.credentials import write_private
from defray_sandbox.stack.environment import Site
from defray_sandbox.stack.errors import StackError

_KNOWN_WITHIN_S = 20.0
_SCOPES = (
    "orders:read", "orders:write", "buyers:read", "buyers:erase", "payments:read", "payments:write", "refunds:read", "refunds:write", "ledger:read", "benefits:read", "benefits:write", "webhooks:read", "webhooks:write",
)  # fmt: skip
_WISHES: dict[str, dict[str, object]] = {
    "lantern": {"name": "Lantern Books", "currencies": ["CNY", "USD"], "fee_basis_points": 60, "mode": "test"},
    "harbour": {"name": "Harbour Tea", "currencies": ["CNY"], "fee_basis_points": 38, "mode": "test"},
}
_LOOKS = {
    "order": "/v1/orders?merchant_order_no=none",
    "payment": f"/v1/payments?order_id=ord_{0:032x}",
    "notifier": "/v1/webhook-endpoints",
}
"""What a merchant may look at in each service that learns of merchants by events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededMerchant:
    """A merchant of the sandbox; `shop` is its name at the demo shop, which knows `webhook_secret`."""

    shop: str
    name: str
    merchant_id: str
    api_key: str
    endpoint_id: str
    endpoint_url: str
    webhook_secret: str

    def __repr__(self) -> str:
        return f"SeededMerchant({self.shop}, {self.merchant_id})"


async def seed_merchants(site: Site, doors: Doors) -> list[SeededMerchant]:
    """Return the sandbox's merchants, registering them the first time and waiting until every service knows them.

    Keys are shown once, so they are kept beside the other secrets; a sandbox with a new database registers anew.
    """
    operator = site.credentials.operator_token("seed", ["operator", "viewer"])
    known = await _known(site, doors, operator)
    missing = {shop: wish for shop, wish in _WISHES.items() if shop not in known}
    fresh = await asyncio.gather(*(_register(site, doors, operator, shop, wish) for shop, wish in missing.items()))
    registered = known | {merchant.shop: merchant for merchant in fresh}
    seeded = [registered[shop] for shop in _WISHES]
    write_private(site.credentials.merchants, json.dumps([asdict(merchant) for merchant in seeded], indent=1))
    for merchant in seeded:
        control = f"{site.addresses.shop.internal_url}/shops/{merchant.shop}"
        await doors.post(control, {"secret": merchant.webhook_secret})
    return seeded


async def _known(site: Site, doors: Doors, operator: str) -> dict[str, SeededMerchant]:
    if not site.credentials.merchants.exists():
        return {}
    rows = json.loads(site.credentials.merchants.read_text())
    kept = {row["shop"]: SeededMerchant(**row) for row in rows}
    known = {}
    for shop, merchant in kept.items():
        # The file may be older than the database, when that is the user's own.
        found = await doors.get(f"{_registry(site)}/{merchant.merchant_id}", bearer=operator, expect=(200, 404))
        if found.get("merchant_id") == merchant.merchant_id:
            known[shop] = await _reachable(site, doors, merchant)
    return known


async def _reachable(site: Site, doors: Doors, merchant: SeededMerchant) -> SeededMerchant:
    """The shop may have had to move to another port; its merchant then names the new address."""
    url = _shop_url(site, merchant.shop)
    if merchant.endpoint_url == url:
        return merchant
    await _wait_until_known(site, doors, merchant.api_key)
    await doors.delete(f"{_endpoints(site)}/{merchant.endpoint_id}", bearer=merchant.api_key)
    endpoint = await doors.post(_endpoints(site), {"url": url, "event_types": ["*"]}, bearer=merchant.api_key)
    secret = {"endpoint_id": endpoint["endpoint_id"], "webhook_secret": endpoint["secret"]}
    return replace(merchant, endpoint_url=url, **secret)


def _endpoints(site: Site) -> str:
    return f"{site.addresses.services['notifier'].public_url}/v1/webhook-endpoints"


def _shop_url(site: Site, shop: str) -> str:
    return f"{site.addresses.shop.public_url}/hooks/{shop}"


def _registry(site: Site) -> str:
    return f"{site.addresses.services['settlement'].internal_url}/internal/v1/merchants"


async def _register(site: Site, doors: Doors, operator: str, shop: str, wish: dict[str, object]) -> SeededMerchant:
    merchant = await doors.post(_registry(site), wish, bearer=operator)
    keys = f"{_registry(site)}/{merchant['merchant_id']}/api-keys"
    for lost in merchant["api_keys"]:  # Of a seeding that was cut short: a key's text is shown once.
        await doors.post(f"{keys}/{lost['key_id']}/revoke", bearer=operator)
    issued = await doors.post(keys, {"scopes": list(_SCOPES)}, bearer=operator)
    api_key = str(issued["api_key"])
    await _wait_until_known(site, doors, api_key)
    url = _shop_url(site, shop)
    endpoint = await doors.post(_endpoints(site), {"url": url, "event_types": ["*"]}, bearer=api_key)
    return SeededMerchant(
        endpoint_url=url,
        shop=shop, name=str(wish["name"]), merchant_id=merchant["merchant_id"], api_key=api_key,
        endpoint_id=endpoint["endpoint_id"], webhook_secret=endpoint["secret"],
    )  # fmt: skip


async def _wait_until_known(site: Site, doors: Doors, api_key: str) -> None:
    """The registry is told by an event, so the other services know the key a moment later."""
    for service, path in _LOOKS.items():
        url = site.addresses.services[service].public_url + path

        async def known(url: str = url) -> bool | None:
            try:
                await doors.get(url, bearer=api_key)
            except StackError as error:
                if ": 401 " in error.what or ": 503 " in error.what:
                    return None
                raise
            return True

        await eventually(f"{service} to know the new merchant", known, timeout_s=_KNOWN_WITHIN_S)
