"""One AsyncAPI 3 document per service: the topics it owns and the events it listens to, from topics.yaml and contracts."""

import importlib
from typing import Any

import yaml

from defray_kernel.applying import Subscription
from defray_kernel.contracts.envelope import EventData
from defray_kernel.contracts.inbound import ID_MAX, REQUESTS, SOURCE_MAX
from defray_kernel.contracts.order_inbound_v1 import RequestData
from defray_kernel.contracts.registry import EVENTS
from tests.architecture.sources import ROOT
from tests.contracts.schemas import inlined_schema

Contract = type[EventData] | type[RequestData]
SERVICES = ("order", "payment", "settlement", "notifier")
Document = dict[str, Any]

_HEADERS: Document = {
    "type": "object",
    "description": "CloudEvents 1.0, Kafka binary mode; trace context under its W3C name.",
    "required": [
        "ce_specversion",
        "ce_id",
        "ce_source",
        "ce_type",
        "ce_time",
        "ce_subject",
        "ce_sequence",
        "ce_partitionkey",
        "ce_correlationid",
        "content-type",
    ],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"type": "string", "format": "uuid", "description": "UUIDv7; the same on every re-send."},
        "ce_source": {"type": "string"},
        "ce_type": {"type": "string"},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_subject": {"type": "string", "description": "Id of the aggregate."},
        "ce_sequence": {
            "type": "string",
            "pattern": "^[0-9]{20}$",
            "description": "Gap-free per subject, zero padded, so that text order is number order.",
        },
        "ce_partitionkey": {
            "type": "string",
            "description": "The Kafka key; under one key everything keeps its order.",
        },
        "ce_correlationid": {"type": "string"},
        "ce_causationid": {"type": "string"},
        "traceparent": {"type": "string"},
        "content-type": {"const": "application/json"},
    },
}

_FOREIGN_HEADERS: Document = {
    "type": "object",
    "description": "CloudEvents 1.0, Kafka binary mode, as any publisher sets them; other headers are left alone.",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
    "properties": {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": ID_MAX,
            "description": "Any text; the same on every re-send. With ce_source it tells a repeat.",
        },
        "ce_source": {"type": "string", "minLength": 1, "maxLength": SOURCE_MAX, "description": "Who publishes."},
        "ce_type": {"type": "string", "enum": list(REQUESTS)},
        "ce_time": {"type": "string", "format": "date-time"},
        "ce_correlationid": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "description": "Comes back in every event that follows; made when absent.",
        },
        "traceparent": {"type": "string"},
        "content-type": {"const": "application/json"},
    },
}


def topics() -> list[Document]:
    """The entries of deploy/topics.yaml."""
    entries: list[Document] = yaml.safe_load((ROOT / "deploy/topics.yaml").read_text(encoding="utf-8"))
    return entries


def heard(service: str) -> list[type[EventData]]:
    """The events that a service subscribes to, in the order of its lists: every tuple of subscriptions in consumers.py."""
    module = importlib.import_module(f"defray_{service}.entrypoints.consumers")
    lists = [value for value in vars(module).values() if isinstance(value, tuple)]
    found = [entry.event for entries in lists for entry in entries if isinstance(entry, Subscription)]
    return list(dict.fromkeys(found))


def told(service: str) -> list[type[EventData]]:
    """The events of the topics that a service owns."""
    owned = {topic["name"] for topic in topics() if topic["owner"] == service}
    return [event for event in EVENTS.values() if owned & {event.TOPIC}]


def asked(service: str) -> list[type[RequestData]]:
    """What strangers may ask of a service: the requests of the inbound topics that it owns."""
    owned = {topic["name"] for topic in topics() if topic["owner"] == service}
    return [request for request in REQUESTS.values() if owned & {request.TOPIC}]


