"""Tell: which state of this service becomes which public event."""

import datetime as dt
from typing import Literal, assert_never

from defray_kernel import ids, outbox
from defray_kernel.contracts.envelope import Cause
from defray_kernel.contracts.ledger_v1 import AccountPosted
from defray_kernel.contracts.merchant_v1 import ApiKeyV1, MerchantState
from defray_kernel.outbox import OutboxEvent
from defray_settlement.domain.accounts import Account, Owner
from defray_settlement.domain.merchant import Merchant, MerchantStatus


def merchant_state(merchant: Merchant) -> MerchantState:
    """The merchant as the other services may know it: hashes of its live keys, no fee."""
    return MerchantState(
        merchant_id=ids.show("mer", merchant.merchant_id),
        name=merchant.name,
        status=_status(merchant.status),
        mode=merchant.mode,
        currencies=list(merchant.currencies),
        api_keys=[
            ApiKeyV1(
                key_id=ids.show("key", key.key_id), prefix=key.prefix, sha256=key.sha256.hex(), scopes=list(key.scopes)
            )
            for key in merchant.keys
        ],
        late_money=merchant.late_money,
        suspended=merchant.status is MerchantStatus.SUSPENDED,
        changed_at=merchant.changed_at,
    )


def merchant(state_of: Merchant, *, cause: Cause, at: dt.datetime) -> OutboxEvent:
    """The registry's record of a merchant; `at` is business time."""
    subject = ids.show("mer", state_of.merchant_id)
    return outbox.event(
        merchant_state(state_of), key=subject, aggregate_id=subject, sequence=state_of.event_seq, cause=cause, at=at
    )


def account_posted(
    account: Account,
    *,
    delta_minor: int,
    balance_minor: int,
    sequence: int,
    entry_ids: list[str],
    cause: Cause,
    at: dt.datetime,
) -> OutboxEvent:
    """What one transaction did to one account."""
    data = AccountPosted(
        account_id=account.account_id,
        owner=_owner(account.owner),
        currency=account.currency,
        delta_minor=delta_minor,
        balance_minor=balance_minor,
        entry_ids=entry_ids,
        posted_at=at,
    )
    return outbox.event(
        data, key=account.account_id, aggregate_id=account.account_id, sequence=sequence, cause=cause, at=at
    )


def _status(status: MerchantStatus) -> Literal["ACTIVE", "DISABLED"]:
    match status:
        case MerchantStatus.ACTIVE | MerchantStatus.SUSPENDED:
            return "ACTIVE"
        case MerchantStatus.DISABLED:
            return "DISABLED"
        case _:
            assert_never(status)


def _owner(owner: Owner) -> Literal["channel", "merchant", "platform", "suspense"]:
    match owner:
        case Owner.CHANNEL:
            return "channel"
        case Owner.MERCHANT:
            return "merchant"
        case Owner.PLATFORM:
            return "platform"
        case Owner.SUSPENSE:
            return "suspense"
        case _:
            assert_never(owner)
