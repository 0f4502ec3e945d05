"""Callbacks at the real port: what proves nothing, what lies, what comes early or often, and what we fail at ourselves."""

import asyncio
import datetime as dt

import asyncpg
import pytest

from defray_sandbox.simulators.process import WechatSimulator
from defray_sandbox.stack.provision import ProvisionedDatabase

from .conftest import Answer, Service, number, pay_at_channel, status_of


class TestCallbacks:
    async def sent(self, simulator: WechatSimulator, begun: Answer, *kinds: str, **overrides: object) -> list[int]:
        """Callbacks of a payment that the channel says nothing else about."""
        await simulator.control("/control/callbacks", {"never": True})
        await simulator.control("/control/pay", {"out_trade_no": number(begun), "wait": True})
        wish: dict[str, object] = {"out_trade_no": number(begun), "kinds": list(kinds)}
        told = await simulator.control(
            "/control/callbacks/send", wish | ({"overrides": overrides} if overrides else {})
        )
        return [each["status"] for each in told["callbacks"]]

    async def test_what_proves_nothing_is_refused_and_leaves_no_row(
        self, service: Service, simulator: WechatSimulator
    ) -> None:
        begun = await service.pay(service.order())
        kinds = [
            "tampered",
            "probe",
            "forged_key",
            "unknown_serial",
            "stale",
            "future",
            "no_signature",
            "wrong_apiv3_key",
        ]
        assert await self.sent(simulator, begun, *kinds) == [401] * len(kinds)
        for body in (b"", b"{}", b"\x00" * 1000, b"[" * 60000):
            status, told = await service.callback({}, body)
            assert (status, told) == (401, b'{"code":"FAIL","message":"not verified"}')
        status, _ = await service.callback({}, b"x" * 66_000)
        assert status == 413
        assert await service.rows("SELECT * FROM callback") == []
        assert await status_of(service, begun.body["payment_id"]) == "PENDING"

    @pytest.mark.parametrize(
        ("overrides", "reason"),
        [
            ({"amount": {"total": 1, "currency": "CNY"}}, "amount_mismatch"),
            ({"amount": {"total": -19900, "currency": "CNY"}}, "amount_mismatch"),
            ({"amount": {"currency": "CNY"}}, "amount_mismatch"),
            ({"amount": {"total": 19900, "currency": "USD"}}, "currency_mismatch"),
            ({"mchid": "1900000110"}, "merchant_mismatch"),
            ({"appid": "wx0000000000000000"}, "app_mismatch"),
            ({"out_trade_no": "7" * 26}, "unknown_attempt"),
            ({"out_trade_no": "?"}, "unreadable_notice"),
            ({"transaction_id": "-"}, "channel_txn_missing"),
            ({"trade_state": "BRANDNEW"}, "native_state_unknown"),
        ],
    )
    async def test_a_lying_channel_is_acknowledged_and_believed_in_nothing(
        self, service: Service, simulator: WechatSimulator, overrides: dict[str, object], reason: str
    ) -> None:
        begun = await service.pay(service.order())
        assert await self.sent(simulator, begun, "genuine", "genuine", **overrides) == [204, 204]
        assert await service.rows("SELECT status FROM payment") == [{"status": "PENDING"}]
        assert await service.rows("SELECT * FROM refund") == []
        assert await service.cases() == [reason]
        assert len(await service.rows("SELECT * FROM callback")) == 1
        # The truth is one question away; whoever looks has it asked, as it is due.
        service.clock.ahead = dt.timedelta(seconds=30)
        assert await status_of(service, begun.body["payment_id"]) == "SUCCEEDED"

    async def test_one_that_comes_before_the_synchronous_answer(
        self, service: Service, simulator: WechatSimulator
    ) -> None:
        await simulator.control("/control/callbacks", {"before_answer": True})
        begun = await service.pay(service.order())
        assert (begun.status, begun.body["status"]) == (201, "SUCCEEDED")
        assert await service.events() == [("payment.created.v1", 1), ("payment.succeeded.v1", 2)]

    async def test_a_decision_that_fails_alone_is_kept_with_a_case_and_acknowledged(
        self, service: Service, simulator: WechatSimulator, migrated: ProvisionedDatabase
    ) -> None:
        bad, good = await asyncio.gather(service.pay(service.order()), service.pay(service.order()))
        # What cannot be written stands for a bug of ours: the database refuses this one payment's success.
        owner = await asyncio.wait_for(asyncpg.connect(migrated.owner_dsn("payment")), 5)
        refusal = f"CHECK (attempt_no <> '{number(bad)}' OR status <> 'SUCCEEDED')"
        await owner.execute(f"ALTER TABLE payment ADD CONSTRAINT bug {refusal}")
        try:
            both = await asyncio.gather(pay_at_channel(simulator, bad), pay_at_channel(simulator, good))
        finally:
            await owner.execute("ALTER TABLE payment DROP CONSTRAINT bug")
            await owner.close()
        assert both == [[204], [204]]
        assert await status_of(service, good.body["payment_id"]) == "SUCCEEDED"
        assert await status_of(service, bad.body["payment_id"]) == "PENDING"
        assert await service.cases() == ["decision_failed"]
        assert len(await service.rows("SELECT * FROM callback")) == 2
        # The bug is mended; the timer asks the channel and finds the money.
        service.clock.ahead = dt.timedelta(seconds=30)
        await service.query_due()
        assert await status_of(service, bad.body["payment_id"]) == "SUCCEEDED"

    async def test_a_full_queue_asks_the_channel_to_repeat(self, service: Service, simulator: WechatSimulator) -> None:
        begun = await service.pay(service.order())
        await service.edges.reporting.stop()
        await simulator.control("/control/callbacks", {"never": True})
        await pay_at_channel(simulator, begun)
        wish = {"out_trade_no": number(begun), "kinds": ["genuine"]}
        told = await simulator.control("/control/callbacks/send", wish)
        assert [each["status"] for each in told["callbacks"]] == [503]
        assert await service.rows("SELECT * FROM callback") == []

    async def test_a_database_that_is_too_slow_asks_for_a_repeat_which_finds_the_effect(
        self, service: Service, simulator: WechatSimulator
    ) -> None:
        begun = await service.pay(service.order())
        async with service.database.transaction() as tx:
            await tx.execute("SELECT 1 FROM payable FOR UPDATE")
            assert await self.sent(simulator, begun, "genuine") == [503]
        wish = {"out_trade_no": number(begun), "kinds": ["genuine"]}
        told = await simulator.control("/control/callbacks/send", wish)
        assert [each["status"] for each in told["callbacks"]] == [204]
        assert (await service.events()).count(("payment.succeeded.v1", 3)) == 1

    async def test_many_at_once(self, service: Service, simulator: WechatSimulator) -> None:
        begun = await asyncio.gather(*(service.pay(service.order()) for _ in range(50)))
        # On a busy machine some answers are late; they are told as unknown, and money counts all the same.
        assert {each.status for each in begun} <= {201, 202}
        told = await asyncio.gather(*(pay_at_channel(simulator, each) for each in begun))
        assert told == [[204]] * 50
        paid = await service.rows("SELECT status, count(*) AS n FROM payment GROUP BY status")
        assert paid == [{"status": "SUCCEEDED", "n": 50}]
        events = [type_ for type_, _ in await service.events()]
        assert events.count("payment.succeeded.v1") == 50
