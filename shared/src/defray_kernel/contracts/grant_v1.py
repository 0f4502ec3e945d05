"""What the order service announces of grants: what an order brought its buyer, and what of it was used or went back."""

from __future__ import annotations

from typing import ClassVar, Literal

from defray_kernel.contracts.envelope import EventData, Time
from defray_kernel.contracts.order_v1 import TOPIC, Currency, Minor

BenefitKindV1 = Literal["coupon", "points", "entitlement"]
GrantUnit = Literal["minor", "basis_points", "points", "entitlement"]
GrantStatus = Literal["GRANTED", "USED", "REVOKED", "FAILED"]


class GrantStateV1(EventData, frozen=True, kw_only=True):
    """The public state of one grant; its Kafka key is the order that brought it, its sequence is its own.

    `line` is that of the order, 0 the order as a whole. `units`, counted in `unit`, was granted; `recalled_units` of it
    has gone back with the order's money. A coupon is worth what is left to each of its uses. `debt_minor` is what could
    not be recalled, because it was used before. A coupon's code is never told here: whoever reads it could use it.
    """

    TOPIC: ClassVar[str] = TOPIC

    grant_id: str
    order_id: str
    merchant_id: str
    benefit_id: str
    line: int
    kind: BenefitKindV1
    status: GrantStatus
    unit: GrantUnit
    units: Minor
    recalled_units: Minor
    currency: Currency | None = None
    uses: int = 0
    uses_max: int = 1
    debt_minor: Minor = 0
    granted_at: Time | None = None
    valid_from: Time | None = None
    valid_until: Time | None = None
    reason: str | None = None


class GrantGranted(GrantStateV1, frozen=True, kw_only=True):
    """What the order brings was given: at most once for an order's line and kind. Consumers first."""

    TYPE: ClassVar[str] = "grant.granted.v1"


class GrantUsed(GrantStateV1, frozen=True, kw_only=True):
    """An order that was placed with this coupon is paid; told with each use. Consumers first."""

    TYPE: ClassVar[str] = "grant.used.v1"

    used_on_order_id: str
    discount_minor: Minor


class GrantRevoked(GrantStateV1, frozen=True, kw_only=True):
    """Part of the grant went back with the order's money, or all that was left (REVOKED). Consumers first."""

    TYPE: ClassVar[str] = "grant.revoked.v1"


class GrantOwed(GrantStateV1, frozen=True, kw_only=True):
    """What should have gone back was used before: `debt_minor` is what the order owes of it now. Consumers first.

    It falls again when an order that had only reserved the coupon ends unpaid.
    """

    TYPE: ClassVar[str] = "grant.owed.v1"


class GrantFailed(GrantStateV1, frozen=True, kw_only=True):
    """The grant could not be given, for the `reason` that is told. Consumers first."""

    TYPE: ClassVar[str] = "grant.failed.v1"
