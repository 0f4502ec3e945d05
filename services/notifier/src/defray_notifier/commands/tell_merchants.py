"""Turn public events into messages: one per endpoint that wants to be told, with a delivery that is due at once."""

from collections import defaultdict
from collections.abc import Sequence

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Event
from defray_kernel.db import WriteTx
from defray_kernel.errors import Poison
from defray_kernel.ids import DeliveryId, MerchantId, MessageId, parse, uuid7
from defray_notifier.domain.endpoint import Endpoint
from defray_notifier.domain.message import Message, Told, payload
from defray_notifier.store import endpoints, messages


async def handle(events: Sequence[Event[Told]], tx: WriteTx, clock: Clock) -> None:
    """Store messages in the transaction that consumes the events; an event told before changes nothing.

    Raises Poison for an event that names no merchant.
    """
    by_merchant: dict[MerchantId, list[Event[Told]]] = defaultdict(list)
    for event in events:
        by_merchant[_merchant(event)].append(event)
    told = [
        _message(event, endpoint)
        for endpoint in await endpoints.enabled_of(tx, list(by_merchant))
        for event in by_merchant[endpoint.merchant_id]
        if endpoint.wants(event.type)
    ]
    if told:
        await messages.insert(tx, told, clock.now())


def _merchant(event: Event[Told]) -> MerchantId:
    try:
        return MerchantId(parse("mer", event.data.merchant_id))
    except ValueError as error:
        raise Poison(str(error)) from error


def _message(event: Event[Told], endpoint: Endpoint) -> Message:
    return Message(
        message_id=MessageId(uuid7()),
        delivery_id=DeliveryId(uuid7()),
        endpoint_id=endpoint.endpoint_id,
        merchant_id=endpoint.merchant_id,
        event_id=event.id,
        event_type=event.type,
        subject=event.subject,
        sequence=event.sequence,
        payload=payload(event),
        correlation_id=event.correlation_id,
    )
