"""Tell: which state of a delivery becomes which public event."""

import datetime as dt
from typing import assert_never

from defray_kernel import outbox
from defray_kernel.contracts.delivery_v1 import DeliveryDelivered, DeliveryExhausted, DeliveryStateV1
from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import show
from defray_kernel.outbox import OutboxEvent
from defray_notifier.domain.delivery import Attempt, DeliveryState

_SEQUENCE_WHEN_SETTLED = 1


def delivery(state: DeliveryState, attempt: Attempt, at: dt.datetime) -> OutboxEvent | None:
    """The announcement of a delivery that moved to this state; None where nothing is told. `at` is business time."""
    kind = _contract(state)
    if kind is None:
        return None
    claimed = attempt.claimed
    data = kind(
        delivery_id=show("dlv", claimed.delivery_id),
        message_id=show("msg", claimed.message_id),
        endpoint_id=show("end", claimed.endpoint_id),
        merchant_id=show("mer", claimed.merchant_id),
        event_type=claimed.event_type,
        attempts=claimed.attempt_no,
        last_status=attempt.status,
        at=at,
    )
    return outbox.event(
        data,
        key=data.endpoint_id,
        aggregate_id=data.delivery_id,
        sequence=_SEQUENCE_WHEN_SETTLED,
        cause=cause(attempt),
        at=at,
    )


def cause(attempt: Attempt) -> Cause:
    """What follows from an attempt belongs to the event that was told."""
    return Cause(correlation_id=attempt.claimed.correlation_id, causation_id=str(attempt.claimed.event_id))


def _contract(state: DeliveryState) -> type[DeliveryStateV1] | None:
    match state:
        case DeliveryState.PENDING:
            return None
        case DeliveryState.DELIVERED:
            return DeliveryDelivered
        case DeliveryState.EXHAUSTED:
            return DeliveryExhausted
        case _:
            assert_never(state)
