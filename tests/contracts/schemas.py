"""JSON Schemas of the events, made from the contract classes, and the rule by which a released one may still change."""

import json
from typing import Any

import msgspec

from defray_kernel.contracts.inbound import REQUESTS
from defray_kernel.contracts.registry import EVENTS

Schema = dict[str, Any]

CLASSES: dict[str, type[msgspec.Struct]] = {**EVENTS, **REQUESTS}
"""Every type that has a schema: what the services tell, and what strangers may ask of them."""

_PROSE = frozenset({"title", "description", "$comment", "examples"})


def event_schema(type_name: str) -> Schema:
    """The JSON Schema (2020-12) of one event's body."""
    schema = msgspec.json.schema(CLASSES[type_name], ref_template="#/$defs/{name}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:defray:event:{type_name}", **schema}


def inlined_schema(type_name: str) -> Schema:
    """The same without references, for documents in which `#` means another root; no event refers to itself."""
    schema = event_schema(type_name)
    inlined = _inlined(schema, schema)
    assert isinstance(inlined, dict)
    return {word: value for word, value in inlined.items() if word not in {"$schema", "$id", "$defs"}}


def schema_text(type_name: str) -> str:
    """The committed form: two spaces, keys in the order of the class, a line end."""
    return json.dumps(event_schema(type_name), indent=2, ensure_ascii=False) + "\n"


def breaches(old: Schema, new: Schema) -> list[str]:
    """What readers or writers of the released schema would stumble over in the new one; empty when compatible.

    Fields may be added with a default; nothing may be removed, made required or optional, or change its type or range:
    an old reader must read new records and a new reader old ones.
    """
    return _breaches(old, new, old, new, "$")


def _breaches(old: object, new: object, old_root: Schema, new_root: Schema, path: str) -> list[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{path}: {old!r} became {new!r}"]
    found = []
    for word in sorted((old.keys() | new.keys()) - _PROSE - {"$defs", "$id", "$schema", "properties", "required"}):
        if word not in old or word not in new:
            found.append(f"{path}: {word} was {'added' if word in new else 'removed'}")
        elif word in {"anyOf", "oneOf", "allOf"}:
            found += _member_breaches(old[word], new[word], old_root, new_root, path)
        else:
            found += _breaches(old[word], new[word], old_root, new_root, f"{path}.{word}")
    return found + _property_breaches(old, new, old_root, new_root, path)


def _property_breaches(old: Schema, new: Schema, old_root: Schema, new_root: Schema, path: str) -> list[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
    found = [f"{path}.{name}: was removed" for name in before.keys() - after.keys()]
    found += [f"{path}.{name}: was added without a default" for name in required_after - before.keys()]
    found += [f"{path}.{name}: became required" for name in (required_after - required_before) & before.keys()]
    found += [f"{path}.{name}: became optional" for name in (required_before - required_after) & after.keys()]
    for name in before.keys() & after.keys():
        found += _breaches(before[name], after[name], old_root, new_root, f"{path}.{name}")
    return sorted(found)


def _member_breaches(old: list[Any], new: list[Any], old_root: Schema, new_root: Schema, path: str) -> list[str]:
    if len(old) != len(new):
        return [f"{path}: the number of alternatives changed"]
    return [
        breach
        for before, after in zip(old, new, strict=True)
        for breach in _breaches(before, after, old_root, new_root, path)
    ]


def _resolved(node: object, root: Schema) -> object:
    while isinstance(node, dict) and "$ref" in node:
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = {**target, **{word: value for word, value in node.items() if word != "$ref"}}
    return node


def _inlined(node: object, root: Schema) -> object:
    node = _resolved(node, root)
    if isinstance(node, list):
        return [_inlined(member, root) for member in node]
    if isinstance(node, dict):
        return {word: _inlined(value, root) for word, value in node.items() if word != "$defs"}
    return node
