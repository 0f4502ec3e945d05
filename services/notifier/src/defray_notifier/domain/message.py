"""A message: what is told about one event to one endpoint, frozen when it is first told."""

from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from defray_kernel.contracts import grant_v1, order_v1, payment_v1
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.grant_v1 import GrantStateV1
from defray_kernel.contracts.order_v1 import OrderStateV1
from defray_kernel.contracts.payment_v1 import PaymentStateV1, RefundRefused, RefundStateV1
from defray_kernel.ids import DeliveryId, EndpointId, MerchantId, MessageId

Told: TypeAlias = OrderStateV1 | GrantStateV1 | PaymentStateV1 | RefundStateV1 | RefundRefused

TOLD: Final[tuple[type[Told], ...]] = (
    order_v1.OrderPlaced,
    order_v1.OrderClosing,
    order_v1.OrderPaid,
    order_v1.OrderCancelled,
    order_v1.OrderExpired,
    order_v1.OrderFulfilled,
    order_v1.OrderRefunded,
    order_v1.OrderRefundRequested,
    grant_v1.GrantGranted,
    grant_v1.GrantUsed,
    grant_v1.GrantRevoked,
    grant_v1.GrantOwed,
    grant_v1.GrantFailed,
    payment_v1.PaymentCreated,
    payment_v1.PaymentPending,
    payment_v1.PaymentSucceeded,
    payment_v1.PaymentFailed,
    payment_v1.PaymentClosed,
    payment_v1.PaymentPaidLate,
    payment_v1.PaymentDuplicate,
    payment_v1.RefundRequested,
    payment_v1.RefundSucceeded,
    payment_v1.RefundFailed,
    payment_v1.RefundAbnormal,
    payment_v1.RefundRefused,
)
"""Every public event that is a merchant's own affair; `payable.closed.v1` is between our services."""
TOLD_TYPES: Final = frozenset(told.TYPE for told in TOLD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message with its delivery; (endpoint, event) is its natural key."""

    message_id: MessageId
    delivery_id: DeliveryId
    endpoint_id: EndpointId
    merchant_id: MerchantId
    event_id: UUID
    event_type: str
    subject: str
    sequence: int
    payload: bytes
    correlation_id: str


def payload(event: Event[Told]) -> bytes:
    """The body to be signed and sent: `type`, `timestamp`, and `data` with the object's full state and its sequence.

    Deliveries may overtake each other; by `sequence` a receiver drops what is older than what it knows.
    """
    data = msgspec.structs.asdict(event.data) | {"sequence": event.sequence}
    return msgspec.json.encode({"type": event.type, "timestamp": event.time, "data": data})
