"""deploy/topics.yaml and the code name the same topics, and each topic has the shape its kind needs."""

import ast
import re
from typing import Any

import pytest
import yaml

from tests.architecture.sources import ROOT, Source, parse, sources

DAY_MS = 86_400_000
OWNERS = {"order": "order", "payment": "payment", "settlement": "settlement", "notifier": "notify"}
TOPIC = re.compile(r"[a-z]+\.[a-z_]+\.(events|entries|state|commands)\.v\d+|[a-z]+\.inbound\.v\d+")
TOPICS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/topics.yaml").read_text(encoding="utf-8"))
EVENTS = [topic for topic in TOPICS if not topic["name"].startswith("dlq.")]
DEAD_LETTERS = [topic for topic in TOPICS if topic["name"].startswith("dlq.")]


def test_names_are_unique_and_every_topic_says_what_it_is_for() -> None:
    names = [topic["name"] for topic in TOPICS]
    assert len(names) == len(set(names))
    for topic in TOPICS:
        assert set(topic) <= {"name", "owner", "key", "partitions", "retention_ms", "cleanup", "description"}
        assert len(topic["description"].split()) >= 4
        assert topic["key"]


@pytest.mark.parametrize("topic", EVENTS, ids=lambda topic: topic["name"])
def test_a_keyed_topic_has_twelve_partitions_and_its_owner_s_name(topic: dict[str, Any]) -> None:
    assert TOPIC.fullmatch(topic["name"])
    assert topic["partitions"] == 12
    assert topic["name"].split(".")[0] == OWNERS[topic["owner"]]
    if topic.get("cleanup") == "compact":
        assert topic["name"].split(".")[-2] == "state"
        assert "retention_ms" not in topic
    else:
        assert topic["retention_ms"] == 7 * DAY_MS


@pytest.mark.parametrize("topic", DEAD_LETTERS, ids=lambda topic: topic["name"])
def test_a_dead_letter_topic_is_kept_ninety_days_under_its_consumer_s_name(topic: dict[str, Any]) -> None:
    _, service, consumer = topic["name"].split(".")
    assert service == topic["owner"]
    assert consumer.isidentifier()
    assert topic["partitions"] == 3
    assert topic["retention_ms"] == 90 * DAY_MS
    # What strangers wrote is kept off a topic, which cannot forget: their key too.
    assert topic["key"] == ("where the record stood" if consumer == "inbound" else "original key")


def test_code_and_file_name_the_same_topics() -> None:
    named = {name for source in sources() if not source.is_test for name in topics_named(source)}
    assert named == {topic["name"] for topic in EVENTS}


def test_every_consumer_that_parks_has_its_dead_letter_topic_and_no_other_is_there() -> None:
    named = {name for source in sources() if source.is_service for name in dead_letters_named(source)}
    assert named == {topic["name"] for topic in DEAD_LETTERS}


def test_a_consumer_without_a_dead_letter_topic_is_seen() -> None:
    text = 'Consumer("stray", "order.stray", [])\nConsumer("merchants", "order.merchants", [], on_unreadable=f)'
    assert dead_letters_named(parse("services/order/src/defray_order/wiring.py", text)) == {"dlq.order.stray"}


def test_a_topic_named_in_code_alone_is_seen() -> None:
    source = parse(
        "services/order/src/defray_order/announce.py", 'TOPIC = "order.stray.events.v1"\nX = "order.paid.v1"'
    )
    assert topics_named(source) == {"order.stray.events.v1"}


def topics_named(source: Source) -> set[str]:
    """Topic names among a file's string constants; event types (order.paid.v1) are none."""
    return {
        node.value
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and TOPIC.fullmatch(node.value)
    }


def dead_letters_named(source: Source) -> set[str]:
    """Dead-letter topics of the consumers that a file builds; one that answers for unreadable records itself parks none."""
    found = set()
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "Consumer":
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        group = keywords.get("group", node.args[1] if len(node.args) > 1 else None)
        text = group.value if isinstance(group, ast.Constant) else None
        assert isinstance(text, str), (
            f"{source.path}:{node.lineno}: the group of a consumer is a word, not a computation"
        )
        if "on_unreadable" not in keywords:
            found.add(f"dlq.{text}")
    return found
