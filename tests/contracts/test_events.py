"""Every released event has a sample that still parses and a committed schema that the code still keeps."""

import copy
import json
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from jsonschema import Draft202012Validator

from defray_kernel.contracts import envelope
from defray_kernel.contracts.envelope import EventData
from defray_kernel.contracts.registry import EVENTS
from tests.architecture.sources import ROOT
from tests.contracts import generate, schemas

SAMPLES = ROOT / "shared/tests/samples"


def samples() -> dict[str, Path]:
    """Sample files by name; `order.paid.v1.json` is the first form, `order.paid.v1+2.json` one with fields added later."""
    return {path.stem: path for path in sorted(SAMPLES.glob("*.json"))}


def without_sample(events: dict[str, type[EventData]]) -> set[str]:
    """Event types that no sample shows."""
    return set(events) - {stem.partition("+")[0] for stem in samples()}


def load(stem: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(samples()[stem].read_text(encoding="utf-8"))
    return content


def test_every_event_has_a_sample_and_every_sample_an_event() -> None:
    assert without_sample(EVENTS) == set()
    assert {stem.partition("+")[0] for stem in samples()} - set(EVENTS) == set()


def test_a_new_event_without_a_sample_is_seen() -> None:
    class OrderForgotten(EventData, frozen=True, kw_only=True):
        TYPE: ClassVar[str] = "order.forgotten.v1"

    assert without_sample({**EVENTS, OrderForgotten.TYPE: OrderForgotten}) == {"order.forgotten.v1"}


def test_every_contract_class_is_registered() -> None:
    assert {event for event in leaves(EventData) if event.__module__.startswith("defray_kernel")} == set(
        EVENTS.values()
    )


@pytest.mark.parametrize("stem", samples())
def test_sample_parses_into_the_class_and_back(stem: str) -> None:
    sample = load(stem)
    data_class = EVENTS[sample["headers"]["ce_type"]]
    event = envelope.decode(sample["headers"], json.dumps(sample["data"]).encode(), data_class)
    assert event.type == stem.partition("+")[0]
    again = json.loads(msgspec.json.encode(event.data))
    assert {name: again[name] for name in sample["data"]} == sample["data"]
    made = envelope.headers(
        event_id=event.id,
        source=event.source,
        type_=event.type,
        subject=event.subject,
        key=event.key,
        sequence=event.sequence,
        time=event.time,
        cause=envelope.Cause(
            correlation_id=event.correlation_id, causation_id=event.causation_id, traceparent=event.traceparent
        ),
    )
    assert made == sample["headers"]


@pytest.mark.parametrize("stem", samples())
def test_sample_fits_the_committed_schema(stem: str) -> None:
    sample = load(stem)
    committed = json.loads((generate.SCHEMAS / f"{stem.partition('+')[0]}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(committed)
    assert list(Draft202012Validator(committed).iter_errors(sample["data"])) == []


@pytest.mark.parametrize("stem", samples())
def test_readers_ignore_a_field_they_do_not_know(stem: str) -> None:
    sample = load(stem)
    data_class = EVENTS[sample["headers"]["ce_type"]]
    known = envelope.decode_data(json.dumps(sample["data"]).encode(), data_class)
    assert envelope.decode_data(json.dumps({**sample["data"], "added_later": [1]}).encode(), data_class) == known


@pytest.mark.parametrize("type_name", EVENTS)
def test_required_fields_are_missed_by_name(type_name: str) -> None:
    data = load(type_name)["data"]
    body = schemas.event_schema(type_name)["$defs"][EVENTS[type_name].__name__]
    for name in body["required"]:
        short = {field: value for field, value in data.items() if field != name}
        with pytest.raises(envelope.Unreadable, match=name):
            envelope.decode_data(json.dumps(short).encode(), EVENTS[type_name])


def test_a_time_without_an_offset_is_unreadable() -> None:
    data = {**load("order.placed.v1")["data"], "placed_at": "2026-03-14T01:59:26"}
    with pytest.raises(envelope.Unreadable, match="placed_at"):
        envelope.decode_data(json.dumps(data).encode(), EVENTS["order.placed.v1"])


def test_events_carry_no_personal_data() -> None:
    """By name: what the notifier needs of a buyer travels sealed, never as a field of a public event."""
    personal = {"email", "phone", "address", "buyer", "payer", "card", "id_number", "openid", "ip"}
    fields = {f"{name}.{field}" for name, event in EVENTS.items() for field in event.__struct_fields__}
    assert {field for field in fields if personal & set(field.rpartition(".")[2].split("_"))} == set()


SCHEMA: dict[str, Any] = {
    "$ref": "#/$defs/Paid",
    "$defs": {
        "Paid": {
            "type": "object",
            "title": "Paid",
            "properties": {
                "id": {"type": "string"},
                "minor": {"type": "integer", "minimum": 0},
                "state": {"enum": ["A", "B"]},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
            },
            "required": ["id", "minor", "state", "lines"],
        },
        "Line": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]},
    },
}


def changed(where: str, field: str, value: object) -> dict[str, Any]:
    new = copy.deepcopy(SCHEMA)
    part = new["$defs"][where]
    target = part["properties"] if field in {*part["properties"], "added"} else part
    if value is None:
        del target[field]
    else:
        target[field] = value
    return new


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (changed("Paid", "note", None), "$.note: was removed"),
        (changed("Paid", "minor", {"type": "string", "minimum": 0}), "$.minor.type: 'integer' became 'string'"),
        (changed("Paid", "minor", {"type": "integer", "minimum": 1}), "$.minor.minimum: 0 became 1"),
        (changed("Paid", "minor", {"type": "integer", "minimum": 0, "maximum": 9}), "$.minor: maximum was added"),
        (changed("Paid", "state", {"enum": ["A"]}), "$.state.enum: ['A', 'B'] became ['A']"),
        (changed("Paid", "note", {"type": "string"}), "$.note: anyOf was removed"),
        (changed("Paid", "required", ["id", "minor", "state", "lines", "note"]), "$.note: became required"),
        (changed("Paid", "required", ["id", "minor", "state"]), "$.lines: became optional"),
        (changed("Line", "sku", {"type": "integer"}), "$.lines.items.sku.type: 'string' became 'integer'"),
    ],
)
def test_a_change_that_breaks_readers_is_told(new: dict[str, Any], told: str) -> None:
    assert told in schemas.breaches(SCHEMA, new)


