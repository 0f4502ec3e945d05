"""What the notifier announces about deliveries to merchants' endpoints."""

from __future__ import annotations

from typing import ClassVar

from defray_kernel.contracts.envelope import EventData, Time

TOPIC = "notify.delivery.events.v1"


class DeliveryStateV1(EventData, frozen=True, kw_only=True):
    """A delivery's public state. Key: endpoint id; subject: delivery id."""

    TOPIC: ClassVar[str] = TOPIC

    delivery_id: str
    message_id: str
    endpoint_id: str
    merchant_id: str
    event_type: str
    attempts: int
    last_status: int | None = None
    at: Time


class DeliveryDelivered(DeliveryStateV1, frozen=True, kw_only=True):
    """The endpoint answered 2xx."""

    TYPE: ClassVar[str] = "delivery.delivered.v1"


class DeliveryExhausted(DeliveryStateV1, frozen=True, kw_only=True):
    """The last scheduled attempt failed; the message stays for replay."""

    TYPE: ClassVar[str] = "delivery.exhausted.v1"
