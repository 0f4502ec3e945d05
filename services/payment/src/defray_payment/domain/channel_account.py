"""An account at a channel: whose it is, how the channel names it, and whether new payments go to it."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from defray_kernel.ids import MerchantId
from defray_payment.domain.seals import account_context


class AccountStatus(StrEnum):
    """A retired account takes no new payments; its attempts, refunds and callbacks go on."""

    ACTIVE = "ACTIVE"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAccount:
    """One row. `merchant_id` None: the platform's own, for merchants that have none. Its keys stay sealed."""

    account_id: UUID
    channel: str
    merchant_id: MerchantId | None
    merchant_ref: str
    app_ref: str
    base_url: str
    status: AccountStatus
    secrets_sealed: bytes = field(repr=False)
    seed_digest: bytes | None = None
    version: int = 1

    @property
    def context(self) -> str:
        """The place that its keys are sealed for."""
        return account_context(self.account_id)
