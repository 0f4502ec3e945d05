"""What the payment service does when its time has come."""

from __future__ import annotations

from collections.abc import Sequence

from defray_kernel import event_log, idempotency
from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.timers import Timer
from defray_payment.commands.query_attempts import BATCH_MAX, QueryAttempts
from defray_payment.commands.query_refunds import QueryRefunds


def timers(querying: QueryAttempts, refunding: QueryRefunds, database: Database, clock: Clock) -> Sequence[Timer]:
    """Due questions to channels, refunds to be sent, old idempotency keys, the event log's partitions."""
    return (
        Timer(name="query_attempts", claim=querying.claim, apply=querying.apply, batch_max=BATCH_MAX),
        Timer(name="query_refunds", claim=refunding.claim, apply=refunding.apply, batch_max=BATCH_MAX),
        idempotency.purge_timer(clock),
        event_log.partition_timer(database),
    )