def test_a_field_with_a_default_may_be_added() -> None:
    assert schemas.breaches(SCHEMA, changed("Paid", "added", {"type": "string", "default": ""})) == []
    assert schemas.breaches(SCHEMA, changed("Line", "added", {"type": "integer", "default": 0})) == []
    assert schemas.breaches(SCHEMA, changed("Paid", "title", "Renamed")) == []


def test_an_incompatible_schema_is_refused_rather_than_written() -> None:
    path = generate.SCHEMAS / "order.paid.v1.json"
    narrowed = schemas.event_schema("order.paid.v1")
    del narrowed["$defs"]["OrderPaid"]["properties"]["paid_at"]
    made = {generate.SCHEMAS / f"{name}.json": schemas.schema_text(name) for name in schemas.CLASSES}
    assert generate.incompatible(made) == {}
    assert generate.incompatible({**made, path: json.dumps(narrowed)}) == {path.name: ["$.paid_at: was removed"]}
    del made[path]
    assert generate.incompatible(made) == {path.name: ["the event was removed"]}


def test_committed_schemas_are_what_the_code_says() -> None:
    made = {generate.SCHEMAS / f"{name}.json": schemas.schema_text(name) for name in schemas.CLASSES}
    assert generate.drifted(made) == []
    stale = {**made, generate.SCHEMAS / "order.paid.v1.json": "{}\n"}
    assert generate.drifted(stale) == ["shared/src/defray_kernel/contracts/schemas/order.paid.v1.json"]


def leaves(base: type[EventData]) -> set[type[EventData]]:
    below = base.__subclasses__()
    return {base} if not below else {leaf for event in below for leaf in leaves(event)}
