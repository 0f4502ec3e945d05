"""What an order is placed with beside its lines: coupons, which it reserves, and benefits, which it will bring."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias, assert_never

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, OrderId
from defray_kernel.money import Money
from defray_order.commands import redeem_coupon
from defray_order.commands.redeem_coupon import Priced, Redeem, WrongTotal
from defray_order.domain import coupon
from defray_order.domain.benefit import Benefit, BenefitId, misfit
from defray_order.store import benefits


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """An order that is to be placed: what its lines cost, what it says is to be paid, coupons by digest, benefits by line."""

    order_id: OrderId
    merchant_id: MerchantId
    lines_minor: int
    total: Money
    coupons: tuple[bytes, ...]
    benefits: tuple[tuple[int, BenefitId], ...]
    cause: Cause


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """It may be placed with them; its coupons stay locked until this transaction ends."""

    extras: Extras
    priced: Priced | None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """It may not: a stable code, and the field as the request names it."""

    code: str
    field: str


Answer: TypeAlias = Checked | Refused


async def check(wishes: Sequence[Extras], tx: WriteTx, clock: Clock) -> dict[OrderId, Answer]:
    """Lock the coupons of all, price them, and look at the benefits. Comes before the orders' own keys are locked."""
    if not wishes:
        return {}
    redeems = [_redeem(wish) for wish in wishes if wish.coupons]
    priced = await redeem_coupon.price(redeems, tx, clock) if redeems else {}
    named = sorted({benefit_id for wish in wishes for _, benefit_id in wish.benefits})
    known = await benefits.get(tx, named) if named else {}
    return {wish.order_id: _unfit(wish, known) or _answer(wish, priced.get(wish.order_id)) for wish in wishes}


async def keep(checked: Sequence[Checked], tx: WriteTx, clock: Clock) -> None:
    """Reserve and attach, for orders that were placed."""
    await redeem_coupon.reserve([each.priced for each in checked if each.priced is not None], tx, clock)
    attached = [(each.extras.order_id, line, b) for each in checked for line, b in each.extras.benefits]
    if attached:
        await benefits.attach(tx, attached)


def _redeem(wish: Extras) -> Redeem:
    return Redeem(
        order_id=wish.order_id,
        merchant_id=wish.merchant_id,
        base_minor=wish.lines_minor,
        total=wish.total,
        digests=wish.coupons,
        cause=wish.cause,
    )


def _unfit(wish: Extras, known: dict[BenefitId, Benefit]) -> Refused | None:
    by_line: defaultdict[int, list[Benefit | None]] = defaultdict(list)
    for line, benefit_id in wish.benefits:
        by_line[line].append(known.get(benefit_id))
    for line, held in by_line.items():
        wrong = misfit(held, wish.merchant_id, wish.total.currency)
        if wrong is not None:
            return Refused(code=wrong[1], field=f"items[{line - 1}].benefits[{wrong[0]}]")
    return None


def _answer(wish: Extras, priced: redeem_coupon.Answer | None) -> Answer:
    match priced:
        case None | Priced():
            return Checked(extras=wish, priced=priced)
        case coupon.Refused(index=index, code=code):
            return Refused(code=code, field=f"coupon_codes[{index}]")
        case WrongTotal():
            return Refused(code="amount_mismatch", field="amount_minor")
        case _:
            assert_never(priced)
