"""What tests of grants start from: templates, orders placed with them and with coupons, paid, ended, sent back."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from defray_kernel.clock import ManualClock
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause
from defray_kernel.db import Database
from defray_kernel.ids import OrderId, uuid7
from defray_kernel.money import Money
from defray_kernel.timers import run_once
from defray_order.commands import coupon_codes, place_order, recall_grants
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.commands.place_order import Outcome, PlaceOrder
from defray_order.commands.recall_grants import Recall, Recalled
from defray_order.commands.told import Told
from defray_order.domain.benefit import Benefit, BenefitId, BenefitKind, CouponTerms, CouponValue
from defray_order.domain.grant import Grant
from defray_order.domain.order import OrderItem
from defray_order.entrypoints.granting import granting_timer
from defray_order.store import benefits, coupons, grants, orders

from .given import NOW
from .running import ENVELOPE
from .test_reports import MERCHANT, event, mark_paid, payment

CAUSE = Cause(correlation_id="c" * 32, causation_id="because")
FIXED = CouponTerms(value=CouponValue.FIXED)


def template(kind: BenefitKind = BenefitKind.COUPON, units: int = 100, **changes: Any) -> Benefit:  # noqa: ANN401
    """A coupon of 1.00 CNY, or so many points, or an entitlement."""
    facts: dict[str, Any] = {
        "benefit_id": BenefitId(uuid7()),
        "merchant_id": MERCHANT,
        "name": "thanks",
        "kind": kind,
        "units": units,
        "currency": "CNY",
        "coupon": FIXED if kind is BenefitKind.COUPON else None,
        "rule": None,
        "stock_left": None,
        "created_at": NOW,
    }
    return Benefit(**(facts | changes))


async def define(database: Database, *new: Benefit) -> None:
    async with database.transaction() as tx:
        for each in new:
            await benefits.insert(tx, each)


def wish(
    *, minor: int = 300, lines: Sequence[int] = (300,), codes: Sequence[str] = (), sold: Sequence[Benefit] = ()
) -> PlaceOrder:
    """An order of these lines, to be paid with so much; `sold` go with its first line."""
    order_id = OrderId(uuid7())
    digests = [coupon_codes.digest(code) for code in codes]
    return PlaceOrder(
        order_id=order_id,
        merchant_id=MERCHANT,
        merchant_order_no=order_id.hex,
        total=Money(minor=minor, currency="CNY"),
        items=tuple(
            OrderItem(sku="a", title="A", quantity=1, unit_amount_minor=each, discount_minor=0) for each in lines
        ),
        expires_in=dt.timedelta(hours=2),
        content_hash=order_id.bytes * 2,
        idempotency_key=order_id.hex,
        request_hash=bytes(32),
        cause=CAUSE,
        coupons=tuple(digest for digest in digests if digest is not None),
        benefits=tuple((1, each.benefit_id) for each in sold),
    )


class Till:
    """A shop's till: everything that happens to its orders, on a clock of its own."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, ManualClock(NOW)
        self.codes = CouponCodes(database, ENVELOPE)
        self.granting = granting_timer(database, self.clock, self.codes, None)

    async def place(self, command: PlaceOrder) -> Outcome:
        async with self.database.transaction() as tx:
            return (await place_order.handle([command], tx, self.clock))[0]

    async def placed(self, **of: Any) -> OrderId:  # noqa: ANN401
        command = wish(**of)
        outcome = await self.place(command)
        assert isinstance(outcome, Told), outcome
        return command.order_id

    async def pay(self, *order_ids: OrderId) -> None:
        async with self.database.read() as conn:
            known = await orders.get(conn, order_ids)
        told = [
            event(payment(v1.PaymentSucceeded, o, amount_minor=n.total.minor, paid_minor=n.total.minor))
            for o, n in known.items()
        ]
        await mark_paid(self.database, *told)

    async def grant(self) -> int:
        """Run the timer once; returns how many were due."""
        return await run_once(self.database, self.granting, self.clock)

    async def sold(self, **of: Any) -> OrderId:  # noqa: ANN401
        """An order that was paid and has brought what it brings."""
        order_id = await self.placed(**of)
        await self.pay(order_id)
        await self.grant()
        return order_id

    async def coupon(self, units: int = 100, terms: CouponTerms = FIXED) -> tuple[OrderId, str]:
        """An order that brought a coupon, and the coupon's code."""
        sold = template(units=units, coupon=terms)
        await define(self.database, sold)
        order_id = await self.sold(sold=[sold])
        return order_id, await self.code(order_id)

    async def recall(self, order_id: OrderId, minor: int, *lines: tuple[int, int]) -> Recalled:
        async with self.database.transaction() as tx:
            await orders.lock(tx, [order_id])
            each = Recall(order_id=order_id, refunded_minor=minor, lines=lines or ((1, minor),), cause=CAUSE)
            return (await recall_grants.recall([each], tx, self.clock))[0]

    async def brought(self, order_id: OrderId) -> list[Grant]:
        async with self.database.read() as conn:
            return await grants.of_orders(conn, [order_id])

    async def code(self, order_id: OrderId) -> str:
        """The code of the one coupon that an order brought."""
        (grant,) = [g for g in await self.brought(order_id) if g.kind is BenefitKind.COUPON]
        return await self.codes.code(grant.grant_id)

    async def uses(self, order_id: OrderId) -> list[tuple[str, int, int]]:
        """State, amount and what is owed of the coupons an order was placed with."""
        async with self.database.read() as conn:
            return [(use.state.value, use.minor, use.owed_minor) for use in await coupons.of_orders(conn, [order_id])]

    async def debt(self, order_id: OrderId) -> int:
        async with self.database.read() as conn:
            return (await coupons.debts(conn, [order_id])).get(order_id, 0)

    async def told(self) -> list[tuple[str, int]]:
        """Events of grants with their sequences, each grant's in order of writing."""
        async with self.database.read() as conn:
            rows = await conn.fetch(
                "SELECT event_type, aggregate_seq FROM outbox WHERE event_type LIKE 'grant.%' ORDER BY aggregate_id, id"
            )
        return [(row["event_type"], row["aggregate_seq"]) for row in rows]
