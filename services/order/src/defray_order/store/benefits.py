"""Templates of benefits with their stock, and which of them orders were placed with."""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

from asyncpg import Record

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.sql import queries
from defray_order.domain.benefit import Benefit, BenefitId, BenefitKind, CouponTerms, CouponValue, Rule

Q = queries(__file__)


async def insert(tx: WriteTx, benefit: Benefit) -> None:
    """Insert a new template."""
    terms, rule = benefit.coupon, benefit.rule
    await tx.execute(
        Q.insert,
        benefit.benefit_id,
        benefit.merchant_id,
        benefit.name,
        benefit.kind,
        benefit.units,
        benefit.currency,
        None if terms is None else terms.value,
        None if terms is None else terms.cap_minor,
        None if terms is None else terms.minimum_minor,
        1 if terms is None else terms.uses_max,
        None if terms is None else terms.starts_at,
        None if terms is None else terms.ends_at,
        None if terms is None else terms.days,
        rule is not None,
        None if rule is None else rule.minimum_minor,
        None if rule is None else rule.starts_at,
        None if rule is None else rule.ends_at,
        benefit.stock_left,
        benefit.created_at,
    )


async def get(conn: ReadConn, benefit_ids: Sequence[BenefitId]) -> dict[BenefitId, Benefit]:
    """The templates there are of those asked for, whosoever they are."""
    return {BenefitId(row["benefit_id"]): _benefit(row) for row in await conn.fetch(Q.get, benefit_ids)}


async def page(conn: ReadConn, merchant_id: MerchantId, *, after: UUID, limit: int) -> list[Benefit]:
    """A merchant's templates, oldest first, from behind `after`."""
    return [_benefit(row) for row in await conn.fetch(Q.page, merchant_id, after, limit)]


async def rules(conn: ReadConn, merchant_ids: Sequence[MerchantId]) -> list[Benefit]:
    """The templates of these merchants that rules give and that are not archived; each merchant has few."""
    return [_benefit(row) for row in await conn.fetch(Q.rules, merchant_ids)]


async def count_rules(tx: WriteTx, merchant_id: MerchantId) -> int:
    """How many of them a merchant has; nobody adds one until this transaction ends."""
    await tx.execute(Q.lock_rules, merchant_id)
    count: int = await tx.fetchval(Q.count_rules, merchant_id)
    return count


async def archive(tx: WriteTx, merchant_id: MerchantId, benefit_id: BenefitId, at: dt.datetime) -> bool:
    """Give no more of it to new orders; archived again it keeps its first time. False when the merchant has no such."""
    return await tx.fetchval(Q.archive, benefit_id, merchant_id, at) is not None


async def lock_stock(tx: WriteTx, benefit_ids: Sequence[BenefitId]) -> dict[BenefitId, int]:
    """Lock those that have a stock, in order of their ids; returns what is left of each."""
    return {BenefitId(row["benefit_id"]): row["stock_left"] for row in await tx.fetch(Q.lock_stock, benefit_ids)}


async def take_from_stock(tx: WriteTx, taken: Sequence[tuple[BenefitId, int]]) -> None:
    """Lower the stock of locked templates. The schema refuses what is not there."""
    await tx.execute(Q.take_from_stock, [t[0] for t in taken], [t[1] for t in taken])


async def attach(tx: WriteTx, attached: Sequence[tuple[OrderId, int, BenefitId]]) -> None:
    """Note what the lines of new orders were sold with."""
    await tx.execute(Q.attach, [a[0] for a in attached], [a[1] for a in attached], [a[2] for a in attached])


async def attached(conn: ReadConn, order_ids: Sequence[OrderId]) -> list[tuple[OrderId, int, BenefitId]]:
    """The same of these orders."""
    return [(row["order_id"], row["line"], row["benefit_id"]) for row in await conn.fetch(Q.attached, order_ids)]


def _benefit(row: Record) -> Benefit:
    rule = None
    if row["by_rule"]:
        rule = Rule(minimum_minor=row["rule_minor"], starts_at=row["rule_from"], ends_at=row["rule_until"])
    return Benefit(
        benefit_id=row["benefit_id"],
        merchant_id=row["merchant_id"],
        name=row["name"],
        kind=BenefitKind(row["kind"]),
        units=row["units"],
        currency=row["currency"],
        coupon=coupon_terms(row),
        rule=rule,
        stock_left=row["stock_left"],
        created_at=row["created_at"],
        archived_at=row["archived_at"],
    )


def coupon_terms(row: Record) -> CouponTerms | None:
    """What a row of a template's columns says of a coupon."""
    if row["value"] is None:
        return None
    return CouponTerms(
        value=CouponValue(row["value"]),
        cap_minor=row["cap_minor"],
        minimum_minor=row["minimum_minor"],
        uses_max=row["uses_max"],
        starts_at=row["valid_from"],
        ends_at=row["valid_until"],
        days=row["valid_days"],
    )
