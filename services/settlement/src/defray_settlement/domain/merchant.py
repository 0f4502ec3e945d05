"""A merchant's registration and the acts that move it: suspend, resume, disable, issue a key, revoke a key."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias, assert_never
from uuid import UUID

from defray_kernel.ids import MerchantId

LIVE_KEYS_MAX: Final = 2
"""One in use and its successor: enough to rotate, too few to lose sight of."""

LateMoney: TypeAlias = Literal["return", "reopen", "case"]
Mode: TypeAlias = Literal["test", "live"]


class MerchantStatus(StrEnum):
    """ACTIVE ⇄ SUSPENDED → DISABLED; from the last there is no way back yet."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"  # places no orders; its customers are refunded, its orders end, its keys work
    DISABLED = "DISABLED"


class Refusal(StrEnum):
    """Why an act is refused; stable codes."""

    MERCHANT_DISABLED = "merchant_disabled"
    TOO_MANY_KEYS = "too_many_keys"
    KEY_UNKNOWN = "key_unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A live key as it is kept: `sha256` of its whole text; `prefix` is for people."""

    key_id: UUID
    slot: int
    prefix: str
    sha256: bytes
    scopes: tuple[str, ...]
    issued_at: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Merchant:
    """A registered merchant with its live keys. `version` moves with every write, `event_seq` with every event."""

    merchant_id: MerchantId
    name: str
    status: MerchantStatus
    mode: Mode
    currencies: tuple[str, ...]
    late_money: LateMoney
    version: int
    event_seq: int
    registered_at: dt.datetime
    changed_at: dt.datetime
    keys: tuple[ApiKey, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """Take no more orders or payments for this merchant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """Take no more orders of this merchant until it is resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Take its orders again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueKey:
    """Give the merchant a key; `slot` is chosen by the decision."""

    key_id: UUID
    prefix: str
    sha256: bytes
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKey:
    """Take a key away. `revoked_before` says that the store knows it as one revoked earlier."""

    key_id: UUID
    revoked_before: bool = False


Act: TypeAlias = Disable | Suspend | Resume | IssueKey | RevokeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The merchant as it is after the act."""

    merchant: Merchant


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The act was done before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The act does not fit."""

    reason: Refusal


Decision: TypeAlias = Moved | Repeated | Refused


def act_name(act: Act) -> str:
    """The act's name in transition and audit logs."""
    match act:
        case Disable():
            return "disable"
        case Suspend():
            return "suspend"
        case Resume():
            return "resume"
        case IssueKey():
            return "issue_key"
        case RevokeKey():
            return "revoke_key"
        case _:
            assert_never(act)


def decide(merchant: Merchant, act: Act, at: dt.datetime) -> Decision:
    """What an act does to a merchant; `at` is business time."""
    match act:
        case Disable():
            if merchant.status is MerchantStatus.DISABLED:
                return Repeated()
            return _moved(merchant, at, status=MerchantStatus.DISABLED)
        case Suspend():
            return _set(merchant, at, MerchantStatus.SUSPENDED)
        case Resume():
            return _set(merchant, at, MerchantStatus.ACTIVE)
        case IssueKey():
            return _issue(merchant, act, at)
        case RevokeKey():
            if all(key.key_id != act.key_id for key in merchant.keys):
                return Repeated() if act.revoked_before else Refused(reason=Refusal.KEY_UNKNOWN)
            return _moved(merchant, at, keys=tuple(key for key in merchant.keys if key.key_id != act.key_id))
        case _:
            assert_never(act)


def _set(merchant: Merchant, at: dt.datetime, status: MerchantStatus) -> Decision:
    if merchant.status is MerchantStatus.DISABLED:
        return Refused(reason=Refusal.MERCHANT_DISABLED)
    return Repeated() if merchant.status is status else _moved(merchant, at, status=status)


def _issue(merchant: Merchant, act: IssueKey, at: dt.datetime) -> Decision:
    if any(key.key_id == act.key_id for key in merchant.keys):
        return Repeated()
    if merchant.status is MerchantStatus.DISABLED:
        return Refused(reason=Refusal.MERCHANT_DISABLED)
    free = sorted(set(range(1, LIVE_KEYS_MAX + 1)) - {key.slot for key in merchant.keys})
    if not free:
        return Refused(reason=Refusal.TOO_MANY_KEYS)
    key = ApiKey(key_id=act.key_id, slot=free[0], prefix=act.prefix, sha256=act.sha256, scopes=act.scopes, issued_at=at)
    return _moved(merchant, at, keys=(*merchant.keys, key))


def _moved(
    merchant: Merchant,
    at: dt.datetime,
    *,
    status: MerchantStatus | None = None,
    keys: Sequence[ApiKey] | None = None,
) -> Moved:
    return Moved(
        merchant=dataclasses.replace(
            merchant,
            status=merchant.status if status is None else status,
            keys=merchant.keys if keys is None else tuple(keys),
            version=merchant.version + 1,
            event_seq=merchant.event_seq + 1,
            changed_at=at,
        )
    )
