"""Disable webhook endpoints at their merchants' wish; what is still to be delivered to them is given up."""

from collections.abc import Sequence
from dataclasses import dataclass

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import EndpointId
from defray_notifier.domain.endpoint import DisabledReason
from defray_notifier.store import endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class DisableEndpoint:
    """The caller has seen that the endpoint is its own."""

    endpoint_id: EndpointId
    cause: Cause


async def handle(commands: Sequence[DisableEndpoint], tx: WriteTx, clock: Clock) -> list[bool]:
    """Whether each was enabled until now; disabling again changes nothing."""
    causes = {command.endpoint_id: command.cause for command in commands}
    disabled = await endpoints.disable(tx, causes, DisabledReason.MERCHANT, clock.now())
    return [command.endpoint_id in disabled for command in commands]
