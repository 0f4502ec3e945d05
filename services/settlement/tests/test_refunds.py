"""Money that goes back, on a real Postgres: from where it was put, once, and never before it came."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
import pytest

from defray_kernel.clock import ManualClock
from defray_kernel.contracts.envelope import Event
from defray_kernel.contracts.payment_v1 import (
    PaymentDuplicate,
    PaymentPaidLate,
    PaymentStateV1,
    PaymentSucceeded,
    RefundRequested,
    RefundSucceeded,
)
from defray_kernel.db import Database
from defray_kernel.errors import Poison, RetryLater
from defray_kernel.ids import parse, show, uuid7
from defray_settlement.entrypoints import consumers
from defray_settlement.store import ledger

from .conftest import Service, registered
from .given import paid, refund
from .test_ledger import announced, balances

HANDLERS = {each.event: each.handle for each in consumers.PAYMENTS}


async def hear(database: Database, clock: ManualClock, *events: Event[Any]) -> None:
    """As the consumer does: lock the batch, then one round per event."""
    async with database.transaction() as tx:
        await consumers.lock_accounts(events, tx)
        for event in events:
            await HANDLERS[type(event.data)]([event], tx, clock)


async def minor(database: Database) -> dict[str, int]:
    async with database.read() as conn:
        books = await ledger.verify(conn)
    assert books.balanced
    return {account.partition(":")[2]: balance for account, (balance, _) in (await balances(database)).items()}


async def test_a_refund_takes_from_the_merchant_and_the_fee_stays(database: Database, clock: ManualClock) -> None:
    """The example of README.md: 199.00 paid, 50.00 back, then the rest."""
    shop = await registered(database, clock, "Shop")
    payment = paid(PaymentSucceeded, shop)
    part = refund(RefundSucceeded, payment, amount=5_000)
    await hear(database, clock, payment, part)
    pending = f"{show('mer', shop.merchant_id)}:pending:CNY"
    assert await minor(database) == {"wechat:clearing:CNY": 14_900, pending: -14_781, "fee_income:CNY": -119}
    rest = refund(RefundSucceeded, payment, amount=14_900)
    await hear(database, clock, rest, part, rest, payment)
    assert await minor(database) == {"wechat:clearing:CNY": 0, pending: 119, "fee_income:CNY": -119}
    told = [each for each in await announced(database) if each.account_id == f"merchant:{pending}"]
    assert [each.balance_minor for each in told] == [-19_781, -14_781, 119]


@pytest.mark.parametrize(("kind", "reason"), [(PaymentPaidLate, "late"), (PaymentDuplicate, "duplicate")])
@pytest.mark.parametrize("asked_by", ["rule", "merchant"])
async def test_money_that_was_not_kept_goes_back_from_suspense(
    database: Database, clock: ManualClock, kind: type[PaymentStateV1], reason: str, asked_by: str
) -> None:
    shop = await registered(database, clock, "Shop")
    payment = paid(kind, shop)
    back = refund(RefundSucceeded, payment, amount=19_900, reason=reason if asked_by == "rule" else "merchant")
    await hear(database, clock, payment, back)
    await hear(database, clock, back)
    assert await minor(database) == {"wechat:clearing:CNY": 0, "wechat:CNY": 0}


async def test_money_of_a_wrong_amount_is_in_the_books_while_it_goes_back(
    database: Database, clock: ManualClock
) -> None:
    shop = await registered(database, clock, "Shop")
    payment = paid(PaymentSucceeded, shop)
    asked = refund(
        RefundRequested, payment, amount=19_800, reason="mismatch", status="REQUESTED", done_at=None, sequence=1
    )
    await hear(database, clock, asked, asked)
    assert await minor(database) == {"wechat:clearing:CNY": 19_800, "wechat:CNY": -19_800}
    # The right amount came as well: it is the merchant's, and what goes back is still the other money.
    await hear(database, clock, payment)
    done: dict[str, Any] = {
        "status": "SUCCEEDED",
        "reason": "mismatch",
        "refund_id": asked.data.refund_id,
        "payment_refunded_minor": 0,
    }
    await hear(database, clock, refund(RefundSucceeded, payment, amount=19_800, **done))
    books = await minor(database)
    assert (books["wechat:clearing:CNY"], books["wechat:CNY"]) == (19_900, 0)


async def test_a_wish_of_the_merchant_s_is_not_posted_before_it_is_done(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = paid(PaymentSucceeded, shop)
    await hear(database, clock, payment)
    before = await balances(database)
    await hear(database, clock, refund(RefundRequested, payment, amount=1, status="REQUESTED", done_at=None))
    assert await balances(database) == before


async def test_money_that_has_not_come_cannot_go_back(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = paid(PaymentSucceeded, shop)
    back = refund(RefundSucceeded, payment, amount=1)
    with pytest.raises(RetryLater):
        await hear(database, clock, back)
    assert await balances(database) == {}
    await hear(database, clock, payment, back)
    assert (await balances(database))["channel:wechat:clearing:CNY"] == (19_899, 2)


async def test_a_refund_told_again_with_another_amount_is_poison(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = paid(PaymentSucceeded, shop)
    back = refund(RefundSucceeded, payment, amount=5)
    await hear(database, clock, payment, back)
    for changes in (
        {"amount_minor": 6},
        {"order_id": show("ord", uuid7())},
        {"amount_minor": 0},
        {"refund_id": "rfd_1"},
    ):
        other = msgspec.structs.replace(back, data=msgspec.structs.replace(back.data, **changes))
        with pytest.raises(Poison):
            await hear(database, clock, other)
    assert (await balances(database))["channel:wechat:clearing:CNY"] == (19_895, 2)


async def test_payments_and_refunds_at_once_in_any_order_end_in_the_same_books(
    database: Database, clock: ManualClock
) -> None:
    shops = [await registered(database, clock, f"Shop {n}") for n in range(3)]
    payments = [paid((PaymentSucceeded, PaymentDuplicate)[n % 2], shops[n % 3]) for n in range(24)]
    await hear(database, clock, *payments[:12])
    backs = [refund(RefundSucceeded, payment, amount=100) for payment in payments[:12]]
    work: list[Sequence[Event[Any]]] = [payments[12:18], payments[18:], backs[:6], backs[6:], backs[3:9][::-1]]
    async with asyncio.TaskGroup() as tasks:
        for batch in [*work, *work]:
            tasks.create_task(hear(database, clock, *batch))
    assert (await minor(database))["wechat:clearing:CNY"] == 24 * 19_900 - 12 * 100


async def test_a_refund_cannot_go_back_from_two_places(database: Database, clock: ManualClock) -> None:
    shop = await registered(database, clock, "Shop")
    payment = paid(PaymentSucceeded, shop)
    await hear(database, clock, payment, refund(RefundSucceeded, payment, amount=5))
    with pytest.raises(asyncpg.UniqueViolationError, match="goes_back_once"):
        async with database.transaction() as tx:
            await tx.execute(
                "INSERT INTO entry SELECT gen_random_uuid(), source, 'returned', source_id, merchant_id, order_id, currency, gross_minor,"
                " fee_minor, explanation, legs, paid_at, effective_on, posted_at, correlation_id, causation_id, payment_id"
                " FROM entry WHERE source = 'refund'"
            )


async def test_the_merchant_sees_refunds_beside_their_payment(service: Service, clock: ManualClock) -> None:
    merchant, key = await service.merchant_with_key("Shop", ["ledger:read"])
    shop = await registered(service.database, clock, "Another")
    shop = dataclasses.replace(shop, merchant_id=parse("mer", merchant["merchant_id"]))  # type: ignore[arg-type]
    payment = paid(PaymentSucceeded, shop)
    back = refund(RefundSucceeded, payment, amount=5_000)
    await hear(service.database, clock, payment)
    await hear(service.database, clock, back)
    status, body = await service.ask(f"/v1/ledger/entries?payment_id={payment.data.payment_id}", key=key)
    assert status == 200
    shown = [(each["kind"], each["refund_id"], each["net_minor"], each["fee_minor"]) for each in body["data"]]
    assert sorted(shown) == [("refunded", back.data.refund_id, -5_000, 0), ("succeeded", None, 19_781, 119)]
    [refunded] = [each for each in body["data"] if each["kind"] == "refunded"]
    assert refunded["explanation"] == {"rule": "fee_kept", "gross_minor": 5_000}
    assert sorted(leg["amount_minor"] for leg in refunded["legs"]) == [-5_000, 5_000]
