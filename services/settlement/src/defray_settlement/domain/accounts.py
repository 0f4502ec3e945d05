"""The ledger's accounts: who owns them, what they are for, and how they are named."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from defray_kernel import ids, money
from defray_kernel.ids import MerchantId

_CHANNEL: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


class Owner(StrEnum):
    """Whose account it is; the first part of its id."""

    CHANNEL = "channel"
    MERCHANT = "merchant"
    PLATFORM = "platform"
    SUSPENSE = "suspense"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account in one currency; `merchant_id` where a merchant owns it."""

    account_id: str
    owner: Owner
    currency: str
    merchant_id: MerchantId | None = None


def channel_clearing(channel: str, currency: str) -> Account:
    """What a channel has taken for us and still owes us. Raises ValueError for a name that is no channel's."""
    return _account(Owner.CHANNEL, f"{_checked(channel)}:clearing", currency)


def merchant_pending(merchant_id: MerchantId, currency: str) -> Account:
    """What we owe a merchant and is not yet due."""
    return _account(Owner.MERCHANT, f"{ids.show('mer', merchant_id)}:pending", currency, merchant_id)


def fee_income(currency: str) -> Account:
    """What the platform has earned."""
    return _account(Owner.PLATFORM, "fee_income", currency)


def suspense(channel: str, currency: str) -> Account:
    """Money a channel has taken that is nobody's yet: late or duplicate. Raises ValueError like `channel_clearing`."""
    return _account(Owner.SUSPENSE, _checked(channel), currency)


def _account(owner: Owner, name: str, currency: str, merchant_id: MerchantId | None = None) -> Account:
    money.exponent(currency)
    return Account(account_id=f"{owner}:{name}:{currency}", owner=owner, currency=currency, merchant_id=merchant_id)


def _checked(channel: str) -> str:
    if _CHANNEL.match(channel) is None:
        raise ValueError("not a channel's name")
    return channel
