"""The channel itself: what create, query, close, reverse, pay and refund do to the ledger, apart from HTTP."""

import itertools
import secrets
from collections import Counter
from collections.abc import Mapping

from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import Courier, Delivery, Round, planned
from defray_sandbox.simulators.faults import FaultPlan, Outcome, Payer
from defray_sandbox.simulators.wechat.errors import ChannelError, Code
from defray_sandbox.simulators.wechat.ledger import Ledger, Order, Refund, RefundStatus, TradeState
from defray_sandbox.simulators.wechat.notices import refund_reply, transaction
from defray_sandbox.simulators.wechat.orders import OrderRequest
from defray_sandbox.simulators.wechat.refunds import RefundRequest, Refunds

_PAID = (TradeState.SUCCESS, TradeState.REFUND)


class NotPayableError(Exception):
    """The payer cannot pay this order: it is paid, closed or past its end."""


class Channel:
    """The rules of the channel over its ledger."""

    def __init__(self, *, ledger: Ledger, clock: ChannelClock, courier: Courier, plan: FaultPlan, refunds: Refunds,
                 orders_max: int, auto_pay: bool) -> None:  # fmt: skip
        self.ledger = ledger
        self.clock = clock
        self.courier = courier
        self.plan = plan
        self.refunds = refunds
        self.create_requests: Counter[str] = Counter()
        self.refund_requests: Counter[str] = Counter()
        self._orders_max = orders_max
        self._auto_pay = auto_pay
        # The run's own random part keeps numbers of different runs over one ledger apart.
        self._run = secrets.randbelow(10**9)
        self._numbers = itertools.count(1)

    async def create(self, request: OrderRequest) -> dict[str, object]:
        """Create an order, or repeat one with the same data; tells what the payer needs, fresh each time.

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
        match request.product:
            case "native":
                return {"code_url": f"weixin://wxpay/bizpayurl?pr={secrets.token_urlsafe(9)}"}
            case "h5":
                token = secrets.token_hex(16)
                return {"h5_url": f"https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=wx{token}&package=1"}
            case "codepay":
                return self._answer_code(order)
            case _:
                return {"prepay_id": f"wx{secrets.token_hex(17)}"}

    def show(self, order: Order | None) -> dict[str, object]:
        """What a query tells. Raises ChannelError ORDER_NOT_EXIST."""
        if order is None:
            raise ChannelError(Code.ORDER_NOT_EXIST, "the order does not exist")
        return transaction(order, self.ledger.state_at(order, self.clock.business_s()))

    def close(self, out_trade_no: str) -> None:
        """Close an open order. Raises ChannelError: unknown, paid, closed, or one that is paid by code."""
        order = self._existing(out_trade_no)
        now_s = self.clock.business_s()
        _refuse_ended(self.ledger.state_at(order, now_s))
        if order.product == "codepay":
            raise ChannelError(Code.INVALID_REQUEST, "an order paid by code is reversed, not closed")
        self.ledger.shut(order, now_s)

    def reverse(self, out_trade_no: str) -> None:
        """End an order paid by code, and give back what was paid; as often as one likes. Raises ChannelError."""
        order = self._existing(out_trade_no)
        if order.product != "codepay":
            raise ChannelError(Code.INVALID_REQUEST, "only an order paid by code can be reversed")
        if order.refunds:
            raise ChannelError(Code.TRADE_ERROR, "the order has refunds")
        if order.state is not TradeState.REVOKED:
            self.ledger.reverse(order, self.clock.business_s())

    async def refund(self, request: RefundRequest) -> dict[str, object]:
        """Accept a refund, or repeat one. Raises ChannelError."""
        self.refund_requests[request.out_refund_no] += 1
        refund = self.refunds.accept(request)
        plan = self.plan.callbacks_of(refund.out_refund_no, before_answer=True)
        told = self.show_refund(refund)
        if plan is not None and refund.outcome is not None and refund.status is RefundStatus.PROCESSING:
            self.refunds.settle(refund, Outcome(refund.outcome))
            await self.courier.send(planned(_round_of(refund), plan))
        return told

    def show_refund(self, refund: Refund) -> dict[str, object]:
        """What a refund query tells."""
        return refund_reply(refund, self._existing(refund.out_trade_no))

    async def settle_due_refunds(self) -> None:
        """Let the planned outcomes come that are due, and call the merchants."""
        for refund in self.refunds.settle_due():
            await self.announce_refund(refund)

    async def announce_refund(self, refund: Refund, *, wait: bool = False) -> list[Delivery]:
        """Send the callback of a settled refund as its plan says."""
        return await self.courier.announce(_round_of(refund), wait=wait)

    def capture(
        self, order: Order, *, total: int | None = None, currency: str | None = None, late: bool = False
    ) -> None:
        """Take the payer's money; another amount or currency than ordered only when a test asks for it.

        `late`: as when a bank was slow, the money arrives although the order was closed. Raises NotPayableError.
        """
        now_s = self.clock.business_s()
        was_closed = self.ledger.state_at(order, now_s) is TradeState.CLOSED and not order.transaction_id
        if not self.ledger.payable(order, now_s) and not (late and was_closed):
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

    def _existing(self, out_trade_no: str) -> Order:
        order = self.ledger.find(out_trade_no)
        if order is None:
            raise ChannelError(Code.ORDER_NOT_EXIST, "the order does not exist")
        return order

    def _add(self, request: OrderRequest, now_s: float) -> Order:
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
                product=request.product,
            )
        )

    async def _after_create(self, order: Order) -> None:
        if order.product == "codepay":
            match self.plan.payer_of(order.out_trade_no):
                case Payer.PAYS:
                    self.capture(order)
                case Payer.TYPES_PASSWORD:
                    self.ledger.user_paying(order)
                case Payer.IS_DECLINED:
                    self.ledger.decline(order)
            return
        plan = self.plan.callbacks_of(order.out_trade_no, before_answer=True)
        if plan is not None:
            self.capture(order)
            await self.courier.send(planned(Round(out_trade_no=order.out_trade_no), plan))
        elif self._auto_pay:
            self.capture(order)
            await self.courier.announce(Round(out_trade_no=order.out_trade_no))

    def _answer_code(self, order: Order) -> dict[str, object]:
        if order.state is TradeState.USERPAYING:
            raise ChannelError(Code.USERPAYING, "需要用户输入支付密码")
        if order.state is TradeState.PAYERROR:
            raise ChannelError(Code.TRADE_ERROR, "支付失败")
        return self.show(order)

    def _check_repeat(self, order: Order, request: OrderRequest, now_s: float) -> None:
        # The end of payment counts on the first request only, so it is no part of the comparison.
        if order.fields != request.fields or order.product != request.product:
            raise ChannelError(Code.INVALID_REQUEST, "请求重入时参数与首次请求时不一致")
        _refuse_ended(self.ledger.state_at(order, now_s))


def _refuse_ended(state: TradeState) -> None:
    if state in _PAID:
        raise ChannelError(Code.ORDER_PAID, "the order is paid")
    if state in (TradeState.CLOSED, TradeState.REVOKED):
        raise ChannelError(Code.ORDER_CLOSED, "the order is closed")


def _round_of(refund: Refund) -> Round:
    return Round(out_trade_no=refund.out_trade_no, refund=refund.out_refund_no, topic=refund.event_id)


def books(ledger: Ledger) -> dict[str, object]:
    """What the channel took in and gave back: per currency, count and sum in minor units; reversals are refunds too."""
    captures: dict[str, dict[str, int]] = {}
    refunds: dict[str, dict[str, int]] = {}
    for order in ledger:
        if order.transaction_id:
            _count(captures, order.paid_currency, order.paid_total)
            if order.state is TradeState.REVOKED:
                _count(refunds, order.paid_currency, order.paid_total)
    for refund in ledger.refunds():
        order_of = ledger.find(refund.out_trade_no)
        if refund.status is RefundStatus.SUCCESS and order_of is not None:
            _count(refunds, order_of.paid_currency, refund.amount)
    return {"captures": captures, "refunds": refunds}


def _count(entries: dict[str, dict[str, int]], currency: str, amount: int) -> None:
    entry = entries.setdefault(currency, {"count": 0, "amount_minor": 0})
    entry["count"] += 1
    entry["amount_minor"] += amount


def order_view(order: Order, state: TradeState, create_requests: int) -> Mapping[str, object]:
    """An order for the control API."""
    return {
        "out_trade_no": order.out_trade_no,
        "product": order.product,
        "state": state,
        "total": order.total,
        "currency": order.currency,
        "transaction_id": order.transaction_id or None,
        "paid_total": order.paid_total,
        "paid_currency": order.paid_currency or None,
        "notified": order.notified,
        "attach": order.attach,
        "notify_url": order.notify_url,
        "refunds": list(order.refunds),
        "create_requests": create_requests,
        "applied": dict(order.applied),
    }


def refund_view(refund: Refund, requests: int) -> Mapping[str, object]:
    """A refund for the control API."""
    return {
        "out_refund_no": refund.out_refund_no,
        "out_trade_no": refund.out_trade_no,
        "refund_id": refund.refund_id,
        "state": refund.status,
        "amount": refund.amount,
        "notified": refund.notified,
        "requests": requests,
        "applied": dict(refund.applied),
    }
