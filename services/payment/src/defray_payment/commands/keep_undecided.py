"""Keep a callback whose decision failed on our side: raw bytes and a case, in a transaction that decides nothing."""

from collections.abc import Sequence

from defray_kernel.clock import Clock
from defray_kernel.db import WriteTx
from defray_payment.commands.apply_channel_report import ApplyChannelReport
from defray_payment.commands.apply_refund_report import ApplyRefundReport
from defray_payment.domain.refusals import CaseReason
from defray_payment.store import callbacks, cases
from defray_payment.store.cases import Case


async def handle(commands: Sequence[ApplyChannelReport | ApplyRefundReport], tx: WriteTx, clock: Clock) -> None:
    """Store what came and put it before a person; done again, it changes nothing."""
    await callbacks.keep(tx, [command.callback for command in commands if command.callback is not None])
    to_open = [
        Case(
            reason=CaseReason.DECISION_FAILED,
            cause=command.cause,
            order_id=command.order_id,
            attempt_no=command.claim.attempt_no or None,
        )
        for command in commands
    ]
    await cases.open_all(tx, to_open, clock.now())
