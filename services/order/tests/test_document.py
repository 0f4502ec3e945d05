"""The public port held against its own document, by requests that schemathesis makes up, with the keys of two merchants.

No answer may be a 5xx, of a status or form that the document does not have, or hold anything of the other merchant's.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.transport import Response

from defray_kernel.clock import SystemClock
from defray_kernel.ids import show, uuid7
from defray_kernel.timers import run_once
from defray_order import wiring
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.entrypoints.granting import granting_timer
from defray_sandbox.stack.provision import ProvisionedDatabase

from .aside import Aside, aside
from .running import ENVELOPE, Shop, order_body
from .test_refund_requests_http import paid

CHECKED: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
OPEN: Final = "GET /.well-known/jwks.json"
KINDS: Final = {"order_id": "ord_", "benefit_id": "bft_", "refund_request_id": "rrq_", "code": "-"}
_ID: Final = re.compile(
    r"\b(?:ord|bft|rrq|grt|mer)_[0-9a-f]{32}\b|\b(?:[0-9A-HJKMNP-TV-Z]{5}-){3}[0-9A-HJKMNP-TV-Z]{5}\b"
)


class Callers:
    """Two merchants, what each was ever shown, and how often what was answered."""

    def __init__(self, served: Aside) -> None:
        self.served = served
        service = served.service
        self.shops = (service.one, service.other)
        self.shown: dict[Shop, set[str]] = {shop: {show("mer", shop.merchant_id)} for shop in self.shops}
        self.answers: Counter[tuple[str, int]] = Counter()

    def other(self, than: Shop) -> Shop:
        return self.shops[self.shops[0] is than]

    def ids(self, shop: Shop, parameter: str) -> list[str]:
        """What this merchant was shown that may stand for a parameter."""
        return sorted(each for each in self.shown[shop] if KINDS[parameter] in each)

    def take(self, shop: Shop, operation: str, response: Response) -> None:
        """Note what was shown; nothing of it may ever be shown to the other one."""
        self.answers[operation, response.status_code] += 1
        found = set(_ID.findall(response.text or ""))
        assert not found & self.shown[self.other(shop)], (operation, found & self.shown[self.other(shop)])
        if response.status_code < 300:
            self.shown[shop] |= found


@pytest.fixture
def served(copied: ProvisionedDatabase) -> Iterator[Aside]:
    with aside(copied.dsn("order")) as found:
        yield found


def _seeded(callers: Callers) -> None:
    """Each merchant begins with orders in several states, a benefit, a coupon and a refund request."""
    for shop in callers.shops:
        callers.served.run(_seed(callers, shop))


async def _seed(callers: Callers, shop: Shop) -> None:
    service, shown = callers.served.service, callers.shown[shop]

    async def call(path: str, body: object = None) -> None:
        method = "GET" if body is None else "POST"
        answer = await service.call(method, path, by=shop, body=body, key=uuid7().hex)
        assert answer.status in {200, 201}, answer
        shown.update(_ID.findall(str(answer.body)))

    coupon = {"value": "percent", "basis_points": 1_000, "uses_max": 1_000}
    await call("/v1/benefits", {"name": "tenth", "kind": "coupon", "currency": "CNY", "coupon": coupon, "rule": {}})
    await call("/v1/orders", order_body(uuid7().hex))
    await call("/v1/orders", order_body(uuid7().hex, buyer={"email": f"{uuid7().hex}@example.com"}))
    order_id = await paid(service, by=shop)
    codes = CouponCodes(service.database, ENVELOPE)
    await run_once(service.database, granting_timer(service.database, SystemClock(), codes, None), SystemClock())
    await call(f"/v1/orders/{order_id}/grants")
    await call(f"/v1/orders/{order_id}/refund-requests", {"amount_minor": 100, "reason": "returned"})


def _sensible(case: Case) -> None:
    """What chance alone does not make: sums that add up, fields that go together, filters that mean something."""
    body, query = case.body, case.query
    if isinstance(query, dict):
        for name in ("after", "cursor", "email", "phone", "customer_ref"):
            query.pop(name, None)
        if "created_from" in query or case.path.endswith("export.csv"):
            query |= {"created_from": "2026-03-01T00:00:00Z", "created_before": "2026-03-20T00:00:00+08:00"}
    if not isinstance(body, dict):
        return
    match case.operation.label:
        case "POST /v1/orders" if "items" in body:
            for name in ("buyer", "coupon_codes"):
                body.pop(name, None)
            for item in body["items"]:
                item |= {"unit_amount_minor": int(item["unit_amount_minor"]) % 10**9, "discount_minor": 0}
                item |= {"sku": "tea", "title": "Tea", "quantity": int(item["quantity"]) % 10 + 1, "benefits": []}
            due = sum(item["quantity"] * item["unit_amount_minor"] for item in body["items"])
            body |= {"currency": "CNY", "amount_minor": due}
        case "POST /v1/benefits":
            body |= {"name": "hat", "kind": "points", "points": 3, "currency": "CNY", "coupon": None}
        case "POST /v1/orders/{order_id}/refund-requests":
            body.pop("lines", None)
            body |= {"amount_minor": 1, "reason": "returned"}
        case _:
            pass


class Trial:
    """One operation, tried with made-up requests; what is wrong is kept, so that one mistake does not hide the next."""

    def __init__(self, callers: Callers, checks: Sequence[Any], wrong: list[str]) -> None:
        self.callers, self.checks, self.wrong = callers, checks, wrong
        self.url = callers.served.service.url
        self.chance = random.Random(5)  # not hypothesis's, which likes to repeat itself

    def run(self, operation: APIOperation, mode: GenerationMode, count: int) -> None:
        """So many requests of this mode, the same at every run."""

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def attempt(case: Case) -> None:
            if mode is GenerationMode.POSITIVE and self.chance.random() < 0.5:
                _sensible(case)
            self.send(case)

        attempt()

    def send(self, case: Case) -> None:
        """Send one request, with an id of the caller's, of the other's, or as it was made up."""
        shop = self.chance.choice(self.callers.shops)
        keyless = self.chance.random() < 0.05
        whose = self.chance.choices(("own", "other", "made up"), (5, 3, 2))[0]
        foreign = False
        for name in case.path_parameters or ():
            if whose != "made up":
                foreign = whose == "other"
                ids = self.callers.ids(self.callers.other(shop) if foreign else shop, name)
                case.path_parameters[name] = self.chance.choice(ids)
        headers = {"Authorization": "Basic bm9ib2R5"} if keyless else {"Authorization": f"Bearer {shop.api_key}"}
        response = case.call(base_url=self.url, headers=headers, timeout=10)
        label = case.operation.label
        try:
            case.validate_response(response, checks=list(self.checks))
            self.callers.take(shop, label, response)
            if keyless:
                assert response.status_code == 401 or label == OPEN
            elif foreign:
                assert response.status_code in {400, 404, 415, 422}, "the other merchant's is there"
        except AssertionError as error:
            self.wrong.append(
                f"{label} {whose} {case.as_curl_command()[:600]} → {response.status_code} {error}"[:2_000]
            )
        except BaseExceptionGroup as group:
            told = "; ".join(f"{type(each).__name__}: {each}" for each in group.exceptions)
            self.wrong.append(f"{label} {whose} {case.as_curl_command()[:600]} → {response.status_code} {told}"[:2_000])


def _document() -> dict[str, Any]:
    """Without its security: credentials are the trial's own."""
    document = wiring.openapi()
    for methods in document["paths"].values():
        for operation in methods.values():
            del operation["security"]
    return document


