"""The pure rules: acts on merchants, fees, posting."""

import datetime as dt
import itertools
from uuid import UUID

import pytest

from defray_kernel.contracts.envelope import Cause
from defray_kernel.ids import EntryId, MerchantId, uuid7
from defray_kernel.money import MINOR_MAX, Money
from defray_settlement.domain import accounts, fees, posting
from defray_settlement.domain.fees import FeeRule
from defray_settlement.domain.merchant import (
    Act,
    ApiKey,
    Disable,
    IssueKey,
    Merchant,
    MerchantStatus,
    Moved,
    Refusal,
    Refused,
    Repeated,
    Resume,
    RevokeKey,
    Suspend,
    decide,
)
from defray_settlement.domain.posting import Flow, Kind

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=1)


def key(number: int, slot: int) -> ApiKey:
    return ApiKey(
        key_id=UUID(int=number),
        slot=slot,
        prefix="sk_test_abcdef",
        sha256=bytes([number]) * 32,
        scopes=("orders:read",),
        issued_at=NOW,
    )


def merchant(status: MerchantStatus, keys: int) -> Merchant:
    return Merchant(
        merchant_id=MerchantId(UUID(int=7)),
        name="Shop",
        status=status,
        mode="test",
        currencies=("CNY",),
        late_money="return",
        version=4,
        event_seq=3,
        registered_at=NOW,
        changed_at=NOW,
        keys=tuple(key(n, n) for n in range(1, keys + 1)),
    )


def issue(number: int) -> IssueKey:
    return IssueKey(key_id=UUID(int=number), prefix="sk_test_abcdef", sha256=bytes([number]) * 32, scopes=("a:read",))


ACTS: dict[str, Act] = {
    "disable": Disable(),
    "suspend": Suspend(),
    "resume": Resume(),
    "issue new": issue(9),
    "issue first again": issue(1),
    "revoke first": RevokeKey(key_id=UUID(int=1)),
    "revoke unknown": RevokeKey(key_id=UUID(int=8)),
    "revoke revoked": RevokeKey(key_id=UUID(int=8), revoked_before=True),
}
MOVES = {
    ("ACTIVE", 0, "disable"): "moved",
    ("ACTIVE", 0, "suspend"): "moved",
    ("ACTIVE", 0, "resume"): "repeated",
    ("ACTIVE", 0, "issue new"): "moved",
    ("ACTIVE", 0, "issue first again"): "moved",
    ("ACTIVE", 0, "revoke first"): Refusal.KEY_UNKNOWN,
    ("ACTIVE", 0, "revoke unknown"): Refusal.KEY_UNKNOWN,
    ("ACTIVE", 0, "revoke revoked"): "repeated",
    ("ACTIVE", 2, "disable"): "moved",
    ("ACTIVE", 2, "suspend"): "moved",
    ("ACTIVE", 2, "resume"): "repeated",
    ("ACTIVE", 2, "issue new"): Refusal.TOO_MANY_KEYS,
    ("ACTIVE", 2, "issue first again"): "repeated",
    ("ACTIVE", 2, "revoke first"): "moved",
    ("ACTIVE", 2, "revoke unknown"): Refusal.KEY_UNKNOWN,
    ("ACTIVE", 2, "revoke revoked"): "repeated",
    ("SUSPENDED", 0, "disable"): "moved",
    ("SUSPENDED", 0, "suspend"): "repeated",
    ("SUSPENDED", 0, "resume"): "moved",
    ("SUSPENDED", 0, "issue new"): "moved",
    ("SUSPENDED", 0, "issue first again"): "moved",
    ("SUSPENDED", 0, "revoke first"): Refusal.KEY_UNKNOWN,
    ("SUSPENDED", 0, "revoke unknown"): Refusal.KEY_UNKNOWN,
    ("SUSPENDED", 0, "revoke revoked"): "repeated",
    ("SUSPENDED", 2, "disable"): "moved",
    ("SUSPENDED", 2, "suspend"): "repeated",
    ("SUSPENDED", 2, "resume"): "moved",
    ("SUSPENDED", 2, "issue new"): Refusal.TOO_MANY_KEYS,
    ("SUSPENDED", 2, "issue first again"): "repeated",
    ("SUSPENDED", 2, "revoke first"): "moved",
    ("SUSPENDED", 2, "revoke unknown"): Refusal.KEY_UNKNOWN,
    ("SUSPENDED", 2, "revoke revoked"): "repeated",
    ("DISABLED", 0, "disable"): "repeated",
    ("DISABLED", 0, "suspend"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 0, "resume"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 0, "issue new"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 0, "issue first again"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 0, "revoke first"): Refusal.KEY_UNKNOWN,
    ("DISABLED", 0, "revoke unknown"): Refusal.KEY_UNKNOWN,
    ("DISABLED", 0, "revoke revoked"): "repeated",
    ("DISABLED", 2, "disable"): "repeated",
    ("DISABLED", 2, "suspend"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 2, "resume"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 2, "issue new"): Refusal.MERCHANT_DISABLED,
    ("DISABLED", 2, "issue first again"): "repeated",
    ("DISABLED", 2, "revoke first"): "moved",
    ("DISABLED", 2, "revoke unknown"): Refusal.KEY_UNKNOWN,
    ("DISABLED", 2, "revoke revoked"): "repeated",
}


