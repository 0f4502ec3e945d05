"""The page a browser comes back to: it shows what the channel says, and nothing in its address makes anything paid."""

from defray_kernel.ids import show, uuid7
from defray_sandbox.simulators.process import WechatSimulator

from .conftest import Service, number, status_of

CLAIMS = "?trade_status=TRADE_SUCCESS&total_amount=199.00&out_trade_no=x&status=SUCCEEDED&sign=a%2Bb%3D&x=<script>"


async def page(service: Service, payment_id: str, query: str = "") -> tuple[int, str]:
    async with service.http.get(f"{service.url}/v1/return/{payment_id}{query}") as reply:
        text = await reply.text()
        if reply.status == 200:
            assert reply.headers["Cache-Control"] == "no-store"
            assert reply.content_type == "text/html"
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        return reply.status, text


async def test_a_browser_that_claims_to_have_paid_is_shown_the_channels_word(
    service: Service, simulator: WechatSimulator
) -> None:
    await simulator.control("/control/callbacks", {"never": True})
    answer = await service.pay(service.order())
    payment_id = answer.body["payment_id"]
    before = await service.rows("SELECT * FROM payment")
    status, text = await page(service, payment_id, CLAIMS)
    assert status == 200
    assert "Waiting for the payment channel" in text
    assert "script" not in text
    assert "refresh" in text
    assert await service.rows("SELECT * FROM payment") == before
    assert (await simulator.control("/control/statistics"))["requests"]["query"] == 1
    await simulator.control("/control/pay", {"out_trade_no": number(answer)})
    for _ in range(10):  # impatient reloading does not reach the channel
        await page(service, payment_id, CLAIMS)
    assert (await simulator.control("/control/statistics"))["requests"]["query"] == 1
    assert await status_of(service, payment_id) == "PENDING"


async def test_money_that_no_callback_told_of_is_found_by_the_browsers_return(
    service: Service, simulator: WechatSimulator
) -> None:
    await simulator.control("/control/callbacks", {"never": True})
    answer = await service.pay(service.order())
    await simulator.control("/control/pay", {"out_trade_no": number(answer)})
    status, text = await page(service, answer.body["payment_id"])
    assert (status, "<h1>Paid</h1>" in text, "refresh" in text) == (200, True, False)
    assert await status_of(service, answer.body["payment_id"]) == "SUCCEEDED"


async def test_a_channel_that_does_not_answer_is_no_error_of_the_page(
    service: Service, simulator: WechatSimulator
) -> None:
    answer = await service.pay(service.order())
    await simulator.control("/control/faults", {"action": "500", "operation": "query"})
    status, text = await page(service, answer.body["payment_id"])
    assert (status, "Waiting" in text) == (200, True)


async def test_what_is_not_there(service: Service) -> None:
    for payment_id in (show("pay", uuid7()), "pay_1", "x" * 300):
        assert (await page(service, payment_id))[0] == 404
