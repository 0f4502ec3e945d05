"""AsyncAPI, OpenAPI and the catalogue are what the code says now, and other people's readers understand them."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from defray_kernel.contracts.registry import EVENTS
from tests.architecture.sources import ROOT
from tests.contracts import asyncapi, generate, openapi
from tests.judges import run as judges

SERVICES = asyncapi.SERVICES
PORTS = ("openapi.json", "openapi.internal.json")


def test_committed_documents_are_what_the_code_says() -> None:
    assert generate.drifted(generate.documents()) == [], "run `make contracts`"


def test_asyncapi_is_read_by_another_s_model() -> None:
    documents = {service: committed_asyncapi(service) for service in SERVICES}
    broken = copy.deepcopy(documents["order"])
    next(iter(broken["operations"].values()))["action"] = "shout"
    verdicts = judges.ask("documents", "asyncapi", {**documents, "broken": broken})
    assert verdicts.pop("broken") != []
    assert verdicts == {service: [] for service in SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_asyncapi_refers_to_nothing_that_is_not_there(service: str) -> None:
    document = committed_asyncapi(service)
    assert list(broken_references(document)) == []
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation.get("messages", []))
    for message in document["components"]["messages"].values():
        Draft202012Validator.check_schema(message["payload"]["schema"])


def test_a_reference_to_nothing_is_seen() -> None:
    document = {"a": {"$ref": "#/b/c"}, "b": {"d": {"$ref": "#/a"}}}
    assert list(broken_references(document)) == ["#/b/c"]


def test_every_event_is_told_by_exactly_one_service_and_its_topic_s_owner() -> None:
    told = [event.TYPE for service in SERVICES for event in asyncapi.told(service)]
    assert sorted(told) == sorted(EVENTS)


def test_every_event_of_an_order_or_a_payment_is_heard_by_the_notifier() -> None:
    heard = {event.TYPE for event in asyncapi.heard("notifier")}
    assert {name for name in EVENTS if name.startswith(("order.", "payment."))} <= heard


def test_openapi_is_read_by_another_s_validator() -> None:
    documents = {
        f"{service}/{name}": json.loads((ROOT / "services" / service / name).read_text(encoding="utf-8"))
        for service in SERVICES
        for name in PORTS
    }
    # A service without operators' acts of its own has an internal port all the same: health, metrics, parked keys.
    assert all(document["paths"] or name.endswith("internal.json") for name, document in documents.items())
    broken = {**documents["order/openapi.json"], "paths": {"orders": {"get": {}}}}
    verdicts = judges.ask("documents", "openapi", {**documents, "broken": broken})
    assert verdicts.pop("broken") != []
    assert verdicts == {name: [] for name in documents}


@pytest.mark.parametrize("service", SERVICES)
def test_every_operation_says_what_may_go_wrong(service: str) -> None:
    for text in openapi.documents(service).values():
        for path, item in json.loads(text)["paths"].items():
            for method, operation in item.items():
                assert operation["summary"], (method, path)
                assert any(status.startswith("2") for status in operation["responses"]), (method, path)


def test_catalogue_names_every_event_and_topic() -> None:
    text = (ROOT / "docs/events.md").read_text(encoding="utf-8")
    assert [name for name in EVENTS if f"### `{name}`" not in text] == []
    assert [topic["name"] for topic in asyncapi.topics() if f"## `{topic['name']}`" not in text] == []


def committed_asyncapi(service: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(
        (ROOT / "services" / service / "asyncapi.yaml").read_text(encoding="utf-8")
    )
    return document


def broken_references(document: dict[str, Any]) -> Iterator[str]:
    """References that lead nowhere."""
    yield from _broken(document, document)


def _broken(node: object, root: dict[str, Any]) -> Iterator[str]:
    if isinstance(node, list):
        for member in node:
            yield from _broken(member, root)
    if not isinstance(node, dict):
        return
    if isinstance(reference := node.get("$ref"), str):
        target: object = root
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part) if isinstance(target, dict) else None
        if target is None:
            yield reference
    for member in node.values():
        yield from _broken(member, root)
