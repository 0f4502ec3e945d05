"""Both ports over real HTTP: the registry for operators, the books for merchants, and nothing across merchants."""

import asyncio

from defray_kernel.clock import SystemClock
from defray_kernel.contracts.payment_v1 import PaymentSucceeded
from defray_kernel.ids import parse
from defray_settlement import wiring
from defray_settlement.commands import post_payments
from defray_settlement.store import merchants

from .conftest import Service
from .given import paid

BODY = {"name": "Shop", "currencies": ["CNY"], "fee_basis_points": 60, "mode": "test"}


async def test_a_registered_merchant_s_key_opens_the_public_port_and_is_kept_as_a_hash(
    service: Service,
) -> None:
    merchant, key = await service.merchant_with_key("Shop", ["ledger:read"])
    assert key.startswith("sk_test_")
    assert await service.ask("/v1/balance", key=key) == (200, {"data": []})
    path = f"/internal/v1/merchants/{merchant['merchant_id']}"
    _, shown = await service.operate("GET", path, role="viewer")
    assert key not in str(shown)
    assert shown["api_keys"][0]["prefix"] == key[:14]
    status, after = await service.operate("POST", f"{path}/api-keys/{shown['api_keys'][0]['key_id']}/revoke")
    assert (status, after["api_keys"]) == (200, [])
    async with service.database.read() as conn:
        [stored] = await conn.fetch("SELECT prefix, sha256, revoked_at FROM api_key")
    assert stored["revoked_at"] is not None
    assert key.encode() not in stored["sha256"]


async def test_the_same_registration_at_once_makes_one_merchant(service: Service) -> None:
    answers = await asyncio.gather(*(service.operate("POST", "/internal/v1/merchants", body=BODY) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    assert len({body["merchant_id"] for _, body in answers}) == 1
    status, problem = await service.operate("POST", "/internal/v1/merchants", body=BODY | {"fee_basis_points": 61})
    assert (status, problem["code"]) == (409, "name_taken")


async def test_a_third_key_and_a_key_of_a_disabled_merchant_are_refused(service: Service) -> None:
    merchant, _ = await service.merchant_with_key("Shop", ["ledger:read"])
    path = f"/internal/v1/merchants/{merchant['merchant_id']}"
    body = {"scopes": ["orders:read"]}
    assert (await service.operate("POST", f"{path}/api-keys", body=body))[0] == 201
    status, problem = await service.operate("POST", f"{path}/api-keys", body=body)
    assert (status, problem["code"]) == (409, "too_many_keys")
    assert (await service.operate("POST", f"{path}/disable"))[1]["status"] == "DISABLED"
    status, problem = await service.operate("POST", f"{path}/api-keys", body=body)
    assert (status, problem["code"]) == (409, "merchant_disabled")


async def test_a_suspended_merchants_key_works(service: Service) -> None:
    merchant, key = await service.merchant_with_key("Shop", ["ledger:read"])
    path = f"/internal/v1/merchants/{merchant['merchant_id']}"
    for _ in range(2):
        assert (await service.operate("POST", f"{path}/suspend"))[1]["status"] == "SUSPENDED"
    assert (await service.ask("/v1/balance", key=key))[0] == 200
    assert (await service.operate("POST", f"{path}/resume"))[1]["status"] == "ACTIVE"


DOORS = [
    ("POST", "/internal/v1/merchants", "viewer", 403),
    ("POST", "/internal/v1/merchants", "finance", 403),
    ("GET", "/internal/v1/merchants", "viewer", 200),
    ("GET", "/internal/v1/trial-balance", "viewer", 200),
    ("GET", "/internal/v1/merchants/mer_x", "viewer", 404),
    ("GET", f"/internal/v1/merchants/mer_{'0' * 32}", "viewer", 404),
    ("POST", f"/internal/v1/merchants/mer_{'0' * 32}/disable", "operator", 404),
    ("GET", "/internal/v1/merchants?after=x", "viewer", 400),
]


async def test_roles_and_unknown_things(service: Service) -> None:
    answers = []
    for method, path, role, _ in DOORS:
        body = BODY if path.endswith("/merchants") and method == "POST" else None
        answers.append((method, path, role, (await service.operate(method, path, role=role, body=body))[0]))
    assert answers == DOORS


BAD: list[tuple[dict[str, object], str | None]] = [
    ({"fee_basis_points": 10_001}, "fee_basis_points"),
    ({"fee_basis_points": "60"}, "fee_basis_points"),
    ({"currencies": []}, "currencies"),
    ({"currencies": ["XXX"]}, "currencies[0]"),
    ({"mode": "prod"}, "mode"),
    ({"name": "a\u0000b"}, None),
    ({"other": 1}, "other"),
]


async def test_bad_input_is_named_and_registers_nothing(service: Service) -> None:
    answers = []
    for change, _ in BAD:
        status, problem = await service.operate("POST", "/internal/v1/merchants", body=BODY | change)
        assert status in {400, 422}
        answers.append((change, problem.get("field")))
    assert answers == BAD
    assert (await service.operate("GET", "/internal/v1/merchants"))[1] == {"data": []}


async def test_a_merchant_sees_its_own_books_only(service: Service) -> None:
    one, one_key = await service.merchant_with_key("One", ["ledger:read"])
    _, other_key = await service.merchant_with_key("Other", ["ledger:read"])
    _, blind_key = await service.merchant_with_key("Blind", ["orders:read"])
    async with service.database.transaction() as tx:
        merchant = await merchants.get(tx, parse("mer", one["merchant_id"]))
        assert merchant is not None
        event = paid(PaymentSucceeded, merchant)
        await post_payments.handle([event], tx, SystemClock())
    entries = f"/v1/ledger/entries?payment_id={event.data.payment_id}"
    status, found = await service.ask(entries, key=one_key)
    assert status == 200
    [entry] = found["data"]
    assert (entry["gross_minor"], entry["fee_minor"], entry["net_minor"]) == (19_900, 119, 19_781)
    assert entry["explanation"]["exact"] == "1194000/10000"
    assert sum(leg["amount_minor"] for leg in entry["legs"]) == 0
    assert entry["correlation_id"] == event.correlation_id
    assert (await service.ask("/v1/balance", key=one_key))[1]["data"][0]["amount_minor"] == 19_781
    assert await service.ask(entries, key=other_key) == (200, {"data": []})
    assert await service.ask("/v1/balance", key=other_key) == (200, {"data": []})
    assert (await service.ask(entries, key=blind_key))[0] == 403
    assert (await service.ask(entries))[0] == 401
    assert (await service.ask("/v1/ledger/entries", key=one_key))[0] == 400
    status, books = await service.operate("GET", "/internal/v1/trial-balance")
    assert (status, books["balanced"]) == (200, True)
    assert books["currencies"] == [
        {"currency": "CNY", "accounts": 3, "debit_minor": 19_900, "credit_minor": 19_900, "sum_minor": 0}
    ]


def test_the_documents_are_made_without_running_anything() -> None:
    assert set(wiring.openapi()["paths"]) == {"/v1/balance", "/v1/ledger/entries"}
    assert "/internal/v1/trial-balance" in wiring.internal_openapi()["paths"]
