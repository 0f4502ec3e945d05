"""Record what attempts came to: the attempt, the delivery's move, the endpoint's end where it asked for it, the event."""

from collections.abc import Sequence

from defray_kernel import outbox
from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_notifier import announce
from defray_notifier.domain.delivery import Attempt, DeliveryState, Moved, decide
from defray_notifier.domain.endpoint import DisabledReason
from defray_notifier.store import deliveries, endpoints


async def handle(attempts: Sequence[Attempt], tx: WriteTx, clock: Clock) -> list[DeliveryState]:
    """One outcome each. An attempt whose lease ran out, so that another was begun, is logged and moves nothing.

    No two attempts are of one delivery. Doing this again finds the delivery moved.
    """
    now = clock.now()
    # A claim took each of them PENDING; the compare-and-set on its version says whether that still holds.
    decisions = [(attempt, decide(DeliveryState.PENDING, attempt, now)) for attempt in attempts]
    moves = [(attempt, decision) for attempt, decision in decisions if isinstance(decision, Moved)]
    moved = await deliveries.move(tx, moves)
    landed = [(attempt, move) for attempt, move in moves if attempt.claimed.delivery_id in moved]
    states = {attempt.claimed.delivery_id: move.state for attempt, move in landed}
    outcomes = [states.get(attempt.claimed.delivery_id, DeliveryState.PENDING) for attempt in attempts]
    await deliveries.insert_attempts(tx, list(zip(attempts, outcomes, strict=True)))
    gone = {a.claimed.endpoint_id: announce.cause(a) for a, move in landed if move.disables_endpoint}
    if gone:
        await endpoints.disable(tx, gone, DisabledReason.GONE, now)
    told = [announce.delivery(move.state, attempt, now) for attempt, move in landed]
    await outbox.append(tx, [event for event in told if event is not None])
    return outcomes
