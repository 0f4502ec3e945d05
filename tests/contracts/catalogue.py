"""docs/events.md: every public event with who tells it, who hears it, and what it carries."""

import inspect
from typing import Any

from defray_kernel.contracts.inbound import REQUESTS
from defray_kernel.contracts.registry import EVENTS
from tests.contracts import asyncapi
from tests.contracts.schemas import event_schema

_HEAD = """# Events

Generated from `deploy/topics.yaml` and `defray_kernel.contracts` by `make contracts`; do not edit.

CloudEvents 1.0 in Kafka's binary mode: the record's value is the JSON below, its headers carry `ce_id` (UUIDv7, the same on
every re-send), `ce_type`, `ce_subject` (the aggregate's id), `ce_sequence` (gap-free per subject), `ce_partitionkey` (the Kafka
key), `ce_time`, `ce_correlationid`, `ce_causationid` and `traceparent`. Readers ignore fields they do not know. A released
event never changes; fields may be added with defaults, anything else is a `v2` beside it.

On an inbound topic strangers ask: there ids are any text, and a field that is not known is refused by name
([order.requested](events/order.requested.md), [order.cancel_requested](events/order.cancel_requested.md)).
"""


def document_text() -> str:
    """The committed form."""
    readers = {service: set(asyncapi.heard(service)) for service in asyncapi.SERVICES}
    parts = [_HEAD]
    for topic in asyncapi.topics():
        events = [event for event in EVENTS.values() if topic["name"] == event.TOPIC]
        kept = "compacted" if topic.get("cleanup") == "compact" else f"kept {topic['retention_ms'] // 86_400_000} days"
        parts.append(
            f"\n## `{topic['name']}`\n\n{topic['description']}\n\n"
            f"Owner: {topic['owner']}. Key: {topic['key']}. {topic['partitions']} partitions, {kept}.\n"
        )
        parts += [_event(event, [service for service, heard in readers.items() if event in heard]) for event in events]
        parts += [_event(each, [topic["owner"]]) for each in REQUESTS.values() if topic["name"] == each.TOPIC]
    return "".join(parts)


def _event(event: asyncapi.Contract, readers: list[str]) -> str:
    schema = event_schema(event.TYPE)
    name = schema["$ref"].rpartition("/")[2]
    parts = "".join(
        f"\nA `{part}` holds: {body['description']}\n\n{_table(body)}\n"
        for part, body in sorted(schema["$defs"].items())
        if part != name
    )
    heard = ", ".join(readers) or "nobody yet"
    return f"\n### `{event.TYPE}`\n\n{inspect.getdoc(event)}\n\nHeard by: {heard}.\n\n{_table(schema['$defs'][name])}\n{parts}"


def _table(body: dict[str, Any]) -> str:
    required = set(body.get("required", ()))
    rows = [
        f"| `{name}` | {_type(field)} | {'yes' if name in required else 'no'} |"
        for name, field in body["properties"].items()
    ]
    return "\n".join(["| field | type | always there |", "|---|---|---|", *rows])


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(_type(member) for member in field["anyOf"])
    if "enum" in field:
        return " ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    limits = [f"{word} {field[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in field]
    return " ".join([str(field.get("format", field.get("type", "any"))), *limits])