def document(service: str) -> Document:
    """The AsyncAPI document as a tree."""
    sent: list[Contract] = list(told(service))
    received: list[Contract] = [*heard(service), *asked(service)]
    names = list(dict.fromkeys(event.TOPIC for event in (*sent, *received)))
    own_dead_letters = [t for t in topics() if t["owner"] == service and t["name"].startswith("dlq.")]
    channels = {
        _key(name): _channel(_topic(name), [e for e in (*sent, *received) if e.TOPIC == name]) for name in names
    }
    channels |= {_key(topic["name"]): _channel(topic, []) for topic in own_dead_letters}
    operations = {f"send-{_key(name)}": _operation("send", name, sent) for name in _topics_of(sent)}
    operations |= {f"receive-{_key(name)}": _operation("receive", name, received) for name in _topics_of(received)}
    operations |= {f"send-{_key(topic['name'])}": _dead_letters(topic["name"]) for topic in own_dead_letters}
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:defray:service:{service}",
        "info": {
            "title": f"Defray {service} service",
            "version": "1.0.0",
            "description": "Generated from deploy/topics.yaml and the contracts of defray_kernel by `make contracts`.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {_key(event.TYPE): _message(event) for event in dict.fromkeys((*sent, *received))},
            "schemas": {"Headers": _HEADERS} | ({"ForeignHeaders": _FOREIGN_HEADERS} if asked(service) else {}),
        },
    }


def document_text(service: str) -> str:
    """The committed form."""
    head = "# Generated by `make contracts`; do not edit.\n"
    return head + yaml.dump(document(service), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)


def _key(name: str) -> str:
    """A name as a key: some readers take no dots there."""
    return name.replace(".", "-")


class _Plain(yaml.SafeDumper):
    """Writes each node out: anchors between schemas would not survive other tools."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature is the library's
        return True


def _topic(name: str) -> Document:
    return next(topic for topic in topics() if topic["name"] == name)


def _topics_of(events: list[Contract]) -> list[str]:
    return list(dict.fromkeys(event.TOPIC for event in events))


def _channel(topic: Document, events: list[Contract]) -> Document:
    kept = {"cleanup.policy": ["compact"]} if topic.get("cleanup") == "compact" else {"cleanup.policy": ["delete"]}
    if "retention_ms" in topic:
        kept |= {"retention.ms": topic["retention_ms"]}
    messages = {_key(event.TYPE): {"$ref": f"#/components/messages/{_key(event.TYPE)}"} for event in events}
    return {
        "address": topic["name"],
        "description": f"{topic['description']} Key: {topic['key']}.",
        "messages": messages,
        "bindings": {
            "kafka": {"partitions": topic["partitions"], "topicConfiguration": kept, "bindingVersion": "0.5.0"},
        },
    }


def _operation(action: str, topic: str, events: list[Contract]) -> Document:
    channel = f"#/channels/{_key(topic)}"
    messages = [{"$ref": f"{channel}/messages/{_key(event.TYPE)}"} for event in events if event.TOPIC == topic]
    return {"action": action, "channel": {"$ref": channel}, "messages": messages}


def _dead_letters(topic: str) -> Document:
    # What others asked is theirs: its dead letters tell of it and hold none of it.
    asked_of_us = any(request.TOPIC.startswith(topic.removeprefix("dlq.")) for request in REQUESTS.values())
    summary = (
        "Where rejected records stood and what was wrong with them, in `x-` headers without a value, for eyes only."
        if asked_of_us
        else "Copies of parked records, original bytes and headers, for eyes only."
    )
    return {"action": "send", "channel": {"$ref": f"#/channels/{_key(topic)}"}, "summary": summary}


def _message(event: Contract) -> Document:
    headers = "ForeignHeaders" if issubclass(event, RequestData) else "Headers"
    return {
        "name": event.TYPE,
        "summary": (event.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "headers": {"$ref": f"#/components/schemas/{headers}"},
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": inlined_schema(event.TYPE),
        },
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}},
    }
