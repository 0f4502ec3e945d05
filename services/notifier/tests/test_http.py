"""The public port over real HTTP: endpoints and messages, each merchant its own."""

import asyncio

import pytest

from defray_kernel.clock import SystemClock
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid
from defray_kernel.settings import load
from defray_kernel.testing.eventually import eventually
from defray_notifier import wiring
from defray_notifier.delivery.address_guard import Guard
from defray_notifier.delivery.signing import Secrets
from defray_notifier.settings import Settings

from .conftest import Receiver, Service, delivering, raw_key, serving
from .given import count, succeeded, tell

BODY = {"url": "http://127.0.0.1:9/hook", "event_types": ["*"]}


async def test_a_secret_is_shown_once_and_kept_sealed(service: Service) -> None:
    status, made = await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=BODY)
    assert status == 201
    assert made["secret"].startswith("whsec_")
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}"
    for answer in (
        await service.call("GET", path, by=service.one),
        await service.call("GET", "/v1/webhook-endpoints", by=service.one),
    ):
        assert answer[0] == 200
        assert "whsec_" not in str(answer[1])
    async with service.database.read() as conn:
        [row] = await conn.fetch("SELECT endpoint_id, sealed FROM endpoint_secret")
    assert raw_key(made["secret"]) not in row["sealed"]
    assert service.secrets.open(row["endpoint_id"], [row["sealed"]]) == [raw_key(made["secret"])]


async def test_one_address_once_and_sixteen_at_most_even_at_once(service: Service) -> None:
    answers = await asyncio.gather(
        *(service.call("POST", "/v1/webhook-endpoints", by=service.one, body=BODY) for _ in range(5))
    )
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
    answers = await asyncio.gather(
        *(
            service.call(
                "POST", "/v1/webhook-endpoints", by=service.one, body=BODY | {"url": f"http://127.0.0.1:9/{n}"}
            )
            for n in range(20)
        )
    )
    assert sorted(status for status, _ in answers) == [201] * 15 + [409] * 5
    assert {body["code"] for status, body in answers if status == 409} == {"too_many_endpoints"}
    assert (await service.call("POST", "/v1/webhook-endpoints", by=service.other, body=BODY))[0] == 201


async def test_a_disabled_endpoint_stays_visible_and_frees_its_address(service: Service) -> None:
    _, made = await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=BODY)
    path = f"/v1/webhook-endpoints/{made['endpoint_id']}"
    assert (await service.call("DELETE", path, by=service.other))[0] == 404
    assert [(await service.call("DELETE", path, by=service.one))[0] for _ in range(2)] == [204, 204]
    _, shown = await service.call("GET", path, by=service.one)
    assert (shown["state"], shown["disabled_reason"]) == ("DISABLED", "merchant")
    assert (await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=BODY))[0] == 201


BAD: list[tuple[dict[str, object], str, str]] = [
    ({"event_types": []}, "invalid_field", "event_types"),
    ({"event_types": ["payment.succeeded.v2"]}, "unknown_event_type", "event_types[0]"),
    ({"event_types": ["*", "payable.closed.v1"]}, "unknown_event_type", "event_types[1]"),
    ({"event_types": ["account.posted.v1"]}, "unknown_event_type", "event_types[0]"),
    ({"url": "ftp://127.0.0.1/"}, "url_refused", "url"),
    ({"url": "http://u:p@127.0.0.1/"}, "url_refused", "url"),
    ({"url": 5}, "invalid_field", "url"),
    ({"secret": "whsec_x"}, "unknown_field", "secret"),
]


async def test_bad_input_is_named_and_adds_nothing(service: Service) -> None:
    answers = []
    for change, _, _ in BAD:
        status, problem = await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=BODY | change)
        answers.append((change, status, problem["code"], problem["field"]))
    assert answers == [(change, 422, code, field) for change, code, field in BAD]
    assert (await service.call("GET", "/v1/webhook-endpoints", by=service.one))[1] == {"data": []}