@pytest.mark.parametrize(("status", "keys", "act"), list(itertools.product(MerchantStatus, (0, 2), ACTS)))
def test_every_pair_of_state_and_act_has_one_defined_answer(status: MerchantStatus, keys: int, act: str) -> None:
    before = merchant(status, keys)
    decision = decide(before, ACTS[act], LATER)
    match decision:
        case Moved(merchant=after):
            assert MOVES[status, keys, act] == "moved"
            assert (after.version, after.event_seq, after.changed_at) == (5, 4, LATER)
        case Repeated():
            assert MOVES[status, keys, act] == "repeated"
        case Refused(reason=reason):
            assert MOVES[status, keys, act] == reason


def test_a_new_key_takes_the_slot_of_the_revoked_one() -> None:
    first = decide(merchant(MerchantStatus.ACTIVE, 2), ACTS["revoke first"], LATER)
    assert isinstance(first, Moved)
    second = decide(first.merchant, issue(9), LATER)
    assert isinstance(second, Moved)
    assert {k.key_id.int: k.slot for k in second.merchant.keys} == {2: 2, 9: 1}


@pytest.mark.parametrize(
    ("gross", "basis_points", "fee"),
    [
        (19_900, 60, 119),  # 119.4
        (10_000, 60, 60),
        (83, 60, 0),  # 0.498
        (84, 60, 1),  # 0.504
        (50, 100, 1),  # 0.5 rounds up
        (250, 100, 3),  # 2.5 rounds up
        (1, 10_000, 1),
        (1, 4_999, 0),
        (1, 5_000, 1),
        (5, 0, 0),
        (MINOR_MAX, 60, 6_000_000_000),
    ],
)
def test_a_fee_is_rounded_half_up_and_explained(gross: int, basis_points: int, fee: int) -> None:
    charged = fees.fee(Money(minor=gross, currency="CNY"), FeeRule(version=3, basis_points=basis_points))
    assert charged.amount == Money(minor=fee, currency="CNY")
    assert charged.explanation["rule_version"] == 3
    assert charged.explanation["exact"] == f"{gross * basis_points}/10000"
    assert charged.explanation["rounding"] == "half up to the minor unit"


def flow(kind: Kind, gross: int = 19_900, channel: str = "wechat") -> Flow:
    return Flow(
        kind=kind,
        payment_id=UUID(int=1),
        refund_id=UUID(int=4) if kind in {Kind.REFUNDED, Kind.RETURNED, Kind.MISMATCHED} else None,
        order_id=UUID(int=2),
        merchant_id=MerchantId(UUID(int=3)),
        channel=channel,
        gross=Money(minor=gross, currency="CNY"),
        at=NOW,
        cause=Cause(correlation_id="c"),
    )


PENDING = f"merchant:mer_{UUID(int=3).hex}:pending:CNY"


@pytest.mark.parametrize(
    ("kind", "basis_points", "legs"),
    [
        (
            Kind.SUCCEEDED,
            60,
            {"channel:wechat:clearing:CNY": 19_900, PENDING: -19_781, "platform:fee_income:CNY": -119},
        ),
        (Kind.SUCCEEDED, 0, {"channel:wechat:clearing:CNY": 19_900, PENDING: -19_900}),
        (Kind.SUCCEEDED, 10_000, {"channel:wechat:clearing:CNY": 19_900, "platform:fee_income:CNY": -19_900}),
        (Kind.PAID_LATE, 60, {"channel:wechat:clearing:CNY": 19_900, "suspense:wechat:CNY": -19_900}),
        (Kind.DUPLICATE, 60, {"channel:wechat:clearing:CNY": 19_900, "suspense:wechat:CNY": -19_900}),
        (Kind.MISMATCHED, 60, {"channel:wechat:clearing:CNY": 19_900, "suspense:wechat:CNY": -19_900}),
        (Kind.REFUNDED, 60, {"channel:wechat:clearing:CNY": -19_900, PENDING: 19_900}),
        (Kind.RETURNED, 60, {"channel:wechat:clearing:CNY": -19_900, "suspense:wechat:CNY": 19_900}),
    ],
)
def test_each_kind_of_flow_has_its_legs(kind: Kind, basis_points: int, legs: dict[str, int]) -> None:
    entry = posting.post(flow(kind), FeeRule(version=1, basis_points=basis_points), EntryId(uuid7()))
    assert {leg.account.account_id: leg.amount.minor for leg in entry.legs} == legs
    assert set(legs) <= {account.account_id for account in posting.accounts_of(entry.flow)}


@pytest.mark.parametrize("channel", ["", "WeChat", "a:b", "x" * 33, "1st", "wechat\n"])
def test_a_name_that_is_no_channel_s_opens_no_account(channel: str) -> None:
    with pytest.raises(ValueError, match="channel"):
        accounts.channel_clearing(channel, "CNY")
