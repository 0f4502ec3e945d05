"""The levers that all simulated channels have, as JSON on a port of their own: faults, callbacks, payers, time."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TypeVar, cast

from aiohttp import web

from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import GENUINE, ROUND_KINDS_MAX, Courier, Delivery, Round, duplicates
from defray_sandbox.simulators.faults import (
    ANY,
    Action,
    CallbackPlan,
    Chance,
    Fault,
    FaultPlan,
    Moment,
    Outcome,
    Payer,
    PayerPlan,
    RefundPlan,
)
from defray_sandbox.simulators.shapes import (
    Flag,
    Integer,
    ListOf,
    Number,
    OneOf,
    Record,
    Shape,
    ShapeError,
    Text,
    read_object,
)

PAGE_MAX = 1000
_DELAY_S_MAX = 600.0
_AFTER_S_MAX = 400 * 86_400.0

Body = dict[str, object]
Lever = Callable[[Body], Awaitable[web.StreamResponse]]
_Item = TypeVar("_Item")

NOTHING = Record(required={}, optional={})
OUTCOME = OneOf(words=tuple(Outcome))
_CHANCE: dict[str, Shape] = {
    "orders": Text(length_max=64),
    "count": Integer(low=1, high=10**6),
    "probability": Number(low=0, high=1),
    "seed": Integer(low=0, high=2**63),
}
_CLOCK = Record(required={"offset_s": Number(low=0, high=10**9)}, optional={})
_PAYERS = Record(required={"payer": OneOf(words=tuple(Payer))}, optional=_CHANCE)
_REFUNDS = Record(
    required={"outcome": OUTCOME},
    optional={**_CHANCE, "after_s": Number(low=0, high=_AFTER_S_MAX)},
)


class SharedLevers:
    """Handlers that need nothing of a channel's own; refusals are 400 (shape), 404 (not there), 409 (not possible)."""

    def __init__(self, *, plan: FaultPlan, courier: Courier, clock: ChannelClock, operations: Sequence[str],
                 kinds: Sequence[str], clock_moved: Callable[[], Awaitable[None]]) -> None:  # fmt: skip
        self._plan = plan
        self._courier = courier
        self._clock = clock
        self._clock_moved = clock_moved
        self.kinds = ListOf(item=OneOf(words=tuple(kinds)), count_max=ROUND_KINDS_MAX)
        self._fault_shape = Record(
            required={"action": OneOf(words=tuple(Action))},
            optional={
                **_CHANCE,
                "operation": OneOf(words=(*operations, ANY)),
                "moment": OneOf(words=tuple(Moment)),
                "delay_s": Number(low=0, high=_DELAY_S_MAX),
                "retry_after_s": Integer(low=0, high=3600),
                "code": Text(length_max=64),
            },
        )
        self._callbacks_shape = Record(
            required={},
            optional={
                **_CHANCE,
                "kinds": self.kinds,
                "duplicates": Integer(low=1, high=ROUND_KINDS_MAX),
                "concurrent": Flag(),
                "delay_s": Number(low=0, high=_DELAY_S_MAX),
                "never": Flag(),
                "before_answer": Flag(),
                "reorder": Integer(low=2, high=ROUND_KINDS_MAX),
            },
        )

    def routes(self) -> list[web.RouteDef]:
        """The shared paths; POST takes and gives JSON."""
        return [
            lever("/control/faults", self._fault_shape, self._add_fault),
            lever("/control/faults/clear", NOTHING, self._clear),
            lever("/control/callbacks", self._callbacks_shape, self._add_callbacks),
            lever("/control/payers", _PAYERS, self._add_payers),
            lever("/control/refunds", _REFUNDS, self._add_refunds),
            lever("/control/clock", _CLOCK, self._move_clock),
            web.get("/health", _health),
        ]

    async def _add_fault(self, body: Body) -> web.Response:
        retry_after = body.get("retry_after_s")
        fault = Fault(
            chance=_chance(body),
            operation=str(body.get("operation", ANY)),
            moment=Moment(str(body.get("moment", Moment.AFTER_APPLY))),
            action=Action(str(body["action"])),
            delay_s=number(body.get("delay_s", 0)),
            retry_after_s=None if retry_after is None else integer(retry_after),
            code=str(body.get("code", "")),
        )
        return _bounded(lambda: self._plan.add(fault))

    async def _add_callbacks(self, body: Body) -> web.Response:
        plan = CallbackPlan(
            chance=_chance(body),
            kinds=duplicates(integer(body["duplicates"])) if "duplicates" in body else kinds_of(body),
            concurrent=bool(body.get("concurrent", False)),
            delay_s=number(body.get("delay_s", 0)),
            never=bool(body.get("never", False)),
            before_answer=bool(body.get("before_answer", False)),
            reorder=integer(body.get("reorder", 0)),
        )
        return _bounded(lambda: self._plan.add_callbacks(plan))

    async def _add_payers(self, body: Body) -> web.Response:
        plan = PayerPlan(chance=_chance(body), payer=Payer(str(body["payer"])))
        return _bounded(lambda: self._plan.add_payers(plan))

    async def _add_refunds(self, body: Body) -> web.Response:
        plan = RefundPlan(
            chance=_chance(body), outcome=Outcome(str(body["outcome"])), after_s=number(body.get("after_s", 0))
        )
        return _bounded(lambda: self._plan.add_refunds(plan))

    async def _clear(self, _body: Body) -> web.Response:
        self._plan.clear()
        return answer({})

    async def _move_clock(self, body: Body) -> web.Response:
        offset_s = self._clock.move_to_offset(number(body["offset_s"]))
        await self._clock_moved()
        return answer({"offset_s": offset_s})