async def test_outside_the_sandbox_only_public_https_addresses_are_taken(database: Database, secrets: Secrets) -> None:
    async def resolve(host: str, _port: int) -> list[str]:
        return {"public.example": ["8.8.8.8"], "rebound.example": ["8.8.8.8", "10.0.0.1"]}.get(host, [])

    async with serving(database, secrets, Guard(resolve=resolve)) as service:
        for url in (
            "http://127.0.0.1:9/",
            "https://127.0.0.1/",
            "https://rebound.example/",
            "https://nowhere.example/",
        ):
            body = BODY | {"url": url}
            status, problem = await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=body)
            assert (url, status, problem["code"]) == (url, 422, "url_refused")
            assert "10.0.0.1" not in str(problem)
        good = BODY | {"url": "https://public.example/"}
        assert (await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=good))[0] == 201


DOORS: list[tuple[str, str, str, int]] = [
    ("GET", "/v1/webhook-endpoints", "reader", 200),
    ("POST", "/v1/webhook-endpoints", "reader", 403),
    ("DELETE", f"/v1/webhook-endpoints/end_{'0' * 32}", "reader", 403),
    ("DELETE", f"/v1/webhook-endpoints/end_{'0' * 32}", "one", 404),
    ("GET", "/v1/webhook-endpoints/x", "one", 404),
    ("GET", "/v1/messages/msg_x", "one", 404),
    ("GET", f"/v1/messages/msg_{'0' * 32}", "one", 404),
    ("GET", "/v1/messages?before=x", "one", 400),
    ("GET", "/v1/webhook-endpoints?after=msg_1", "one", 400),
    ("GET", "/v1/messages", "", 401),
]


async def test_scopes_and_unknown_things(service: Service) -> None:
    answers = []
    for method, path, who, _ in DOORS:
        by = getattr(service, who) if who else None
        status, _ = await service.call(method, path, by=by, body=BODY if method == "POST" else None)
        answers.append((method, path, who, status))
    assert answers == DOORS


async def test_a_merchant_sees_what_became_of_its_own_messages(service: Service, receiver: Receiver) -> None:
    clock = SystemClock()
    receiver.answers["/hook"] = [(500, {})]
    body = {"url": f"{receiver.url}/hook", "event_types": ["payment.succeeded.v1"]}
    assert (await service.call("POST", "/v1/webhook-endpoints", by=service.one, body=body))[0] == 201
    event = succeeded(service.one.merchant_id)
    await tell(service.database, clock, event)
    async with delivering(service.database, service.secrets, clock):
        await eventually(lambda: count(service.database, "DELIVERED"), within_s=15, what="the delivery")
    _, page = await service.call("GET", "/v1/messages", by=service.one)
    [listed] = page["data"]
    assert (listed["state"], listed["attempts_made"], listed["last_status"]) == ("DELIVERED", 2, 204)
    assert listed["correlation_id"] == event.correlation_id
    path = f"/v1/messages/{listed['message_id']}"
    _, whole = await service.call("GET", path, by=service.one)
    assert [(a["status"], a["state_after"]) for a in whole["attempts"]] == [(500, "PENDING"), (204, "DELIVERED")]
    assert whole["payload"]["data"]["payment_id"] == event.subject
    assert (await service.call("GET", path, by=service.other))[0] == 404
    assert await service.call("GET", "/v1/messages", by=service.other) == (200, {"data": []})
    assert await service.call("GET", f"/v1/messages?before={listed['message_id']}", by=service.one) == (
        200,
        {"data": []},
    )


def test_production_refuses_private_networks() -> None:
    environment = {
        "X_PROFILE": "production",
        "X_DATABASE_DSN": "postgresql://u@h/d?sslmode=verify-full",
        "X_KAFKA_BOOTSTRAP": "k:9092",
        "X_TOPICS_FILE": "t",
        "X_ENCRYPTION_KEYS_FILE": "k",
        "X_OPERATOR_JWKS_FILE": "o",
    }
    assert not load(Settings, "X_", environment).allow_private_networks
    with pytest.raises(ConfigInvalid, match="X_ALLOW_PRIVATE_NETWORKS"):
        load(Settings, "X_", environment | {"X_ALLOW_PRIVATE_NETWORKS": "true"})
    sandbox = environment | {"X_PROFILE": "sandbox", "X_ALLOW_PRIVATE_NETWORKS": "true"}
    assert load(Settings, "X_", sandbox).allow_private_networks


def test_the_documents_are_made_without_running_anything() -> None:
    assert "/v1/messages/{message_id}" in wiring.openapi()["paths"]
    assert wiring.internal_openapi()["openapi"].startswith("3.1")
