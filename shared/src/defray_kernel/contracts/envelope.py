"""The envelope around every event: CloudEvents 1.0 attributes as Kafka headers (binary mode) and a typed body."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Final, Generic, TypeVar
from uuid import UUID

import msgspec

SPEC_VERSION: Final = "1.0"
SEQUENCE_DIGITS: Final = 20
NOT_TEXT: Final = "\ufffd"
"""What a header's name holds where its bytes were not UTF-8."""

Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]
"""A moment in an event's body: RFC 3339 with an offset; one without is unreadable, for nobody knows when it was."""


class EventData(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every event's body. Fields may be added with defaults; a released field never changes."""

    TYPE: ClassVar[str]
    TOPIC: ClassVar[str]


D = TypeVar("D", bound=EventData)


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What led to a change: carried from request or event into everything that follows from it."""

    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None


class Event(msgspec.Struct, Generic[D], frozen=True, kw_only=True):
    """One thing that happened. `sequence` is gap-free per `subject`; `key` is the Kafka key that keeps order."""

    id: UUID
    source: str
    subject: str
    key: str
    sequence: int
    time: dt.datetime
    correlation_id: str
    causation_id: str | None
    traceparent: str | None
    data: D

    @property
    def type(self) -> str:
        """The contract's type name, such as `order.paid.v1`."""
        return self.data.TYPE

    def cause(self) -> Cause:
        """The cause of whatever follows from this event."""
        return Cause(correlation_id=self.correlation_id, causation_id=str(self.id), traceparent=self.traceparent)


class Unreadable(Exception):
    """A record is no event of the expected form; `field` names what is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


def headers(
    *, event_id: UUID, source: str, type_: str, subject: str, key: str, sequence: int, time: dt.datetime, cause: Cause
) -> dict[str, str]:
    """CloudEvents 1.0 Kafka binary mode headers, with W3C `traceparent` under its plain name."""
    result = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": str(event_id),
        "ce_source": source,
        "ce_type": type_,
        "ce_time": time.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ce_subject": subject,
        "ce_sequence": str(sequence).zfill(SEQUENCE_DIGITS),
        "ce_partitionkey": key,
        "ce_correlationid": cause.correlation_id,
        "content-type": "application/json",
    }
    if cause.causation_id is not None:
        result["ce_causationid"] = cause.causation_id
    if cause.traceparent is not None:
        result["traceparent"] = cause.traceparent
    return result


def header_text(raw: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """Headers as text; the first of a name counts. Raises Unreadable for bytes that are not UTF-8."""
    result: dict[str, str] = {}
    for name, value in raw:
        if NOT_TEXT in name:
            raise Unreadable("headers", "a name is not UTF-8 text")
        try:
            result.setdefault(name, value.decode("utf-8"))
        except (UnicodeDecodeError, AttributeError):
            raise Unreadable(name, "is not UTF-8 text") from None
    return result


def decode(attributes: Mapping[str, str], value: bytes | None, data_class: type[D]) -> Event[D]:
    """An event from its headers and bytes. Raises Unreadable naming the field that is wrong."""
    try:
        return Event(
            id=UUID(attributes["ce_id"]),
            source=attributes["ce_source"],
            subject=attributes["ce_subject"],
            key=attributes["ce_partitionkey"],
            sequence=int(attributes["ce_sequence"]),
            time=dt.datetime.fromisoformat(attributes["ce_time"]),
            correlation_id=attributes["ce_correlationid"],
            causation_id=attributes.get("ce_causationid"),
            traceparent=attributes.get("traceparent"),
            data=decode_data(value, data_class),
        )
    except KeyError as error:
        raise Unreadable(str(error.args[0]), "is missing") from None
    except ValueError as error:
        raise Unreadable("headers", type(error).__name__) from None


def decode_data(value: bytes | None, data_class: type[D]) -> D:
    """An event's body; unknown fields are ignored. Raises Unreadable naming the JSON path."""
    if value is None:
        raise Unreadable("value", "is empty")
    try:
        return msgspec.json.decode(value, type=data_class)
    except msgspec.ValidationError as error:
        # msgspec tells the path and the expected type, never the value.
        raise Unreadable("value", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unreadable("value", "is not JSON") from None
