"""Record what the channel answered to a new refund, and with it what the caller is told; one transaction."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from defray_kernel import idempotency
from defray_kernel.clock import Clock
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.idempotency import Answer, Claim, Replay
from defray_payment.commands import apply_refund_report
from defray_payment.commands.apply_refund_report import ApplyRefundReport
from defray_payment.commands.ask_refund import Answers
from defray_payment.commands.start_payment import Told


class RecordRefund(msgspec.Struct, frozen=True, kw_only=True):
    """The report that the channel's answer made, for the request that holds this key."""

    key: Claim
    report: ApplyRefundReport


def keys(command: RecordRefund) -> list[str]:
    """Serial keys: those of the report, and the idempotency key."""
    return [*apply_refund_report.keys(command.report), f"key:{command.key.scope}:{command.key.key}"]


async def resolve(commands: Sequence[RecordRefund], conn: ReadConn) -> list[RecordRefund]:
    """Fill in whose order each refund is."""
    reports = await apply_refund_report.resolve([command.report for command in commands], conn)
    return [replace(command, report=report) for command, report in zip(commands, reports, strict=True)]


async def handle(commands: Sequence[RecordRefund], tx: WriteTx, clock: Clock, *, answers: Answers) -> list[Told]:
    """Apply the reports and store the answers. Locks keys before payables, as `ask_refund` does.

    When a twin that took over after our lease has answered already, its answer stands.
    """
    claimed = await idempotency.claim(tx, [command.key for command in commands], clock)
    applied = await apply_refund_report.handle([command.report for command in commands], tx, clock)
    told: list[Told] = []
    final: list[Answer] = []
    for command, key, outcome in zip(commands, claimed, applied, strict=True):
        if isinstance(key, Replay):
            told.append(Told(status=key.status, body=key.body))
            continue
        assert outcome.refund is not None, "an answer is recorded for a refund that was committed before the call"
        status, body = answers.refund(outcome.refund)
        told.append(Told(status=status, body=body))
        scope, name, refund_id = command.key.scope, command.key.key, outcome.refund.refund_id
        final.append(Answer(scope=scope, key=name, status=status, body=body, resource_id=refund_id))
    if final:
        await idempotency.finish(tx, final)
    return told
