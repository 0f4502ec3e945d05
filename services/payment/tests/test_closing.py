"""The end of an order: exactly one of `payable.closed` and `payment.succeeded` is told, and later money is late."""

import msgspec
import pytest

from defray_kernel.contracts.merchant_v1 import MerchantState
from defray_kernel.contracts.order_v1 import OrderClosing, OrderPlaced
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.ids import show
from defray_payment.domain.reports import Report, Source

from .given import NOW, callback, order_event, report, terms
from .world import World


@pytest.fixture
def world(database: Database, envelope: Envelope) -> World:
    return World(database, envelope)


class TestClosingAnOrder:
    async def test_an_order_nobody_paid_for_is_closed_at_once(self, world: World) -> None:
        of = terms()
        await world.hear(order_event(OrderClosing, of, 2))
        assert await world.told(of) == [("payable.closed", 1)]
        # The placing, late or again, does not revive it; nor is it told twice.
        await world.hear(order_event(OrderPlaced, of, 1), order_event(OrderClosing, of, 2))
        assert await world.told(of) == [("payable.closed", 1)]
        assert await world.rows("SELECT status, order_seq FROM payable") == [("CLOSED", 2)]

    async def test_open_payments_are_closed_first(self, world: World) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        await world.hear(order_event(OrderPlaced, of, 1), order_event(OrderClosing, of, 2))
        assert await world.rows("SELECT closing, next_query_at FROM attempt") == [(True, NOW)]
        assert (await world.told(of))[-1] == ("payment.pending", 2)
        await world.apply(report(Report.UNCLEAR, no, source=Source.CLOSE))
        assert (await world.told(of))[-1] == ("payment.pending", 2)
        await world.apply(report(Report.CLOSED, no))
        assert (await world.told(of))[-2:] == [("payment.closed", 3), ("payable.closed", 1)]

    async def test_money_that_comes_before_the_end_pays_the_order(self, world: World) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        await world.hear(order_event(OrderClosing, of, 2))
        await world.apply(callback(no, "EV-1"))
        assert (await world.told(of))[-1] == ("payment.succeeded", 3)
        await world.apply(report(Report.PAID, no))
        assert "payable.closed" not in dict(await world.told(of))

    async def test_a_paid_order_is_not_closed(self, world: World) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        await world.apply(callback(no, "EV-1"))
        await world.hear(order_event(OrderClosing, of, 2))
        assert "payable.closed" not in dict(await world.told(of))

    @pytest.mark.parametrize(("policy", "claims"), [("return", False), ("reopen", True), ("case", True)])
    async def test_money_after_the_end_is_late(self, world: World, policy: str, *, claims: bool) -> None:
        of = terms()
        no = (await world.opened(of)).attempt.attempt_no
        state = MerchantState(
            merchant_id=show("mer", of.merchant_id),
            name="Shop",
            status="ACTIVE",
            mode="test",
            currencies=["CNY"],
            api_keys=[],
            late_money=policy,  # type: ignore[arg-type]
            changed_at=NOW,
        )
        async with world.database.transaction() as tx:
            await tx.execute(
                "INSERT INTO merchant (merchant_id, sequence, status, state, changed_at) VALUES ($1, 1, 'ACTIVE', $2, $3)",
                of.merchant_id,
                msgspec.json.encode(state),
                NOW,
            )
        await world.hear(order_event(OrderClosing, of, 2))
        await world.apply(report(Report.CLOSED, no))
        await world.apply(callback(no, "EV-1"))
        assert await world.status(of) == ["PAID_LATE"]
        returned = [("refund.requested", 1)] if policy == "return" else []
        assert (await world.told(of))[-1 - len(returned) :] == [("payment.paid_late", 4), *returned]
        assert await world.cases() == (["late_money"] if policy == "case" else [])
        assert await world.rows("SELECT claimed_by IS NOT NULL FROM payable") == [(claims,)]
