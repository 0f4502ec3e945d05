"""Orders and their model side by side: what is told and heard of them, and what must be the same at any moment."""

import asyncio
import datetime as dt
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from hypothesis.stateful import (
    RuleBasedStateMachine,
)

from defray_kernel.clock import ManualClock
from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.envelope import Cause, Event
from defray_kernel.db import Database
from defray_kernel.ids import MerchantId, OrderId, show, uuid7
from defray_kernel.money import Money
from defray_order.commands import cancel_order, coupon_codes, place_order
from defray_order.commands.cancel_order import CancelOrder
from defray_order.commands.coupon_codes import CouponCodes
from defray_order.commands.place_order import PlaceOrder
from defray_order.domain.benefit import Benefit, BenefitId, BenefitKind, CouponTerms, CouponValue, Rule
from defray_order.domain.order import OrderItem
from defray_order.entrypoints import consumers
from defray_order.entrypoints.granting import granting_timer
from defray_order.entrypoints.timers import expiry_timer
from defray_order.store import benefits, coupons, grants, orders, refund_requests

from .given import NOW
from .model import DEAD, HOLDS_MONEY, Grant, Order, Payment, Refund, Request, Template, sort_of
from .running import ENVELOPE

CAUSE = Cause(correlation_id="m" * 32)
HANDLERS = {each.event: each.handle for each in consumers.SUBSCRIPTIONS}


class World:
    """A database, a loop to use it in, and a clock."""

    def __init__(self, dsn: str) -> None:
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self.database = self.run(self._stack.enter_async_context(Database.open(dsn)))
        self.clock = ManualClock(NOW)
        self.codes = CouponCodes(self.database, ENVELOPE)
        self.granting = granting_timer(self.database, self.clock, self.codes, None)
        self.expiring = expiry_timer(self.clock, lambda: None)
        self.reached: Counter[str] = Counter()

    def run(self, doing: Any) -> Any:  # noqa: ANN401 - what it returns
        return self._runner.run(doing)

    def close(self) -> None:
        self.run(self._stack.aclose())
        self._runner.close()


