"""Checks after a run that the books balance, the channel agrees with them, and nothing is left undone anywhere."""

from dataclasses import dataclass

import asyncpg

from defray_sandbox.doors import Doors
from defray_sandbox.stack.local import LocalStack
from defray_sandbox.stack.provision import SERVICES

_CONNECT_TIMEOUT_S = 5
_UNDONE = {
    "events not yet sent": ("outbox", "true"),
    "parked events": ("parked_event", "true"),
    "open cases": ("exception_case", "state = 'OPEN'"),
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
    """Ask settlement for its trial balance and the channel for its captures, and compare the two."""
    settlement = stack.addresses.services["settlement"].internal_url
    operator = stack.credentials.operator_token("checks", ["viewer"])
    trial = await doors.get(f"{settlement}/internal/v1/trial-balance", bearer=operator)
    totals = {row["currency"]: row for row in trial["currencies"]}
    figures = ", ".join(
        f"{name}: debit {row['debit_minor']} = credit {row['credit_minor']}" for name, row in totals.items()
    )
    captures = (await doors.get(f"{stack.addresses.channel.internal_url}/books"))["captures"]
    taken = {name: row["amount_minor"] for name, row in captures.items()}
    clearing = await _clearing(stack)
    return [
        Finding(what="the books balance", holds=bool(trial["balanced"]), figures=figures),
        Finding(
            what="the channel's own books equal our clearing account",
            holds=taken == clearing,
            figures=f"channel {taken}, clearing {clearing}",
        ),
    ]


async def _clearing(stack: LocalStack) -> dict[str, int]:
    connection = await asyncpg.connect(stack.site.database.admin_dsn, timeout=_CONNECT_TIMEOUT_S)
    try:
        rows = await connection.fetch(
            "SELECT currency, balance_minor FROM settlement.account WHERE account_id LIKE 'channel:%:clearing:%'"
        )
    finally:
        await connection.close()
    return {row["currency"]: row["balance_minor"] for row in rows if row["balance_minor"]}
