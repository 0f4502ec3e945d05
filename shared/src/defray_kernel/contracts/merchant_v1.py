"""What the settlement service announces about merchants: one compacted record with the full state each."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from defray_kernel.contracts.envelope import EventData, Time

TOPIC = "settlement.merchant.state.v1"


class ApiKeyV1(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without the key: `sha256` is of the whole key text, in hexadecimal; `prefix` is for people."""

    key_id: str
    prefix: str
    sha256: str
    scopes: list[str]
    expires_at: Time | None = None


class MerchantState(EventData, frozen=True, kw_only=True):
    """The merchant as the other services need it. Key: merchant id. Announced again, so readers guard by sequence.

    `suspended`: it places no orders; what it has sold goes on, and its customers can be refunded.
    """

    TYPE: ClassVar[str] = "merchant.state.v1"
    TOPIC: ClassVar[str] = TOPIC

    merchant_id: str
    name: str
    status: Literal["ACTIVE", "DISABLED"]
    mode: Literal["test", "live"]
    currencies: list[str]
    api_keys: list[ApiKeyV1]
    late_money: Literal["return", "reopen", "case"] = "return"
    changed_at: Time
    suspended: bool = False