def _schema() -> BaseSchema:
    return schemathesis.openapi.from_dict(_document())


def _tried(callers: Callers, each: int) -> list[str]:
    """Every operation with so many requests that fit the document, and half as many that do not."""
    load_all_checks()
    trial = Trial(callers, CHECKS.get_by_names(list(CHECKED)), [])
    for result in _schema().get_all_operations():
        operation = result.ok()
        trial.run(operation, GenerationMode.POSITIVE, each)
        if operation.body or operation.query:
            trial.run(operation, GenerationMode.NEGATIVE, each // 2)
    return trial.wrong


@pytest.mark.parametrize("each", [pytest.param(24, id="short"), pytest.param(400, id="full", marks=pytest.mark.full)])
def test_the_public_port_keeps_to_its_document(served: Aside, each: int) -> None:
    callers = Callers(served)
    _seeded(callers)
    wrong = _tried(callers, each)
    assert wrong == []
    # It got through, and not only to the door: every operation answered well at least once.
    served_well = {label for label, status in callers.answers if status < 300}
    assert served_well == {result.ok().label for result in _schema().get_all_operations()}


def test_the_trial_sees_what_is_wrong(served: Aside) -> None:
    callers = Callers(served)
    _seeded(callers)
    load_all_checks()
    trial = Trial(callers, CHECKS.get_by_names(list(CHECKED)), [])
    document = _document()
    del document["paths"]["/v1/orders/{order_id}"]["get"]["responses"]["404"]
    schema = schemathesis.openapi.from_dict(document)
    trial.run(schema["/v1/orders/{order_id}"]["GET"], GenerationMode.POSITIVE, 20)
    assert "UndefinedStatusCode" in trial.wrong[0]
    trial.wrong.clear()
    # As if what belongs to one were shown to both.
    one, other = (callers.shown[shop] for shop in callers.shops)
    one |= other
    other |= one
    trial.run(schema["/v1/orders/{order_id}/timeline"]["GET"], GenerationMode.POSITIVE, 20)
    assert trial.wrong
