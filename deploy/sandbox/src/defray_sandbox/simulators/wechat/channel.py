"""The channel itself: what create, query, close and pay do to the ledger, apart from HTTP."""

import itertools
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from defray_sandbox.simulators.wechat.clock import ChannelClock
from defray_sandbox.simulators.wechat.courier import Courier, Delivery, Round
from defray_sandbox.simulators.wechat.errors import ChannelError, Code
from defray_sandbox.simulators.wechat.faults import CallbackKind, CallbackPlan, FaultPlan
from defray_sandbox.simulators.wechat.ledger import Ledger, Order, TradeState
from defray_sandbox.simulators.wechat.notices import transaction
from defray_sandbox.simulators.wechat.orders import NativeRequest


class NotPayableError(Exception):
    """The payer cannot pay this order: it is paid, closed or past its end."""


class Channel:
    """The rules of the channel over its ledger."""

    def __init__(self, *, ledger: Ledger, clock: ChannelClock, courier: Courier, plan: FaultPlan,
                 orders_max: int, auto_pay: bool) -> None:  # fmt: skip
        self.ledger = ledger
        self.clock = clock
        self.courier = courier
        self.plan = plan
        self.create_requests: Counter[str] = Counter()
        self._orders_max = orders_max
        self._auto_pay = auto_pay
        # The run's own random part keeps numbers of different runs over one ledger apart.
        self._run = secrets.randbelow(10**9)
        self._numbers = itertools.count(1)

    async def create(self, request: NativeRequest) -> str:
        """Create an order, or repeat one with the same data; returns a fresh code_url.

        Raises ChannelError: other data, paid, closed, or too many orders.
        """
        now_s = self.clock.business_s()
        self.create_requests[request.out_trade_no] += 1
        order = self.ledger.find(request.out_trade_no)
        if order is None:
            order = self._add(request, now_s)
            await self._after_create(order)
        else:
            self._check_repeat(order, request, now_s)
        return f"weixin://wxpay/bizpayurl?pr={secrets.token_urlsafe(9)}"

    def show(self, order: Order | None) -> dict[str, object]:
        """What a query tells. Raises ChannelError ORDER_NOT_EXIST."""
        if order is None:
            raise ChannelError(Code.ORDER_NOT_EXIST, "the order does not exist")
        return transaction(order, self.ledger.state_at(order, self.clock.business_s()))

    def close(self, out_trade_no: str) -> None:
        """Close an open order. Raises ChannelError: unknown, paid, closed."""
        order = self.ledger.find(out_trade_no)
        if order is None:
            raise ChannelError(Code.ORDER_NOT_EXIST, "the order does not exist")
        now_s = self.clock.business_s()
        _refuse_ended(self.ledger.state_at(order, now_s))
        self.ledger.shut(order, now_s)

    def capture(self, order: Order, *, total: int | None = None, currency: str | None = None) -> None:
        """Take the payer's money; another amount or currency than ordered only when a test asks for it.

        Raises NotPayableError.
        """
        now_s = self.clock.business_s()
        if not self.ledger.payable(order, now_s):
            raise NotPayableError(self.ledger.state_at(order, now_s))
        number = f"{self._run:09d}{next(self._numbers):09d}"
        self.ledger.pay(
            order,
            transaction_id=f"4200{number:0>24}",
            event_id=f"EV-{number}",
            openid=f"o{secrets.token_urlsafe(20)[:27]}",
            paid_at_s=now_s,
            total=order.total if total is None else total,
            currency=order.currency if currency is None else currency,
        )

    async def announce(self, task: Round, *, wait: bool) -> list[Delivery]:
        """Send the callbacks of a paid order as its plan says; `wait` tells what the merchant answered."""
        plan = self.plan.callbacks_of(task.out_trade_no, before_answer=False)
        if plan is not None:
            if plan.never:
                return []
            task = _planned(task, plan)
        delay_s = 0.0 if plan is None else plan.delay_s
        if wait and not delay_s:
            return await self.courier.send(task)
        self.courier.post(task, delay_s)
        return []

    def _add(self, request: NativeRequest, now_s: float) -> Order:
        if len(self.ledger) >= self._orders_max:
            raise ChannelError(Code.FREQUENCY_LIMITED, f"the simulator holds at most {self._orders_max} orders")
        return self.ledger.create(
            Order(
                out_trade_no=request.out_trade_no,
                total=request.total,
                currency="CNY",
                notify_url=request.notify_url,
                attach=request.attach,
                created_at_s=now_s,
                expires_at_s=request.expires_at_s,
                fields=request.fields,
            )
        )

    async def _after_create(self, order: Order) -> None:
        plan = self.plan.callbacks_of(order.out_trade_no, before_answer=True)
        if plan is not None:
            self.capture(order)
            await self.courier.send(_planned(Round(out_trade_no=order.out_trade_no), plan))
        elif self._auto_pay:
            self.capture(order)
            await self.announce(Round(out_trade_no=order.out_trade_no), wait=False)

    def _check_repeat(self, order: Order, request: NativeRequest, now_s: float) -> None:
        # The end of payment counts on the first request only, so it is no part of the comparison.
        if order.fields != request.fields:
            raise ChannelError(Code.INVALID_REQUEST, "请求重入时参数与首次请求时不一致")
        _refuse_ended(self.ledger.state_at(order, now_s))


def _planned(task: Round, plan: CallbackPlan) -> Round:
    # Duplicates asked for with the payment itself win over the plan's.
    kinds = task.kinds if len(task.kinds) > 1 else plan.kinds
    return replace(task, kinds=tuple(kinds), concurrent=task.concurrent or plan.concurrent)


def _refuse_ended(state: TradeState) -> None:
    if state is TradeState.SUCCESS:
        raise ChannelError(Code.ORDER_PAID, "the order is paid")
    if state is TradeState.CLOSED:
        raise ChannelError(Code.ORDER_CLOSED, "the order is closed")


def books(ledger: Ledger) -> dict[str, object]:
    """What the channel took in: captures per currency, count and sum in minor units."""
    captures: dict[str, dict[str, int]] = {}
    for order in ledger:
        if order.state is TradeState.SUCCESS:
            entry = captures.setdefault(order.paid_currency, {"count": 0, "amount_minor": 0})
            entry["count"] += 1
            entry["amount_minor"] += order.paid_total
    return {"captures": captures}


def duplicates(count: int) -> tuple[CallbackKind, ...]:
    """So many genuine callbacks of one payment."""
    return (CallbackKind.GENUINE,) * count


def order_view(order: Order, state: TradeState, create_requests: int) -> Mapping[str, object]:
    """An order for the control API."""
    return {
        "out_trade_no": order.out_trade_no,
        "state": state,
        "total": order.total,
        "currency": order.currency,
        "transaction_id": order.transaction_id or None,
        "paid_total": order.paid_total,
        "paid_currency": order.paid_currency or None,
        "notified": order.notified,
        "attach": order.attach,
        "notify_url": order.notify_url,
        "create_requests": create_requests,
        "applied": dict(order.applied),
    }
