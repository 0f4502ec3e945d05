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
    "webhooks not yet delivered": ("delivery", "state = 'PENDING'"),
}
"""What must be empty in every schema that has the table: words for a person, table, condition."""


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