class Twin(RuleBasedStateMachine):
    """A merchant's orders. The payment service is the model's; what it tells arrives in order per order, some of it twice."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.merchant = world, MerchantId(uuid7())
        self.orders: list[Order] = []
        self.templates: list[Template] = []
        self.reopen = False

    # What there is to choose from.

    def some(self, pick: int, *states: str) -> Order | None:
        found = [o for o in self.orders if o.state in states or not states]
        return found[pick % len(found)] if found else None

    @property
    def now(self) -> dt.datetime:
        return self.world.clock.now()

    def coupons(self) -> list[Grant]:
        return [g for o in self.orders for g in o.grants.values() if g.code is not None]

    async def _define(self) -> None:
        async with self.world.database.transaction() as tx:
            for each in self.templates:
                terms = None
                if each.off is not None:
                    terms = CouponTerms(
                        value=CouponValue(each.off), cap_minor=each.cap, minimum_minor=each.minimum,
                        uses_max=each.uses_max, days=each.days,
                    )  # fmt: skip
                benefit = Benefit(
                    benefit_id=BenefitId(each.benefit_id), merchant_id=self.merchant, name="thanks",
                    kind=BenefitKind(each.kind), units=each.units, currency="CNY", coupon=terms,
                    rule=None if each.rule_minimum is None else Rule(minimum_minor=each.rule_minimum),
                    stock_left=each.stock, created_at=NOW,
                )  # fmt: skip
                await benefits.insert(tx, benefit)

    async def _place(self, order: Order, chosen: list[Grant]) -> Any:  # noqa: ANN401
        digests = [coupon_codes.digest(grant.code or "") for grant in chosen]
        items = [
            OrderItem(sku="a", title="A", quantity=n, unit_amount_minor=cost // n, discount_minor=0)
            for n, cost in zip(order.quantities, order.costs, strict=True)
        ]
        command = PlaceOrder(
            order_id=OrderId(order.order_id), merchant_id=self.merchant, merchant_order_no=order.number,
            total=Money(minor=order.total, currency="CNY"), items=tuple(items), expires_in=dt.timedelta(hours=2),
            content_hash=order.order_id.bytes * 2, idempotency_key=order.number, request_hash=bytes(32), cause=CAUSE,
            coupons=tuple(d for d in digests if d is not None),
            benefits=tuple((line, BenefitId(t.benefit_id)) for line, t in order.attached),
        )  # fmt: skip
        async with self.world.database.transaction() as tx:
            return (await place_order.handle([command], tx, self.world.clock))[0]

    # What several rules do.

    def end(self, order: Order, by: Any, *, through: bool) -> None:  # noqa: ANN401
        """Ask it to end; `through`: the payment service closes it and says so."""
        command = CancelOrder(merchant_id=self.merchant, order_id=OrderId(order.order_id), by=by, cause=CAUSE)
        outcome = self.world.run(self._one(cancel_order.handle, command))
        assert isinstance(outcome, cancel_order.Refused) == (order.state in HOLDS_MONEY)
        if order.state == "PLACED":
            order.state, order.asked = "CLOSING", by
        self.compare()
        if through and order.asked and order.payable == "OPEN":
            self.close_payable(order)
            self.deliver(order)

    def answer(self, order: Order, request_id: UUID, request: Request, *, refused: bool) -> None:
        free = request.payment.minor - request.payment.sum("REQUESTED", "ABNORMAL", "SUCCEEDED")
        if refused or request.minor > free:
            data = v1.RefundRefused(
                refund_request_id=show("rrq", request_id), payment_id=show("pay", request.payment.payment_id),
                order_id=show("ord", order.order_id), merchant_id=show("mer", self.merchant), amount_minor=request.minor,
                currency="CNY", code="refund_window_over", refused_at=self.now,
            )  # fmt: skip
            self.tell(order, data, request)
            return
        refund = Refund(
            refund_id=uuid7(), payment=request.payment, minor=request.minor, reason="merchant", request_id=request_id
        )
        request.payment.refunds.append(refund)
        self.tell_refund(order, refund)

    def send_back(self, order: Order) -> None:
        """The channel does all that it was asked for, and the order service hears of it."""
        for refund in [r for p in order.payments for r in p.refunds if r.state in {"REQUESTED", "ABNORMAL"}]:
            refund.state = "SUCCEEDED"
            self.tell_refund(order, refund)
        while order.coming:
            self.deliver(order)
        self.compare()

    def take_money(self, order: Order) -> None:
        order.payable = "PAID"
        payment = Payment(payment_id=uuid7(), minor=order.total)
        order.payments.append(payment)
        self.tell(order, self._payment(v1.PaymentSucceeded, order, payment), payment)

    def close_payable(self, order: Order) -> None:
        order.payable = "CLOSED"
        data = v1.PayableClosed(
            order_id=show("ord", order.order_id),
            merchant_id=show("mer", self.merchant),
            reason=order.asked,
            closed_at=self.now,
        )  # type: ignore[arg-type]
        self.tell(order, data, None)

    # How it is told and heard.

    def refunds(self) -> list[tuple[Order, Refund]]:
        return [(o, r) for o in self.orders for p in o.payments for r in p.refunds]

    def tell(self, order: Order, data: Any, about: Any) -> None:  # noqa: ANN401
        order.coming.append((data, about))

    def tell_refund(self, order: Order, refund: Refund) -> None:
        types = {
            "REQUESTED": v1.RefundRequested, "SUCCEEDED": v1.RefundSucceeded,
            "FAILED": v1.RefundFailed, "ABNORMAL": v1.RefundAbnormal,
        }  # fmt: skip
        data = types[refund.state](
            refund_id=show("rfd", refund.refund_id), payment_id=show("pay", refund.payment.payment_id),
            order_id=show("ord", order.order_id), merchant_id=show("mer", self.merchant), status=refund.state,  # type: ignore[arg-type]
            reason=refund.reason, amount_minor=refund.minor, currency="CNY", channel="wechat", refund_no="R" * 26,  # type: ignore[arg-type]
            requested_at=self.now, payment_refunded_minor=refund.payment.sum("SUCCEEDED"),
            done_at=self.now if refund.state == "SUCCEEDED" else None,
            failure_code="refund_refused" if refund.state == "FAILED" else None,
            refund_request_id=None if refund.request_id is None else show("rrq", refund.request_id),
        )  # fmt: skip
        self.tell(order, data, refund)

    def deliver(self, order: Order) -> None:
        """The service hears the next event of an order, and the model does what should follow."""
        data, about = order.coming.pop(0)
        order.sequence += 1
        event: Event[Any] = Event(
            id=uuid7(), source="/payment", subject="s", key=show("ord", order.order_id), sequence=order.sequence,
            time=self.now, correlation_id="m" * 32, causation_id=None, traceparent=None, data=data,
        )  # fmt: skip
        self.world.run(self._hear(event))
        order.heard.append(event)
        match data:
            case v1.PaymentSucceeded():
                order.paid(about, self.templates, self.now)
            case v1.PayableClosed(reason=reason):
                order.ended("EXPIRED" if reason == "expired" else "CANCELLED")
            case v1.PaymentPaidLate() if self.reopen:
                self.late(order, about)
            case v1.RefundRefused():
                about.state = "REFUSED"
                order.cases |= {"recalled_in_vain"} if about.recalled else set()
            case v1.RefundStateV1(reason="merchant"):
                self.follow(order, about, data)
            case _:
                pass

    def late(self, order: Order, payment: Payment) -> None:
        if order.state in HOLDS_MONEY:
            order.cases.add("paid_by_another")
        elif order.could_reopen(self.now):
            order.paid(payment, self.templates, self.now)
        else:
            found = self.world.run(self._requests([order]))
            (new,) = [r for r in found if r.request_id not in order.requests]
            assert (new.origin, new.amount.minor, new.payment_id) == ("late_money", payment.minor, payment.payment_id)
            order.requests[new.request_id] = Request(
                payment=payment, minor=payment.minor, origin="late_money", lines={}
            )

    def follow(self, order: Order, refund: Refund, data: v1.RefundStateV1) -> None:
        key = refund.request_id
        if key is None:
            found = self.world.run(self._requests([order]))
            (of,) = [r for r in found if r.refund_id == refund.refund_id]
            key = of.request_id
            if key not in order.requests:
                lines = {share.line: share.minor for share in of.lines}
                assert sum(lines.values()) == (refund.minor if refund.payment is order.paid_with else 0)
                request = Request(payment=refund.payment, minor=refund.minor, origin="payment", lines=lines)
                order.requests[key] = request
                if refund.payment is order.paid_with:
                    self.recalled(order, request)
        request = order.requests[key]
        request.state = {"REQUESTED": "SENT", "ABNORMAL": "SENT"}.get(data.status, data.status)
        if data.status == "SUCCEEDED" and refund.payment is order.paid_with:
            order.refunded = data.payment_refunded_minor
            order.state = "REFUNDED" if order.refunded == order.total else "PARTIALLY_REFUNDED"
        if data.status == "FAILED" and request.recalled:
            order.cases.add("recalled_in_vain")

    def recalled(self, order: Order, request: Request) -> None:
        """What the service recalled is what was due; how odd units fell is taken over."""
        found = self.world.run(self._grants())
        sums: defaultdict[object, list[int]] = defaultdict(lambda: [0, 0])
        for grant in order.grants.values():
            if grant.state == "FAILED":
                continue
            now = found[order.order_id, grant.line, grant.template.kind].recalled
            assert grant.recalled <= now <= grant.units
            sums[sort_of(grant)][0] += grant.recalled
            sums[sort_of(grant)][1] += now
            request.recalled |= now > grant.recalled
            grant.recalled = now
            if now == grant.units and grant.state in {"PENDING", "GRANTED"}:
                grant.state, grant.due = "REVOKED", None
        for sort, due in order.due_back().items():
            before, after = sums[sort]
            assert after == max(before, due), (sort, before, after, due)

    def _payment(self, type_: Any, order: Order, payment: Payment) -> Any:  # noqa: ANN401
        return type_(
            payment_id=show("pay", payment.payment_id), order_id=show("ord", order.order_id),
            merchant_id=show("mer", self.merchant), status="SUCCEEDED" if type_ is v1.PaymentSucceeded else "PAID_LATE",
            amount_minor=payment.minor, currency="CNY", channel="wechat", product="native", attempt_no="A" * 26,
            created_at=self.now, expires_at=self.now, paid_minor=payment.minor, paid_at=self.now,
        )  # fmt: skip

    async def _hear(self, event: Event[Any]) -> None:
        async with self.world.database.transaction() as tx:
            await consumers.begin([event], tx)
            await HANDLERS[type(event.data)]([event], tx, self.world.clock)

    async def _one(self, handle: Any, command: Any, **more: Any) -> Any:  # noqa: ANN401
        async with self.world.database.transaction() as tx:
            return (await handle([command], tx, self.world.clock, **more))[0]

    async def _requests(self, of: list[Order]) -> list[Any]:
        async with self.world.database.read() as conn:
            return [r for o in of for r in await refund_requests.of_order(conn, OrderId(o.order_id), limit=100)]

    async def _grants(self) -> dict[tuple[Any, int, str], Any]:
        async with self.world.database.read() as conn:
            found = await grants.of_orders(conn, [OrderId(o.order_id) for o in self.orders])
        return {(g.order_id, g.line, g.kind.value): g for g in found}

    # What must be at any moment.

    def compare(self) -> None:
        self.world.run(self._compare())

    async def _compare(self) -> None:
        ids = [OrderId(o.order_id) for o in self.orders]
        async with self.world.database.read() as conn:
            known = await orders.get(conn, ids)
            brought = await grants.of_orders(conn, ids)
            used = await coupons.of_orders(conn, ids)
            debts = await coupons.debts(conn, ids)
            rows = await conn.fetch("SELECT order_id, reason FROM exception_case WHERE order_id = ANY ($1)", ids)
            stock = await benefits.get(conn, [BenefitId(t.benefit_id) for t in self.templates])
        requests = {r.request_id: r for r in await self._requests(self.orders)}
        for order in self.orders:
            of = known[OrderId(order.order_id)]
            assert (of.state, of.refunded_minor, of.fulfilled_at is not None, of.payment_id) == (
                order.state, order.refunded, order.fulfilled, order.paid_with and order.paid_with.payment_id,
            )  # fmt: skip
            assert 0 <= of.refunded_minor <= of.total.minor == order.total
            assert debts.get(of.order_id, 0) == order.debt
            assert {row["reason"] for row in rows if row["order_id"] == of.order_id} == order.cases
            for request_id, request in order.requests.items():
                told = requests.pop(request_id)
                assert (told.state, told.amount.minor, told.origin) == (request.state, request.minor, request.origin)
        assert requests == {}
        self._compare_grants(brought, used)
        for template in self.templates:
            left = stock[BenefitId(template.benefit_id)].stock_left
            assert left == (None if template.stock is None else template.stock - template.given)

    def _compare_grants(self, brought: list[Any], used: list[Any]) -> None:
        mine = {(o.order_id, g.line, g.template.kind): g for o in self.orders for g in o.grants.values()}
        assert len(brought) == len(mine)
        ids = {}
        for told in brought:
            grant = mine[told.order_id, told.line, told.kind.value]
            assert (told.state, told.units, told.recalled, told.reserved, told.used) == (
                grant.state, grant.units, grant.recalled, grant.reserved, grant.used,
            ), (told, grant.order.state)  # fmt: skip
            assert told.reserved + told.used <= told.uses_max
            ids[told.grant_id] = grant
        uses = {(use.grant, use.order.order_id): use for o in self.orders for use in o.uses}
        assert len(used) == len(uses)
        for told in used:
            use = uses[ids[told.grant_id], told.order_id]
            assert (told.state, told.minor, told.owed_minor) == (use.state, use.minor, use.owed)
            # Kept and owed are together what the coupon took off.
            assert use.state == "RELEASED" or use.kept + told.owed_minor == told.minor

    def teardown(self) -> None:
        """At rest: all has arrived, each grant was told of as given at most once, and no sequence has a gap."""
        if not self.orders:
            return
        for order in self.orders:
            while order.coming:
                self.deliver(order)
        self.compare()
        self.world.run(self._at_rest())
        self.count()

    def count(self) -> None:
        """What this story came to, so that the end can show that no part was left out."""
        for order in self.orders:
            late = order.payable == "CLOSED" and order.paid_with is not None
            use_states = [use.state for use in order.uses]
            grant_states = [f"grant {grant.state}" for grant in order.grants.values()]
            requests = [f"request {r.origin} {r.state}" for r in order.requests.values()]
            self.world.reached.update([f"order {order.state}", *use_states, *grant_states, *requests, *order.cases])
            self.world.reached.update(["reopened"] * late + ["owes"] * (order.debt > 0) + ["free"] * (order.total == 0))

    async def _at_rest(self) -> None:
        keys = [show("ord", o.order_id).encode() for o in self.orders]
        async with self.world.database.read() as conn:
            rows = await conn.fetch(
                "SELECT aggregate_id, event_type, aggregate_seq FROM outbox WHERE part_key = ANY ($1) ORDER BY id", keys
            )
        told: defaultdict[str, list[int]] = defaultdict(list)
        given: defaultdict[str, int] = defaultdict(int)
        for row in rows:
            told[row["aggregate_id"]].append(row["aggregate_seq"])
            given[row["aggregate_id"]] += row["event_type"] == "grant.granted.v1"
        assert max(given.values()) <= 1
        assert [a for a, numbers in told.items() if numbers != list(range(1, len(numbers) + 1))] == []
        for order in self.orders:
            for payment in order.payments:
                assert payment.sum("SUCCEEDED") <= payment.minor
            if order.paid_with is not None:
                assert order.refunded == order.paid_with.sum("SUCCEEDED")
            assert all(r.state in DEAD or r.minor <= order.total for r in order.requests.values())
