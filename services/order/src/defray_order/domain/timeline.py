"""A step in the life of an order, with its evidence: what happened, what it was told by, and what led to it."""

import datetime as dt
from enum import StrEnum
from uuid import UUID

import msgspec


class StepKind(StrEnum):
    """What kind of thing happened; at one moment they are shown in this order."""

    HEARD = "heard"  # an event of another service
    MOVED = "moved"  # the order, with the event that told of it
    GRANT = "grant"  # a benefit that was given, used or taken back
    REFUND_REQUEST = "refund_request"  # a wish that money goes back


class TimelineStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `subject` is the thing it is about, `what` a stable word, `status` that of the subject after it.

    `event_id` and `event_type` are of the event that was heard or told; `causation_id` is what led to the step.
    """

    at: dt.datetime
    kind: StepKind
    subject: str
    what: str
    status: str | None = None
    status_before: str | None = None
    amount_minor: int | None = None
    currency: str | None = None
    note: str | None = None
    event_id: UUID | None = None
    event_type: str | None = None
    correlation_id: str
    causation_id: str | None = None


_RANK = {kind: rank for rank, kind in enumerate(StepKind)}


def in_order(step: TimelineStep) -> tuple[dt.datetime, int]:
    """Sort key; sorting is stable, so that steps of one kind and moment stay as they were written."""
    return step.at, _RANK[step.kind]
