"""Checks after a run that the books balance, the channels agree with them, and nothing is left undone anywhere."""

from collections import Counter
from dataclasses import dataclass

import asyncpg

from defray_sandbox.doors import Doors, Json
from defray_sandbox.stack.local import LocalStack
from defray_sandbox.stack.provision import SERVICES

_CONNECT_TIMEOUT_S = 5
_UNDONE = {
    "events not yet sent": ("outbox", "true"),
    "parked events": ("parked_event", "true"),
    "open cases": ("exception_case", "state <> 'RESOLVED'"),
    "refunds under way": ("refund", "status IN ('REQUESTED', 'PROCESSING', 'ABNORMAL')"),
    "refund requests under way": ("refund_request", "state IN ('REQUESTED', 'SENT')"),
    "grants not yet given": ("fulfilment_grant", "state = 'PENDING'"),
    "requests that wait for their merchant": ("inbound_waiting", "true"),
    "webhooks not yet delivered": ("delivery", "state = 'PENDING'"),
}
"""What must be empty in every schema that has the table: words for a person, table, condition."""

_COUPONS = """
WITH use AS (
  SELECT u.grant_id, count(*) AS taken, sum(u.amount_minor) AS took_minor, sum(coalesce(d.debt_minor, 0)) AS owed_minor,
         sum(least(u.amount_minor, g.units - g.recalled)) AS kept_minor
  FROM orders.coupon_use u JOIN orders.fulfilment_grant g USING (grant_id)
  LEFT JOIN orders.grant_debt d ON d.grant_id = u.grant_id AND d.used_on = u.order_id
  WHERE u.state <> 'RELEASED' GROUP BY u.grant_id
)
SELECT g.currency, count(*) FILTER (WHERE coalesce(use.taken, 0) <> g.used + g.reserved) AS miscounted,
       sum((g.uses_max - coalesce(use.taken, 0)) * g.units + coalesce(use.took_minor, 0))::bigint AS granted,
       sum((g.uses_max - coalesce(use.taken, 0)) * (g.units - g.recalled) + coalesce(use.kept_minor, 0))::bigint AS kept,
       sum((g.uses_max - coalesce(use.taken, 0)) * g.recalled)::bigint AS recalled,
       coalesce(sum(use.owed_minor), 0)::bigint AS owed
FROM (SELECT g.*, b.currency FROM orders.fulfilment_grant g JOIN orders.benefit b USING (benefit_id)
      WHERE b.value = 'fixed' AND g.granted_at IS NOT NULL) g
LEFT JOIN use USING (grant_id) GROUP BY g.currency ORDER BY g.currency
"""
"""Of coupons of a fixed value, by currency: granted, and what became of it, from the uses, the grants and the debts."""
_REFUNDED = """
SELECT o.currency, sum(o.refunded_minor)::bigint AS orders_say, coalesce(sum(r.minor), 0)::bigint AS channels_did,
       count(*) FILTER (WHERE o.refunded_minor <> coalesce(r.minor, 0) OR o.refunded_minor > o.amount_minor) AS different
FROM orders.orders o
LEFT JOIN (SELECT payment_id, sum(amount_minor) AS minor FROM payments.refund WHERE status = 'SUCCEEDED' GROUP BY payment_id) r
  USING (payment_id)
GROUP BY o.currency ORDER BY o.currency
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was checked, whether it holds, and the figures."""

    what: str
    holds: bool
    figures: str


async def undone(stack: LocalStack) -> dict[str, int]:
    """Return what is still to be done, by schema and kind; empty when everything has come to rest."""
    found: dict[str, int] = {}
    connection = await asyncpg.connect(stack.site.database.admin_dsn, timeout=_CONNECT_TIMEOUT_S)
    try:
        for schema in SERVICES.values():
            for what, (table, condition) in _UNDONE.items():
                if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{schema}.{table}"):
                    count = await connection.fetchval(f"SELECT count(*) FROM {schema}.{table} WHERE {condition}")  # noqa: S608 -- names of our own.
                    if count:
                        found[f"{schema}: {what}"] = count
    finally:
        await connection.close()
    return found


async def books(stack: LocalStack, doors: Doors) -> list[Finding]:
    """Ask settlement for its trial balance, each channel for what it took in and gave back, and compare the two."""
    settlement = stack.addresses.services["settlement"].internal_url
    operator = stack.credentials.operator_token("checks", ["viewer"])
    trial = await doors.get(f"{settlement}/internal/v1/trial-balance", bearer=operator)
    totals = {row["currency"]: row for row in trial["currencies"]}
    figures = ", ".join(
        f"{name}: debit {row['debit_minor']} = credit {row['credit_minor']}" for name, row in totals.items()
    )
    findings = [Finding(what="the books balance", holds=bool(trial["balanced"]), figures=figures)]
    clearing = await _clearing(stack)
    for channel, ports in stack.addresses.channels.items():
        held = _held(await doors.get(f"{ports.internal_url}/books"))
        ours = clearing.pop(channel, {})
        findings.append(
            Finding(
                what=f"{channel}'s own books equal our clearing account",
                holds=held == ours,
                figures=f"{channel} {held}, clearing {ours}",
            )
        )
    if clearing:
        findings.append(Finding(what="no clearing account is a stranger's", holds=False, figures=str(clearing)))
    return findings


async def orders(stack: LocalStack) -> list[Finding]:
    """Compare what orders say of money that went back with the payment service, and add up what became of coupons."""
    connection = await asyncpg.connect(stack.site.database.admin_dsn, timeout=_CONNECT_TIMEOUT_S)
    try:
        refunded, coupons = await connection.fetch(_REFUNDED), await connection.fetch(_COUPONS)
    finally:
        await connection.close()
    same = all(row["different"] == 0 for row in refunded)
    sums = ", ".join(f"{row['currency']}: {row['orders_say']} = {row['channels_did']}" for row in refunded)
    adds_up = all(row["granted"] == row["kept"] + row["recalled"] + row["owed"] for row in coupons)
    counted = all(row["miscounted"] == 0 for row in coupons)
    parts = ", ".join(
        f"{row['currency']}: {row['granted']} = {row['kept']} + {row['recalled']} + {row['owed']}" for row in coupons
    )
    return [
        Finding(what="orders know of each refund of their payments", holds=same, figures=sums),
        Finding(what="coupons granted = kept + recalled + owed", holds=adds_up and counted, figures=parts),
    ]


def _held(books: Json) -> dict[str, int]:
    """What a channel has taken in and not given back, by currency."""
    held: Counter[str] = Counter()
    for currency, row in books["captures"].items():
        held[currency] += row["amount_minor"]
    for currency, row in books["refunds"].items():
        held[currency] -= row["amount_minor"]
    return {currency: minor for currency, minor in held.items() if minor}


async def _clearing(stack: LocalStack) -> dict[str, dict[str, int]]:
    """The balances of our clearing accounts, by channel and currency."""
    connection = await asyncpg.connect(stack.site.database.admin_dsn, timeout=_CONNECT_TIMEOUT_S)
    try:
        rows = await connection.fetch(
            "SELECT split_part(account_id, ':', 2) AS channel, currency, balance_minor FROM settlement.account"
            " WHERE account_id LIKE 'channel:%:clearing:%' AND balance_minor <> 0"
        )
    finally:
        await connection.close()
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["channel"], {})[row["currency"]] = row["balance_minor"]
    return found
