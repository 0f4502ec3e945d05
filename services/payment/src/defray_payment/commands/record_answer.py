"""Record what the channel answered to a new payment, and with it what the caller is told; one transaction."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from defray_kernel import idempotency
from defray_kernel.clock import Clock
from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.idempotency import Answer, Claim, Replay
from defray_payment.commands import apply_channel_report
from defray_payment.commands.apply_channel_report import ApplyChannelReport
from defray_payment.commands.start_payment import Answers, Told


class RecordAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The report that the channel's answer made, for the request that holds this key."""

    key: Claim
    report: ApplyChannelReport


def keys(command: RecordAnswer) -> list[str]:
    """Serial keys: those of the report, and the idempotency key."""
    return [*apply_channel_report.keys(command.report), f"key:{command.key.scope}:{command.key.key}"]


async def resolve(commands: Sequence[RecordAnswer], conn: ReadConn) -> list[RecordAnswer]:
    """Fill in whose order each attempt is."""
    reports = await apply_channel_report.resolve([command.report for command in commands], conn)
    return [replace(command, report=report) for command, report in zip(commands, reports, strict=True)]


async def handle(commands: Sequence[RecordAnswer], tx: WriteTx, clock: Clock, *, answers: Answers) -> list[Told]:
    """Apply the reports and store the answers. Locks keys before payables, as `start_payment` does.

    When a twin that took over after our lease has answered already, its answer stands.
    """
    claimed = await idempotency.claim(tx, [command.key for command in commands], clock)
    applied = await apply_channel_report.handle([command.report for command in commands], tx, clock)
    told: list[Told] = []
    final: list[Answer] = []
    for command, key, outcome in zip(commands, claimed, applied, strict=True):
        if isinstance(key, Replay):
            told.append(Told(status=key.status, body=key.body))
            continue
        assert outcome.payment is not None, "an answer is recorded for an attempt that was committed before the call"
        assert outcome.attempt is not None
        status, body = answers.payment(outcome.payment, outcome.attempt)
        told.append(Told(status=status, body=body))
        final.append(
            Answer(
                scope=command.key.scope,
                key=command.key.key,
                status=status,
                body=body,
                resource_id=outcome.payment.payment_id,
            )
        )
    if final:
        await idempotency.finish(tx, final)
    return told
