"""The pure rules: the schedule, what an attempt makes of a delivery, who may add an endpoint, what is sent."""

import datetime as dt
import itertools
from uuid import UUID

import msgspec
import pytest

from defray_kernel.contracts import order_v1, payment_v1
from defray_kernel.contracts.registry import EVENTS
from defray_kernel.ids import DeliveryId, EndpointId, MerchantId, MessageId, uuid7
from defray_notifier.domain import retry_schedule
from defray_notifier.domain.delivery import (
    Attempt,
    Claimed,
    DeliveryState,
    Moved,
    Repeated,
    Result,
    decide,
    result_of,
)
from defray_notifier.domain.endpoint import (
    ENDPOINTS_MAX,
    Added,
    Endpoint,
    EndpointState,
    Refusal,
    Refused,
    Wish,
)
from defray_notifier.domain.endpoint import Repeated as EndpointRepeated
from defray_notifier.domain.endpoint import decide as decide_endpoint
from defray_notifier.domain.message import TOLD, TOLD_TYPES, payload
from defray_notifier.entrypoints import consumers

from .given import succeeded

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def attempt(
    result: Result, attempt_no: int = 1, *, retry_after: dt.timedelta | None = None, jitter: int = 0
) -> Attempt:
    claimed = Claimed(
        delivery_id=DeliveryId(UUID(int=1)),
        message_id=MessageId(UUID(int=2)),
        endpoint_id=EndpointId(UUID(int=3)),
        merchant_id=MerchantId(UUID(int=4)),
        event_id=UUID(int=5),
        event_type="payment.succeeded.v1",
        correlation_id="c",
        attempt_no=attempt_no,
        version=2,
        payload=b"{}",
        url="https://shop.example/hook",
        enabled=True,
        sealed=(),
    )
    return Attempt(
        claimed=claimed,
        result=result,
        at=NOW,
        duration_ms=1,
        status=None,
        error="timeout",
        reply=b"",
        retry_after=retry_after,
        jitter_permille=jitter,
    )


MOVES = {
    Result.ACCEPTED: Moved(state=DeliveryState.DELIVERED, next_at=None),
    Result.FAILED: Moved(state=DeliveryState.PENDING, next_at=NOW + dt.timedelta(seconds=5)),
    Result.GONE: Moved(state=DeliveryState.EXHAUSTED, next_at=None, disables_endpoint=True),
    Result.ENDPOINT_DISABLED: Moved(state=DeliveryState.EXHAUSTED, next_at=None),
}


@pytest.mark.parametrize(("state", "result"), list(itertools.product(DeliveryState, Result)))
def test_every_pair_of_state_and_result_has_one_defined_answer(state: DeliveryState, result: Result) -> None:
    expected = MOVES[result] if state is DeliveryState.PENDING else Repeated()
    assert decide(state, attempt(result), NOW) == expected


WAITS_S = [5, 30, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]


@pytest.mark.parametrize(("attempt_no", "wait_s"), list(enumerate([*WAITS_S, None, None], start=1)))
def test_the_schedule_is_the_agreed_one_and_ends(attempt_no: int, wait_s: int | None) -> None:
    decision = decide(DeliveryState.PENDING, attempt(Result.FAILED, attempt_no), NOW)
    assert isinstance(decision, Moved)
    if wait_s is None:
        assert decision.state is DeliveryState.EXHAUSTED
    else:
        assert decision.next_at == NOW + dt.timedelta(seconds=wait_s)


def test_the_jitter_is_ten_per_cent_either_way() -> None:
    waits = [retry_schedule.wait_after(3, jitter_permille=j, retry_after=None) for j in (-100, 0, 100)]
    assert waits == [dt.timedelta(seconds=s) for s in (270, 300, 330)]


@pytest.mark.parametrize(
    ("header", "asked_s"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("1000000000", 3600),
        ("9" * 60, 3600),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("9" * 65, None),
        ("Sun, 01 Mar 2026 00:10:00 GMT", 600),
        ("Sun, 01 Mar 2026 09:00:00 GMT", 3600),
        ("Sat, 28 Feb 2026 00:00:00 GMT", 0),
        ("Sun, 01 Mar 2026 00:10:00 -0000", None),
    ],
)
def test_retry_after_is_read_or_ignored(header: str | None, asked_s: int | None) -> None:
    expected = None if asked_s is None else dt.timedelta(seconds=asked_s)
    assert retry_schedule.retry_after(header, NOW) == expected


@pytest.mark.parametrize(
    ("attempt_no", "asked_s", "wait_s"), [(1, 120, 120), (1, 1, 5), (5, 3600, 7200), (1, 9999, 3600), (11, 60, None)]
)
def test_a_longer_wish_is_honoured_and_a_shorter_one_is_not(attempt_no: int, asked_s: int, wait_s: int | None) -> None:
    wait = retry_schedule.wait_after(attempt_no, jitter_permille=0, retry_after=dt.timedelta(seconds=asked_s))
    assert wait == (None if wait_s is None else dt.timedelta(seconds=wait_s))


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, Result.ACCEPTED),
        (204, Result.ACCEPTED),
        (299, Result.ACCEPTED),
        (301, Result.FAILED),
        (308, Result.FAILED),
        (404, Result.FAILED),
        (410, Result.GONE),
        (429, Result.FAILED),
        (500, Result.FAILED),
        (None, Result.FAILED),
    ],
)
def test_success_is_2xx_only(status: int | None, result: Result) -> None:
    assert result_of(status) is result


def endpoint(slot: int, url: str) -> Endpoint:
    return Endpoint(
        endpoint_id=EndpointId(UUID(int=slot)),
        merchant_id=MerchantId(UUID(int=4)),
        slot=slot,
        url=url,
        event_types=("*",),
        state=EndpointState.ENABLED,
        disabled_reason=None,
        version=1,
        created_at=NOW,
    )


def test_an_endpoint_is_added_once_at_each_address_and_at_most_sixteen_times() -> None:
    wish = Wish(endpoint_id=EndpointId(UUID(int=99)), merchant_id=MerchantId(UUID(int=4)), url="u", event_types=("*",))
    full = [endpoint(slot, f"u{slot}") for slot in range(1, ENDPOINTS_MAX + 1)]
    added = decide_endpoint(full[:2] + full[3:], wish, NOW)
    assert isinstance(added, Added)
    assert added.endpoint.slot == 3
    assert decide_endpoint([added.endpoint], wish, NOW) == EndpointRepeated(endpoint=added.endpoint)
    assert decide_endpoint([endpoint(1, "u")], wish, NOW) == Refused(reason=Refusal.ENDPOINT_EXISTS)
    assert decide_endpoint(full, wish, NOW) == Refused(reason=Refusal.TOO_MANY_ENDPOINTS)


def test_the_payload_holds_the_full_state_with_its_sequence() -> None:
    event = succeeded(MerchantId(uuid7()), sequence=7)
    sent = msgspec.json.decode(payload(event))
    assert sent["type"] == "payment.succeeded.v1"
    assert sent["timestamp"] == "2026-03-01T11:59:00Z"
    assert sent["data"]["sequence"] == 7
    assert sent["data"]["payment_id"] == event.subject
    assert msgspec.convert(sent["data"], type(event.data)) == event.data


def test_every_order_and_payment_event_is_told_but_the_one_between_our_services() -> None:
    public = {t for t, event in EVENTS.items() if event.TOPIC in {order_v1.TOPIC, payment_v1.TOPIC}}
    assert public - {"payable.closed.v1"} == TOLD_TYPES
    assert [each.event for each in consumers.EVENTS] == list(TOLD)
