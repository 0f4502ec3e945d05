"""Any order of happenings to orders, payments, refunds and grants, on a real database: the service always is what the model is."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from defray_kernel.contracts import payment_v1 as v1
from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.idempotency import Claim
from defray_kernel.ids import OrderId, show, uuid7
from defray_kernel.money import Money
from defray_kernel.timers import run_once
from defray_order.announce import RefundRequestShown
from defray_order.commands import ask_refund, fulfil_order
from defray_order.commands.ask_refund import AskRefund
from defray_order.commands.fulfil_order import FulfilOrder
from defray_order.commands.place_order import NotWith
from defray_order.commands.told import Told
from defray_order.domain.refund_request import LineWish, RefundRequestId
from defray_sandbox.stack.provision import ProvisionedDatabase

from .asking import know
from .given import NOW
from .model import HOLDS_MONEY, Order, Payment, Refund, Request, Template, priced
from .refunding import ANSWERS
from .twin import CAUSE, Twin, World

PICK = st.integers(0, 10**6)


class Machine(Twin):
    """What may happen to a merchant's orders, in any order."""

    @initialize(
        reopen=st.booleans(), uses=st.integers(1, 2), stock=st.integers(1, 3), cap=st.none() | st.integers(10, 90),
        minimum=st.sampled_from([0, 150]),
    )  # fmt: skip
    def begin(self, reopen: bool, uses: int, stock: int, cap: int | None, minimum: int) -> None:
        self.reopen = reopen
        state = MerchantState(
            merchant_id=show("mer", self.merchant), name="Shop", status="ACTIVE", mode="test", currencies=["CNY"],
            api_keys=[], late_money="reopen" if reopen else "return", changed_at=NOW,
        )  # fmt: skip
        self.world.run(know(self.world.database, state))
        made: list[dict[str, Any]] = [
            {"kind": "coupon", "units": 100, "off": "fixed", "uses_max": uses, "days": 1, "minimum": minimum},
            {"kind": "coupon", "units": 2_500, "off": "percent", "cap": cap, "stock": stock},
            {"kind": "points", "units": 7},
            {"kind": "entitlement", "units": 1},
            {"kind": "points", "units": 50, "stock": stock, "rule_minimum": 200},
        ]
        self.templates = [Template(benefit_id=uuid7(), **each) for each in made]
        self.world.run(self._define())

    # What merchants and buyers do.

    @rule(
        costs=st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0, 1, 33, 99, 100, 250])), min_size=1, max_size=3),
        brings=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=4),
        codes=st.lists(PICK, max_size=2),
        off_by=st.sampled_from([0, 0, 0, 0, 1]),
        then=st.sampled_from(["pay", "pay", "cancel", ""]),
    )
    @precondition(lambda self: len(self.orders) < 6)
    def place(self, costs: Any, brings: Any, codes: list[int], off_by: int, then: str) -> None:  # noqa: ANN401
        self.place_with(costs, brings, codes, off_by, then)

    def place_with(self, costs: Any, brings: Any, codes: list[int], off_by: int, then: str) -> None:  # noqa: ANN401
        attached = {(line, self.templates[t].kind): self.templates[t] for line, t in brings if line <= len(costs)}
        known = self.coupons()
        chosen = [known[c % len(known)] for c in codes] if known else []
        order = Order(
            order_id=uuid7(), number=uuid7().hex, total=sum(n * unit for n, unit in costs),
            costs=[n * unit for n, unit in costs], quantities=[n for n, _ in costs],
            attached=sorted(((line, t) for (line, _), t in attached.items()), key=lambda each: each[0]),
            expires=self.now + dt.timedelta(hours=2),
        )  # fmt: skip
        uses = priced(order, chosen, self.now) if chosen else []
        if isinstance(uses, list):
            order.total = max(0, order.total - sum(use.minor for use in uses)) + (off_by if chosen else 0)
        outcome = self.world.run(self._place(order, chosen))
        if not isinstance(uses, list):
            assert outcome == NotWith(code=uses[1], field=f"coupon_codes[{uses[0]}]"), (outcome, uses)
            return
        if chosen and off_by:
            assert outcome == NotWith(code="amount_mismatch", field="amount_minor"), outcome
            return
        assert isinstance(outcome, Told), outcome
        assert outcome.status == 201
        again = self.world.run(self._place(order, chosen))
        assert again.body == outcome.body
        order.uses = uses
        for use in uses:
            use.grant.reserved += 1
            use.grant.uses.append(use)
        shares = Money(minor=order.total, currency="CNY").allocate(order.costs) if sum(order.costs) else []
        order.paid_lines = [share.minor for share in shares] or [0] * len(costs)
        if order.total == 0:
            order.payable = "NONE"
            order.paid(None, self.templates, self.now)
        self.orders.append(order)
        self.compare()
        if then == "pay" and order.payable == "OPEN":
            self.take_money(order)
            self.deliver(order)
        if then == "pay":
            self.grant()
        elif then == "cancel" and order.state == "PLACED":
            self.end(order, "merchant", through=True)

    @rule(
        costs=st.just([(1, 250)]),
        codes=st.lists(PICK, min_size=1, max_size=2),
        then=st.sampled_from(["pay", "cancel", ""]),
    )
    @precondition(lambda self: 0 < len(self.orders) < 8 and self.coupons())
    def redeem(self, costs: Any, codes: list[int], then: str) -> None:  # noqa: ANN401
        self.place_with(costs, [], codes, 0, then)

    @rule(
        pick=PICK, by=st.sampled_from(["merchant", "customer", "system"]), unpaid=st.booleans(), through=st.booleans()
    )
    @precondition(lambda self: self.orders)
    def cancel(self, pick: int, by: Any, unpaid: bool, through: bool) -> None:  # noqa: ANN401
        order = (self.some(pick, "PLACED") if unpaid else None) or self.some(pick)
        assert order is not None
        self.end(order, by, through=through)

    @rule(pick=PICK)
    @precondition(lambda self: self.orders)
    def fulfil(self, pick: int) -> None:
        order = self.some(pick)
        assert order is not None
        command = FulfilOrder(merchant_id=self.merchant, order_id=OrderId(order.order_id), cause=CAUSE)
        outcome = self.world.run(self._one(fulfil_order.handle, command))
        assert isinstance(outcome, fulfil_order.Fulfilled) == order.fulfil()
        self.compare()

    @rule(
        pick=PICK,
        minor=st.integers(1, 400) | st.just(0),
        line=st.none() | st.integers(1, 3),
        units=st.booleans(),
        through=st.booleans(),
    )
    @precondition(lambda self: any(o.state in HOLDS_MONEY for o in self.orders))
    def request_refund(self, pick: int, minor: int, line: int | None, units: bool, through: bool) -> None:
        """Of 0: all that is left."""
        order = self.some(pick, *HOLDS_MONEY)
        assert order is not None
        left = order.total - sum(r.minor for r in order.live())
        minor = minor or max(left, 1)
        wish = (
            None if line is None else LineWish(line=line, quantity=1 if units else None, minor=None if units else minor)
        )
        command = AskRefund(
            key=Claim(scope="ask_refund", key=uuid7().hex, request_hash=bytes(32)), request_id=RefundRequestId(uuid7()),
            order_id=OrderId(order.order_id), merchant_id=self.merchant, amount_minor=None if wish else minor,
            lines=(wish,) if wish else (), note="returned", cause=CAUSE,
        )  # fmt: skip
        told = self.world.run(self._one(ask_refund.handle, command, answers=ANSWERS))
        if told.status != 201:
            code = msgspec.json.decode(told.body)["code"]
            if order.paid_with is None:
                assert code == "order_not_paid"
            elif wish is None:
                assert (code, minor > left) == ("refund_exceeds_paid", True)
            else:
                codes = {
                    "line_unknown": wish.line > len(order.costs),
                    "refund_exceeds_line": wish.line <= len(order.costs),
                }
                codes |= {"refund_of_nothing": units, "refund_exceeds_paid": True}
                assert codes[code]
            return
        shown = msgspec.json.decode(told.body, type=RefundRequestShown)
        lines = {each.line: each.amount_minor for each in shown.lines}
        assert order.paid_with is not None
        assert 0 < sum(lines.values()) == shown.amount_minor <= left
        assert wish is None or units or shown.amount_minor == minor
        assert wish is not None or shown.amount_minor == minor
        for number, gone in lines.items():
            before = sum(r.lines.get(number, 0) for r in order.live())
            assert before + gone <= order.paid_lines[number - 1]
        request = Request(payment=order.paid_with, minor=shown.amount_minor, origin="order", lines=lines)
        order.requests[command.request_id] = request
        self.recalled(order, request)
        self.compare()
        if through:
            self.answer(order, command.request_id, request, refused=False)
            self.send_back(order)

    # What the payment service and the channels do.

    @rule(pick=PICK)
    @precondition(lambda self: any(o.payable == "OPEN" for o in self.orders))
    def pay(self, pick: int) -> None:
        open_ = [o for o in self.orders if o.payable == "OPEN"]
        self.take_money(open_[pick % len(open_)])

    @rule(pick=PICK)
    @precondition(lambda self: any(o.asked and o.payable == "OPEN" for o in self.orders))
    def close(self, pick: int) -> None:
        open_ = [o for o in self.orders if o.asked and o.payable == "OPEN"]
        self.close_payable(open_[pick % len(open_)])

    @rule(pick=PICK)
    @precondition(lambda self: any(o.payable == "CLOSED" and len(o.payments) < 2 for o in self.orders))
    def pay_late(self, pick: int) -> None:
        ended = [o for o in self.orders if o.payable == "CLOSED" and len(o.payments) < 2]
        order = ended[pick % len(ended)]
        payment = Payment(payment_id=uuid7(), minor=order.total)
        order.payments.append(payment)
        self.tell(order, self._payment(v1.PaymentPaidLate, order, payment), payment)
        if not self.reopen:
            refund = Refund(refund_id=uuid7(), payment=payment, minor=payment.minor, reason="late", request_id=None)
            payment.refunds.append(refund)
            self.tell_refund(order, refund)

    @rule(pick=PICK, refused=st.booleans())
    @precondition(lambda self: any(r.state == "REQUESTED" for o in self.orders for r in o.requests.values()))
    def answer_request(self, pick: int, refused: bool) -> None:
        asked = [
            (o, i, r) for o in self.orders for i, r in o.requests.items()
            if r.state == "REQUESTED" and all(i != f.request_id for f in r.payment.refunds)
            and not any(isinstance(d, v1.RefundRefused) and d.refund_request_id == show("rrq", i) for d, _ in o.coming)
        ]  # fmt: skip
        if not asked:
            return
        self.answer(*asked[pick % len(asked)], refused=refused)

    @rule(pick=PICK, minor=st.integers(1, 300) | st.just(0), through=st.booleans())
    @precondition(lambda self: any(o.payments for o in self.orders))
    def refund_at_payment(self, pick: int, minor: int, through: bool) -> None:
        """Of 0: all that is left."""
        paid = [(o, p) for o in self.orders for p in o.payments]
        order, payment = paid[pick % len(paid)]
        left = payment.minor - payment.sum("REQUESTED", "ABNORMAL", "SUCCEEDED")
        minor = minor or left
        if not 0 < minor <= left:
            return
        refund = Refund(refund_id=uuid7(), payment=payment, minor=minor, reason="merchant", request_id=None)
        payment.refunds.append(refund)
        self.tell_refund(order, refund)
        if through:
            self.send_back(order)

    @rule(pick=PICK, to=st.sampled_from(["SUCCEEDED", "SUCCEEDED", "FAILED", "ABNORMAL"]))
    @precondition(lambda self: any(r.state in {"REQUESTED", "ABNORMAL"} for _, r in self.refunds()))
    def settle_refund(self, pick: int, to: str) -> None:
        open_ = [(o, r) for o, r in self.refunds() if r.state in {"REQUESTED", "ABNORMAL"}]
        order, refund = open_[pick % len(open_)]
        if refund.state == to:
            return
        refund.state = to
        self.tell_refund(order, refund)

    # What arrives, and what the clock does.

    @rule(pick=PICK, count=st.integers(1, 4))
    @precondition(lambda self: any(o.coming for o in self.orders))
    def arrive(self, pick: int, count: int) -> None:
        waiting = [o for o in self.orders if o.coming]
        order = waiting[pick % len(waiting)]
        for _ in range(min(count, len(order.coming))):
            self.deliver(order)
        self.compare()

    @rule(pick=PICK)
    @precondition(lambda self: any(o.heard for o in self.orders))
    def arrive_again(self, pick: int) -> None:
        heard = [(o, e) for o in self.orders for e in o.heard]
        _, event = heard[pick % len(heard)]
        self.world.run(self._hear(event))
        self.compare()

    @rule(minutes=st.sampled_from([1, 10, 121, 1_500]))
    @precondition(lambda self: self.orders)
    def wait(self, minutes: int) -> None:
        self.world.clock.advance(dt.timedelta(minutes=minutes))

    @rule()
    @precondition(lambda self: any(o.state == "PLACED" and o.expires <= self.now for o in self.orders))
    def expire(self) -> None:
        while self.world.run(run_once(self.world.database, self.world.expiring, self.world.clock)):
            pass
        for order in self.orders:
            if order.state == "PLACED" and order.expires <= self.now:
                order.state, order.asked = "CLOSING", "expired"
        self.compare()

    @rule()
    @precondition(lambda self: any(g.state == "PENDING" for o in self.orders for g in o.grants.values()))
    def grant(self) -> None:
        pending = [g for o in self.orders for g in o.grants.values() if g.state == "PENDING"]
        due = [g for g in pending if g.due is not None and g.due <= self.now]
        while self.world.run(run_once(self.world.database, self.world.granting, self.world.clock)):
            pass
        found = self.world.run(self._grants())
        given: set[Order] = set()
        for grant in due:
            new = found[grant.order.order_id, grant.line, grant.template.kind]
            grant.tries += 1
            short = grant.template.stock is not None and grant.template.stock == grant.template.given
            if new.state in {"GRANTED", "USED"}:
                assert not short
                grant.state, grant.due = "GRANTED", None
                grant.template.given += 1
                given.add(grant.order)
                if grant.template.off is not None:
                    grant.until = (
                        None if grant.template.days is None else self.now + dt.timedelta(days=grant.template.days)
                    )
                    grant.code = self.world.run(self.world.codes.code(new.grant_id))
            elif grant.tries == 8:
                grant.state, grant.due = "FAILED", None
            else:
                grant.due = self.now + dt.timedelta(minutes=min(2 ** (grant.tries - 1), 60))
        for grant in due:
            if grant.state != "GRANTED":
                assert grant.template.stock == grant.template.given, "it was in stock"
        for order in given:
            every = all(any(g.line == line for g in order.grants.values()) for line in range(1, len(order.costs) + 1))
            if every and not any(g.state in {"PENDING", "FAILED"} for g in order.grants.values()):
                order.fulfil()
        self.compare()


@pytest.fixture
def world(copied: ProvisionedDatabase) -> Iterator[World]:
    made = World(copied.dsn("order"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("examples", "steps"),
    [pytest.param(24, 40, id="short"), pytest.param(300, 60, id="full", marks=pytest.mark.full)],
)
def test_the_service_is_what_the_model_is(world: World, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Machine(world),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert {"order REFUNDED", "order CANCELLED", "grant REVOKED", "USED", "request order SUCCEEDED"} <= set(
        world.reached
    )