def lever(path: str, shape: Record, act: Lever) -> web.RouteDef:
    """A POST whose body has this shape."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            return await act(read_object(raw or b"{}", shape))
        except ShapeError as error:
            return answer({"message": str(error), "field": error.at}, HTTPStatus.BAD_REQUEST)

    return web.post(path, handle)


def page(request: web.Request, items: Iterable[_Item], key: Callable[[_Item], str],
         view: Callable[[_Item], Mapping[str, object]]) -> list[Mapping[str, object]]:  # fmt: skip
    """Views in their order, at most PAGE_MAX: ?after=<number>&state=<state>."""
    after, state = request.query.get("after"), request.query.get("state")
    found: list[Mapping[str, object]] = []
    started = after is None
    for item in items:
        if started and len(found) < PAGE_MAX:
            seen = view(item)
            if state is None or seen["state"] == state:
                found.append(seen)
        started = started or key(item) == after
    return found


def round_asked(body: Body, base: Round) -> Round:
    """The round that a lever asks for: `callbacks` duplicates, or `kinds`; `concurrent`; `overrides`."""
    return Round(
        out_trade_no=base.out_trade_no,
        refund=base.refund,
        topic=base.topic,
        kinds=duplicates(integer(body["callbacks"])) if "callbacks" in body else kinds_of(body),
        concurrent=bool(body.get("concurrent", False)),
        overrides=cast("dict[str, object]", body.get("overrides", {})),
    )


def told(deliveries: Iterable[Delivery]) -> list[dict[str, object]]:
    """What became of callbacks, as JSON."""
    return [{"kind": delivery.kind, "status": delivery.status} for delivery in deliveries]


def kinds_of(body: Body) -> list[str]:
    """The kinds of callback that a lever names, genuine if none."""
    return cast("list[str]", body.get("kinds", [GENUINE]))


def integer(value: object) -> int:
    """A whole number that a shape has let through."""
    assert isinstance(value, int)
    return value


def number(value: object) -> float:
    """A number that a shape has let through."""
    assert isinstance(value, int | float)
    return float(value)


def answer(value: Mapping[str, object], status: int = HTTPStatus.OK) -> web.Response:
    """A JSON answer."""
    return web.json_response(value, status=status)


def conflict(message: str) -> web.HTTPConflict:
    """The lever cannot be pulled now."""
    return web.HTTPConflict(text=json.dumps({"message": message}), content_type="application/json")


def missing(what: str) -> web.HTTPNotFound:
    """There is no such thing."""
    return web.HTTPNotFound(text=json.dumps({"message": f"no such {what}"}), content_type="application/json")


def _bounded(add: Callable[[], None]) -> web.Response:
    try:
        add()
    except ValueError as error:
        raise conflict(str(error)) from error
    return answer({})


def _chance(body: Body) -> Chance:
    count = body.get("count")
    return Chance(
        orders=str(body.get("orders", "*")),
        count=None if count is None else integer(count),
        probability=number(body.get("probability", 1)),
        seed=integer(body.get("seed", 0)),
    )


async def _health(_request: web.Request) -> web.Response:
    return answer({"status": "ok"})
