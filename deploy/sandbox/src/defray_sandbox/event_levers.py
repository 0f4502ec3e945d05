"""`defray events`: check requests for the order service in a file, and publish them, without a line of Python."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from aiokafka.errors import KafkaError

from defray_kernel import strict_json
from defray_kernel.contracts import inbound
from defray_kernel.contracts.inbound import Unusable
from defray_kernel.contracts.order_inbound_v1 import TOPIC
from defray_kernel.errors import Unavailable
from defray_kernel.kafka import Kafka, stop
from defray_sandbox.stack.errors import StackError
from defray_sandbox.timeline import Timeline
from defray_sandbox.up import open_site

events_app = typer.Typer(
    help="Requests that other services publish: docs/events has a page for each.", no_args_is_help=True
)

_FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_KAFKA_WITHIN_S: Final = 5.0
_PLAIN: Final = {"traceparent": "traceparent", "datacontenttype": "content-type"}

File = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="One CloudEvent in structured JSON, or one a line.")
]
Broker = Annotated[str | None, typer.Option("--kafka", help="host:port, plaintext; the running sandbox's when absent.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An event of the file as a record in Kafka's binary mode."""

    line: int
    headers: Sequence[tuple[str, bytes]]
    key: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """What is wrong in which line."""

    line: int
    field: str
    code: str
    detail: str


@events_app.command("validate")
def events_validate(file: File) -> None:
    """Say of each event whether the order service could use it: FILE:LINE: field: reason."""
    raise typer.Exit(1 if _checked(file) is None else 0)


@events_app.command("publish")
def events_publish(file: File, kafka: Broker = None) -> None:
    """Publish the events of a file, in its order; none when one of them is wrong."""
    events = _checked(file)
    if events is None:
        raise typer.Exit(1)
    try:
        bootstrap = kafka or open_site().addresses.kafka
        for event, where in zip(events, asyncio.run(publish(events, bootstrap)), strict=True):
            typer.echo(f"{file}:{event.line}: {TOPIC} {where}")
    except StackError as error:
        Timeline().fail(error)
        raise typer.Exit(1) from error


def read_events(raw: bytes) -> list[Published | Mistake]:
    """Each event of a file with its line: ready to be published and of a form that is used, or what is wrong with it."""
    return [_read(line, text) for line, text in _documents(raw)]


def _checked(file: Path) -> list[Published] | None:
    """The file's events, or None after telling what is wrong."""
    if file.stat().st_size > _FILE_BYTES_MAX:
        typer.echo(f"{file}: more than {_FILE_BYTES_MAX} bytes", err=True)
        return None
    found = read_events(file.read_bytes())
    mistakes = [each for each in found if isinstance(each, Mistake)]
    for each in mistakes:
        typer.echo(f"{file}:{each.line}: {each.field}: {each.code}: {each.detail}", err=True)
    if not found:
        typer.echo(f"{file}: holds no event", err=True)
        return None
    typer.echo(f"{file}: {len(found)} events, {len(mistakes) or 'none'} of them wrong", err=bool(mistakes))
    return None if mistakes else [each for each in found if isinstance(each, Published)]


def _documents(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """JSON texts with the line they begin in: each line by itself where each looks like a whole object."""
    lines = [(number, line.strip()) for number, line in enumerate(raw.splitlines(), start=1) if line.strip()]
    if all(line.startswith(b"{") and line.endswith(b"}") for _, line in lines):
        yield from lines
    elif lines and lines[0][1].startswith(b"{") and not lines[0][1].endswith(b"}"):
        yield lines[0][0], raw.strip()
    else:
        yield from lines


def _read(line: int, text: bytes) -> Published | Mistake:
    try:
        tree = strict_json.loads(text)
    except strict_json.MalformedJson as error:
        return Mistake(line=line, field=inbound.malformed_field(text), code="malformed_json", detail=error.detail)
    if not isinstance(tree, dict):
        return Mistake(line=line, field="event", code="invalid_field", detail="must be an object")
    data = tree.pop("data", None)
    for name, value in tree.items():
        if not isinstance(value, str):
            return Mistake(line=line, field=_shown(name), code="invalid_field", detail="must be text")
    headers = [(_PLAIN.get(name, f"ce_{name}"), value.encode()) for name, value in tree.items()]
    key = tree.get("partitionkey") or _key(data)
    event = Published(
        line=line,
        headers=headers,
        key=None if key is None else key.encode(),
        value=b"" if data is None else json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(),
    )
    try:
        inbound.read(event.headers, event.key, event.value)
    except Unusable as wrong:
        return Mistake(line=line, field=_in_file(wrong.field), code=wrong.code, detail=wrong.detail)
    return event


def _key(data: object) -> str | None:
    if not isinstance(data, dict):
        return None
    merchant_id, number = data.get("merchant_id"), data.get("merchant_order_no")
    return inbound.key_of(merchant_id, number) if isinstance(merchant_id, str) and isinstance(number, str) else None


def _in_file(field: str) -> str:
    """The field as the file has it: attributes without their prefix, the body under `data`."""
    if field.startswith("ce_"):
        return field.removeprefix("ce_")
    plain = {"value": "data", "key": "partitionkey", "content-type": "datacontenttype", "headers": "event"}
    return plain.get(field, f"data.{field}")


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 64 else "event"


async def publish(events: Sequence[Published], bootstrap: str) -> list[str]:
    """Send events in order and say where each stands; raises `StackError` when Kafka did not take them all."""
    try:
        producer = await Kafka(bootstrap=bootstrap, start_within_s=_KAFKA_WITHIN_S).producer()
        try:
            sent = [
                await producer.send(TOPIC, value=each.value, key=each.key, headers=list(each.headers))
                for each in events
            ]
            placed = [await each for each in sent]
        finally:
            await stop(producer)
    except (Unavailable, KafkaError, OSError) as error:
        message = f"Kafka at {bootstrap} did not take them: {type(error).__name__}"
        raise StackError(message, "repeat it: what was taken twice counts once") from error
    return [f"partition {each.partition} offset {each.offset}" for each in placed]
