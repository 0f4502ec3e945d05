"""What the settlement service announces about its ledger: one record per account and transaction."""

from __future__ import annotations

from typing import ClassVar, Literal

from defray_kernel.contracts.envelope import EventData, Time
from defray_kernel.contracts.order_v1 import Currency

TOPIC = "settlement.ledger.entries.v1"


class AccountPosted(EventData, frozen=True, kw_only=True):
    """A committed change of one account. Key and subject: account id; the sequence is the account's, gap-free.

    `delta_minor` and `balance_minor` are signed minor units, debit positive.
    """

    TYPE: ClassVar[str] = "account.posted.v1"
    TOPIC: ClassVar[str] = TOPIC

    account_id: str
    owner: Literal["channel", "merchant", "platform", "bank", "suspense"]
    currency: Currency
    delta_minor: int
    balance_minor: int
    entry_ids: list[str]
    posted_at: Time
