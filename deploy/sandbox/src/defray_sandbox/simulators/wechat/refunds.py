"""Refunds: the request, the channel's rules, and what becomes of an accepted one."""

import itertools
import secrets
from dataclasses import dataclass

from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.faults import FaultPlan, Outcome
from defray_sandbox.simulators.shapes import Integer, ListOf, OneOf, Record, ShapeError, Text, read_object
from defray_sandbox.simulators.wechat.errors import ChannelError, Code
from defray_sandbox.simulators.wechat.ledger import Ledger, Order, Refund, RefundStatus, TradeState
from defray_sandbox.simulators.wechat.orders import CURRENCY, OUT_TRADE_NO, TOTAL_MAX, check_notify_url

OUT_REFUND_NO = Text(length_max=64, pattern=r"[0-9A-Za-z_\-|*@]+")
GAP_S = 60.0
_REFUNDS_MAX = 50
_WINDOW_S = 365 * 86_400
_FROM = Record(
    required={"account": OneOf(words=("AVAILABLE", "UNAVAILABLE")), "amount": Integer(low=1, high=TOTAL_MAX)},
    optional={},
)
_GOODS = Record(
    required={
        "merchant_goods_id": Text(length_max=32),
        "unit_price": Integer(low=0, high=TOTAL_MAX),
        "refund_amount": Integer(low=0, high=TOTAL_MAX),
        "refund_quantity": Integer(low=1, high=10**9),
    },
    optional={"wechatpay_goods_id": Text(length_max=32), "goods_name": Text(length_max=256)},
)
_REFUND = Record(
    required={
        "out_refund_no": OUT_REFUND_NO,
        "amount": Record(
            required={
                "refund": Integer(low=1, high=TOTAL_MAX),
                "total": Integer(low=1, high=TOTAL_MAX),
                "currency": OneOf(words=(CURRENCY,)),
            },
            optional={"from": ListOf(item=_FROM, count_max=8)},
        ),
    },
    optional={
        "transaction_id": Text(length_max=32),
        "out_trade_no": OUT_TRADE_NO,
        "reason": Text(length_max=80),
        "notify_url": Text(length_max=256),
        "funds_account": OneOf(words=("AVAILABLE", "UNSETTLED")),
        "goods_detail": ListOf(item=_GOODS, count_max=6000),
    },
)
_STATUS_OF = {
    Outcome.SUCCESS: RefundStatus.SUCCESS,
    Outcome.ABNORMAL: RefundStatus.ABNORMAL,
    Outcome.CLOSED: RefundStatus.CLOSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """A refund request that passed all checks of its shape; amounts in fen, `fields` is the body."""

    out_refund_no: str
    transaction_id: str
    out_trade_no: str
    refund: int
    total: int
    notify_url: str
    fields: dict[str, object]


class NotSettleableError(Exception):
    """The refund has ended, or cannot become what was asked."""


def read_refund(raw: bytes, *, plain_hosts: frozenset[str]) -> RefundRequest:
    """Read the body of POST /v3/refund/domestic/refunds; raises ShapeError."""
    body = read_object(raw, _REFUND)
    if ("transaction_id" in body) == ("out_trade_no" in body):
        raise ShapeError("/transaction_id", "or out_trade_no must be given, and not both")
    notify_url = str(body.get("notify_url", ""))
    if notify_url:
        check_notify_url(notify_url, plain_hosts)
    amount = body["amount"]
    assert isinstance(amount, dict)
    return RefundRequest(
        out_refund_no=str(body["out_refund_no"]),
        transaction_id=str(body.get("transaction_id", "")),
        out_trade_no=str(body.get("out_trade_no", "")),
        refund=int(amount["refund"]),
        total=int(amount["total"]),
        notify_url=notify_url,
        fields=body,
    )


class Refunds:
    """The channel's rules of refunds over its ledger; `gap_s` is the pause between two refunds of one order."""

    def __init__(self, *, ledger: Ledger, clock: ChannelClock, plan: FaultPlan, gap_s: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._plan = plan
        self._gap_s = gap_s
        # The run's own random part keeps numbers of different runs over one ledger apart.
        self._run = secrets.randbelow(10**9)
        self._numbers = itertools.count(1)

    def accept(self, request: RefundRequest) -> Refund:
        """Accept a refund, or tell of the one that has this number and this data. Raises ChannelError."""
        order = self._order_of(request)
        known = self._ledger.find_refund(request.out_refund_no)
        if known is not None:
            if known.fields != request.fields:
                raise ChannelError(Code.INVALID_REQUEST, "订单金额或退款金额与之前请求不一致")
            return known
        now_s = self._clock.business_s()
        self._check(order, request, now_s)
        plan = self._plan.refund_of(request.out_refund_no)
        outcome = Outcome.SUCCESS if plan is None else plan.outcome
        number = f"{self._run:09d}{next(self._numbers):09d}"
        return self._ledger.create_refund(
            Refund(
                out_refund_no=request.out_refund_no,
                out_trade_no=order.out_trade_no,
                refund_id=f"5030{number:0>24}",
                amount=request.refund,
                notify_url=request.notify_url,
                created_at_s=now_s,
                fields=request.fields,
                outcome=None if outcome is Outcome.PENDING else outcome,
                due_at_s=now_s + (0.0 if plan is None else plan.after_s),
            )
        )

    def find(self, out_refund_no: str) -> Refund:
        """The refund of this number. Raises ChannelError RESOURCE_NOT_EXISTS."""
        OUT_REFUND_NO.check(out_refund_no, "out_refund_no")
        refund = self._ledger.find_refund(out_refund_no)
        if refund is None:
            raise ChannelError(Code.RESOURCE_NOT_EXISTS, "退款单不存在")
        return refund

    def settle(self, refund: Refund, outcome: Outcome) -> None:
        """End a refund that is processed, or one that was abnormal and has been handled. Raises NotSettleableError."""
        status = _STATUS_OF.get(outcome)
        if status is None or refund.status not in (RefundStatus.PROCESSING, RefundStatus.ABNORMAL):
            raise NotSettleableError(f"{refund.status} does not become {outcome}")
        event_id = f"EV-R{self._run:09d}{next(self._numbers):09d}"
        self._ledger.settle(refund, status, self._clock.business_s(), event_id)

    def settle_due(self) -> list[Refund]:
        """Settle what is due by plan, and tell which refunds that were."""
        due = self._ledger.due_refunds(self._clock.business_s())
        for refund in due:
            self.settle(refund, Outcome(str(refund.outcome)))
        return due

    def _order_of(self, request: RefundRequest) -> Order:
        order = (
            self._ledger.find_transaction(request.transaction_id)
            if request.transaction_id
            else self._ledger.find(request.out_trade_no)
        )
        if order is None:
            raise ChannelError(Code.RESOURCE_NOT_EXISTS, "订单不存在")
        return order

    def _check(self, order: Order, request: RefundRequest, now_s: float) -> None:
        if order.state is not TradeState.SUCCESS:
            raise ChannelError(Code.INVALID_REQUEST, "订单未支付")
        if request.total != order.paid_total:
            raise ChannelError(Code.INVALID_REQUEST, "订单总金额与支付时不一致", field="/amount/total")
        if self._ledger.reserved(order) + request.refund > order.paid_total:
            raise ChannelError(Code.INVALID_REQUEST, "申请退款金额超过订单可退金额", field="/amount/refund")
        if now_s > order.paid_at_s + _WINDOW_S:
            raise ChannelError(Code.INVALID_REQUEST, "订单已超过可退款的最大期限")
        if len(order.refunds) >= _REFUNDS_MAX:
            raise ChannelError(Code.RULE_LIMIT, "部分退款已达到50次")
        if order.refunds and now_s < order.last_refund_at_s + self._gap_s:
            raise ChannelError(Code.FREQUENCY_LIMITED, "同一订单两次退款间隔太短")
