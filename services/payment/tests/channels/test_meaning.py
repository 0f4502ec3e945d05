"""The conformance suite at the service's own door, for both channels: duplicates, lies, late money, exact answers."""

import asyncio
import datetime as dt
from typing import Any

import pytest

from .conftest import Lab

CHANNELS = ("wechat", "alipay")
ACCEPTED = {"wechat": (204, b""), "alipay": (200, b"success")}
PLAIN = {"wechat": "native", "alipay": "precreate"}
TABLES = ("payment", "payment_transition", "payable", "attempt", "callback", "evidence", "outbox", "exception_case")


@pytest.fixture(params=CHANNELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def begun(lab: Lab, name: str) -> tuple[str, str]:
    """A payment that is paid at the channel, of which nobody was told: its id and attempt number."""
    if not lab.service.channels.lines:
        await lab.add(lab.alipay_wish())
        await lab.add(lab.wechat_wish())
    levers = getattr(lab, name)
    await levers.control("/control/callbacks", {"never": True})
    answer = await lab.pay(name, PLAIN[name])
    number = answer.body["attempt_no"]
    await levers.control("/control/pay", {"out_trade_no": number})
    return answer.body["payment_id"], number


async def heard(lab: Lab, name: str, number: str, *kinds: str, **overrides: object) -> list[Any]:
    wish: dict[str, object] = {"out_trade_no": number, "kinds": list(kinds or ("genuine",)), "dry_run": True}
    if overrides:
        wish["overrides"] = overrides
    return list((await getattr(lab, name).control("/control/callbacks/send", wish))["callbacks"])


async def post(lab: Lab, name: str, callback: Any, body: str | None = None) -> tuple[int, bytes]:  # noqa: ANN401
    url = f"{lab.service.url}/v1/webhooks/{name}"
    raw = (callback["body"] if body is None else body).encode()
    async with lab.service.http.post(url, data=raw, headers=callback["headers"]) as reply:
        return reply.status, await reply.read()


async def rows(lab: Lab) -> dict[str, int]:
    return {table: (await lab.service.rows(f"SELECT count(*) AS n FROM {table}"))[0]["n"] for table in TABLES}


async def test_a_hundred_identical_callbacks_at_once_are_one_payment(lab: Lab, name: str) -> None:
    payment_id, number = await begun(lab, name)
    (callback,) = await heard(lab, name, number)
    replies = await asyncio.gather(*(post(lab, name, callback) for _ in range(100)))
    assert set(replies) == {ACCEPTED[name]}
    told = [type_ for type_, _ in await lab.service.events() if type_ == "payment.succeeded.v1"]
    assert told == ["payment.succeeded.v1"]
    counted = await rows(lab)
    assert (counted["callback"], counted["exception_case"]) == (1, 0)
    assert (await lab.service.get(payment_id)).body["status"] == "SUCCEEDED"


async def test_what_proves_nothing_changes_no_row_and_is_refused(lab: Lab, name: str) -> None:
    _, number = await begun(lab, name)
    kinds = {
        "wechat": ["tampered", "probe", "forged_key", "unknown_serial", "stale", "future", "no_signature"],
        "alipay": ["tampered", "forged_key", "stale", "future", "no_signature", "sha1", "wrong_sign_type"],
    }[name]
    bad = await heard(lab, name, number, *kinds)
    before = await rows(lab)
    for callback in bad:
        status, body = await post(lab, name, callback)
        assert status == 401, callback["kind"]
        assert body != ACCEPTED[name][1]
    for junk in ("", "{}", "a=1&a=1", "x" * 10_000):
        assert (await post(lab, name, bad[0], junk))[0] >= 400
    assert await rows(lab) == before


LIES: dict[str, dict[str, dict[str, object]]] = {
    "wechat": {
        "merchant_mismatch": {"mchid": "1900000999"},
        "app_mismatch": {"appid": "wx0000000000000000"},
        "amount_mismatch": {"amount": {"total": 1, "currency": "CNY"}},
        "currency_mismatch": {"amount": {"total": 19900, "currency": "USD"}},
        "native_state_unknown": {"trade_state": "BRANDNEW"},
        "unknown_attempt": {"out_trade_no": "01ARZ3NDEKTSV4RRFFQ69G5FAV"},
    },
    "alipay": {
        "merchant_mismatch": {"seller_id": "2088000000000999"},
        "app_mismatch": {"app_id": "2021000000000999"},
        "amount_mismatch": {"total_amount": "0.01"},
        "native_state_unknown": {"trade_status": "BRANDNEW"},
        "unknown_attempt": {"out_trade_no": "01ARZ3NDEKTSV4RRFFQ69G5FAV"},
    },
}


async def test_a_lie_moves_nothing_and_is_put_before_a_person(lab: Lab, name: str) -> None:
    for reason, lie in LIES[name].items():
        _, number = await begun(lab, name)
        (callback,) = await heard(lab, name, number, **lie)
        assert await post(lab, name, callback) == ACCEPTED[name], reason
        stored = await lab.service.rows("SELECT status FROM payment WHERE attempt_no = $1", number)
        assert stored == [{"status": "PENDING"}], reason
        assert (await lab.service.cases())[-1] == reason


async def test_money_after_the_payment_was_closed_is_never_dropped(lab: Lab, name: str) -> None:
    payment_id, number = await begun(lab, name)
    await lab.service.rows("UPDATE payment SET status = 'CLOSED' RETURNING payment_id")
    (callback,) = await heard(lab, name, number)
    assert await post(lab, name, callback) == ACCEPTED[name]
    assert (await lab.service.get(payment_id)).body["status"] == "SUCCEEDED"  # the order is open: it is kept


async def test_a_refund_notice_does_not_read_as_a_payment_and_not_as_a_failure(lab: Lab) -> None:
    _, number = await begun(lab, "alipay")
    for state in ("TRADE_SUCCESS", "TRADE_CLOSED"):
        (callback,) = await heard(
            lab,
            "alipay",
            number,
            trade_status=state,
            refund_fee="0.50",
            gmt_refund="2026-11-24 10:00:00.000",
            out_biz_no="R1",
            notify_id=f"N{state}",
        )
        assert await post(lab, "alipay", callback) == ACCEPTED["alipay"]
    moved = await lab.service.rows("SELECT to_status FROM payment_transition ORDER BY version")
    assert [row["to_status"] for row in moved] == ["CREATED", "PENDING"]


async def test_a_database_that_is_away_is_a_refusal_never_a_success(lab: Lab, name: str) -> None:
    payment_id, number = await begun(lab, name)
    (callback,) = await heard(lab, name, number)
    async with lab.service.database.transaction() as tx:
        # Nothing can be stored while somebody holds the table; the channel's five seconds run out.
        await tx.execute("LOCK TABLE payable IN ACCESS EXCLUSIVE MODE")
        started = dt.datetime.now(dt.UTC)
        status, body = await post(lab, name, callback)
        assert dt.datetime.now(dt.UTC) - started < dt.timedelta(seconds=5)
        assert (status, body != ACCEPTED[name][1]) == (503, True)
    assert await post(lab, name, callback) == ACCEPTED[name]
    assert (await lab.service.get(payment_id)).body["status"] == "SUCCEEDED"
