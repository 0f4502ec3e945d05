"""`defray events` tells file, line and field, and publishes what is right to a real Kafka."""

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from typer.testing import CliRunner

from defray_kernel import topics
from defray_kernel.contracts import inbound
from defray_kernel.kafka import Kafka
from defray_sandbox.cli import app
from defray_sandbox.event_levers import Mistake, read_events
from defray_sandbox.stack.paths import CHECKOUT

SAMPLES = CHECKOUT / "shared/tests/samples/inbound"
REQUEST = json.loads((SAMPLES / "order.requested.v1.json").read_text())


def line(**changes: object) -> str:
    """The sample in one line; a name with a dot changes the body."""
    event = json.loads(json.dumps(REQUEST))
    for name, value in changes.items():
        (event["data"] if name in event["data"] else event)[name] = value
    return json.dumps(event)


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_pretty_printed_sample_is_right(path: Path) -> None:
    done = CliRunner().invoke(app, ["events", "validate", str(path)])
    assert (done.exit_code, done.output) == (0, f"{path}: 1 events, none of them wrong\n")


def test_each_mistake_is_told_by_line_and_field(tmp_path: Path) -> None:
    wrong = [
        line(),
        "",
        line(amount_minor=1),
        line(id=7),
        line(specversion="0.3"),
        line(partitionkey="another"),
        line().replace("12800", "NaN"),
        line().replace('"quantity": 2', '"quantity": 0'),
        "[]",
        "{",
        line(data=None),
        json.dumps({name: value for name, value in REQUEST.items() if name != "source"}),
    ]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(wrong))
    found = [(each.line, each.field, each.code) for each in read_events(file.read_bytes()) if isinstance(each, Mistake)]
    assert found == [
        (3, "data.amount_minor", "amount_mismatch"),
        (4, "id", "invalid_field"),
        (5, "specversion", "invalid_header"),
        (6, "partitionkey", "key_mismatch"),
        (7, "data.amount_minor", "malformed_json"),
        (8, "data.items[0].quantity", "invalid_field"),
        (9, "event", "invalid_field"),
        (10, "value", "malformed_json"),
        (11, "data", "malformed_json"),
        (12, "source", "missing_header"),
    ]
    done = CliRunner().invoke(app, ["events", "validate", str(file)])
    assert done.exit_code == 1
    assert f"{file}:8: data.items[0].quantity: invalid_field: " in done.output
    assert CliRunner().invoke(app, ["events", "publish", str(file), "--kafka", "127.0.0.1:9"]).exit_code == 1


def test_an_empty_file_holds_no_event(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_text("\n \n")
    done = CliRunner().invoke(app, ["events", "validate", str(file)])
    assert (done.exit_code, "holds no event" in done.output) == (1, True)


def test_a_kafka_that_is_not_there_is_told(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(line())
    done = CliRunner().invoke(app, ["events", "publish", str(file), "--kafka", "127.0.0.1:9"])
    assert (done.exit_code, "did not take them" in done.output) == (1, True)


async def test_what_is_published_is_what_the_order_service_reads(tmp_path: Path, kafka_broker: str) -> None:
    stated = topics.load(CHECKOUT / "deploy" / "topics.yaml")
    await topics.create(Kafka(bootstrap=kafka_broker), [stated["order.inbound.v1"]])
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(line(id=f"cart {n}", merchant_order_no=f"published-{n}") for n in range(5)))
    reader = AIOKafkaConsumer("order.inbound.v1", bootstrap_servers=kafka_broker)
    await reader.start()
    try:
        partitions = sorted(reader.assignment())
        before = await reader.end_offsets(partitions)
        arguments = ["events", "publish", str(file), "--kafka", kafka_broker]
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert done.exit_code == 0, done.output
        for tp, offset in before.items():
            reader.seek(tp, offset)
        found = []
        while len(found) < 5:
            for records in (await reader.getmany(timeout_ms=500)).values():
                found += [inbound.read(each.headers, each.key, each.value) for each in records]
    finally:
        await reader.stop()
    assert sorted((each.id, each.data.merchant_order_no, each.correlation_id) for each in found) == [
        (f"cart {n}", f"published-{n}", "checkout-7f3a") for n in range(5)
    ]
