"""The twin's settlement service: one balanced entry per payment, balances under row locks."""

import datetime as dt
from typing import Any

from sqlalchemy import DateTime, ForeignKey, String, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from tests.bench.textbook import base
from tests.bench.textbook.base import Received, Service, new_id, now
from tests.bench.textbook.payment import TOPIC as PAYMENT_TOPIC

TOPIC = "textbook.ledger.entries"
TABLES = base.tables("settlement")
FEE_BASIS_POINTS = 60
CLEARING, FEES = "clearing:wechat:CNY", "fees:CNY"


class Account(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "account"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    balance_minor: Mapped[int] = mapped_column(default=0)
    sequence: Mapped[int] = mapped_column(default=0)


class Entry(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "entry"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    payment_id: Mapped[str] = mapped_column(String(40), unique=True)
    posted_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True))


class Leg(TABLES.base):  # type: ignore[name-defined,misc]
    __tablename__ = "leg"

    entry_id: Mapped[str] = mapped_column(ForeignKey("settlement.entry.id"), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("settlement.account.id"), primary_key=True)
    delta_minor: Mapped[int]
    sequence: Mapped[int]


def merchant_account(merchant_id: str) -> str:
    return f"merchant:{merchant_id}:CNY"


def first_accounts(merchant_id: str) -> list[Account]:
    """The accounts that payments of one merchant are booked on."""
    return [Account(id=name, balance_minor=0, sequence=0) for name in (CLEARING, FEES, merchant_account(merchant_id))]


async def payment_succeeded(session: AsyncSession, event: Received) -> None:
    gross = event.data["amount_minor"]
    fee = (gross * FEE_BASIS_POINTS + 5_000) // 10_000
    deltas = {CLEARING: gross, FEES: -fee, merchant_account(event.data["merchant_id"]): fee - gross}
    entry = Entry(id=new_id("ent"), payment_id=event.data["payment_id"], posted_at=now())
    session.add(entry)
    await session.flush()
    query = select(Account).where(Account.id.in_(deltas)).order_by(Account.id).with_for_update()
    legs: list[dict[str, Any]] = []
    for account in (await session.execute(query)).scalars():
        account.balance_minor += deltas[account.id]
        account.sequence += 1
        session.add(Leg(entry_id=entry.id, account_id=account.id, delta_minor=deltas[account.id],
                        sequence=account.sequence))  # fmt: skip
        legs.append({"account_id": account.id, "delta_minor": deltas[account.id], "sequence": account.sequence,
                     "balance_minor": account.balance_minor})  # fmt: skip
    session.add(TABLES.outbox(event_id=new_id("evt"), topic=TOPIC, key=event.data["merchant_id"], type="ledger.posted",
                              sequence=1, correlation_id=event.correlation_id,
                              payload={"entry_id": entry.id, "payment_id": entry.payment_id, "legs": legs}))  # fmt: skip


SERVICE = Service(name="settlement", tables=TABLES, topics=(PAYMENT_TOPIC,),
                  handlers={"payment.succeeded": payment_succeeded})  # fmt: skip

if __name__ == "__main__":
    base.main(SERVICE)
