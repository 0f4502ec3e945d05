"""The channel itself: what offers, trades, payers and refunds do to the ledger, apart from HTTP."""

import itertools
import secrets
from collections import Counter
from collections.abc import Mapping

from defray_sandbox.simulators.alipay.bodies import OrderRequest, RefundRequest, Which
from defray_sandbox.simulators.alipay.errors import GatewayError, business
from defray_sandbox.simulators.alipay.ledger import (
    Ledger,
    Notification,
    Offer,
    Refund,
    RefundStatus,
    Trade,
    TradeStatus,
)
from defray_sandbox.simulators.alipay.messages import round_of
from defray_sandbox.simulators.alipay.notices import is_paid, notice_parameters, time_text
from defray_sandbox.simulators.clock import ChannelClock
from defray_sandbox.simulators.courier import Courier, Delivery, Round, planned
from defray_sandbox.simulators.faults import FaultPlan, Outcome, Payer

GAP_S = 3.0
_OFFER_S = 2 * 3600
_TRADE_S = 15 * 86_400
_REFUNDABLE_S = 365 * 86_400
# Who is told of the end of a trade that was not paid; everybody is told of payments and refunds.
_TOLD_OF_CLOSE = frozenset({"app", "wap", "create"})
_STATUS_OF = {
    Outcome.SUCCESS: RefundStatus.SUCCESS,
    Outcome.ABNORMAL: RefundStatus.FAILED,
    Outcome.CLOSED: RefundStatus.FAILED,
}


class NotPossibleError(Exception):
    """The payer or the refund cannot do this now."""


class Channel:
    """The rules of the channel over its ledger; `gap_s` is the pause between two refunds of one trade."""

    def __init__(self, *, ledger: Ledger, clock: ChannelClock, courier: Courier, plan: FaultPlan,
                 app_id: str, seller_id: str, orders_max: int, gap_s: float) -> None:  # fmt: skip
        self.ledger = ledger
        self.clock = clock
        self.courier = courier
        self.plan = plan
        self.create_requests: Counter[str] = Counter()
        self.refund_requests: Counter[str] = Counter()
        self._app_id = app_id
        self._seller_id = seller_id
        self._orders_max = orders_max
        self._gap_s = gap_s
        # The run's own random part keeps numbers of different runs over one ledger apart.
        self._run = secrets.randbelow(10**9)
        self._numbers = itertools.count(1)

    def offer(self, request: OrderRequest) -> str:
        """Make the QR code of a trade that comes to be when the payer opens it; returns the code.

        Raises GatewayError: paid, closed, or made before with other data.
        """
        self.create_requests[request.out_trade_no] += 1
        now_s = self.clock.business_s()
        trade = self.ledger.find(request.out_trade_no)
        if trade is not None:
            self._check_repeat(trade.fields, request)
            _refuse_ended(trade)
        known = self.ledger.offer(request.out_trade_no)
        if known is not None and known.expires_at_s > now_s:
            self._check_repeat(known.fields, request)
            return known.qr_code
        self._check_room()
        offer = Offer(
            out_trade_no=request.out_trade_no,
            qr_code=f"https://qr.alipay.com/bax{secrets.token_hex(12)}",
            total=request.total,
            subject=request.subject,
            notify_url=request.notify_url,
            expires_at_s=request.expires_at_s or now_s + _OFFER_S,
            fields=request.fields,
        )
        self.ledger.add_offer(offer)
        return offer.qr_code

    def open_offer(self, offer: Offer) -> Trade:
        """The payer scans a QR code. Raises GatewayError when it is over, or its trade is."""
        return self.open(
            OrderRequest(
                product="precreate", out_trade_no=offer.out_trade_no, total=offer.total, subject=offer.subject,
                expires_at_s=offer.expires_at_s, notify_url=offer.notify_url, return_url="", fields=offer.fields,
            )
        )  # fmt: skip

    def open(self, request: OrderRequest) -> Trade:
        """The payer opens a link, an order string or a QR code: the trade comes to be, or is the one that was opened.

        Raises GatewayError: over, paid, closed, or opened before with other data.
        """
        now_s = self.clock.business_s()
        trade = self.ledger.find(request.out_trade_no)
        if trade is not None:
            self._check_repeat(trade.fields, request)
            _refuse_ended(trade)
            return trade
        if request.expires_at_s is not None and request.expires_at_s <= now_s:
            raise business("TRADE_HAS_CLOSE", "订单已过支付有效期")
        self._check_room()
        return self._add(request, now_s)

    async def create(self, request: OrderRequest) -> Trade:
        """Create a trade for a known buyer, or tell of the one that has this data. Raises GatewayError."""
        self.create_requests[request.out_trade_no] += 1
        is_new = self.ledger.find(request.out_trade_no) is None
        trade = self.open(request)
        plan = self.plan.callbacks_of(trade.out_trade_no, before_answer=True) if is_new else None
        if plan is not None:
            notice = self.capture(trade)
            await self.courier.send(planned(round_of(notice), plan))
        return trade

    async def pay_by_code(self, request: OrderRequest) -> Trade:
        """Take the money of the payer whose code was scanned; the trade may wait for the password afterwards.

        Raises GatewayError: declined, paid, closed, or scanned before with other data.
        """
        self.create_requests[request.out_trade_no] += 1
        if self.ledger.find(request.out_trade_no) is not None:
            return self.open(request)
        payer = self.plan.payer_of(request.out_trade_no)
        if payer is Payer.IS_DECLINED:
            raise business("BUYER_BALANCE_NOT_ENOUGH", "买家余额不足")
        trade = self.open(request)
        if payer is Payer.PAYS:
            notice = self.capture(trade)
            plan = self.plan.callbacks_of(trade.out_trade_no, before_answer=True)
            if plan is None:
                await self.courier.announce(round_of(notice))
            else:
                await self.courier.send(planned(round_of(notice), plan))
        return trade

    def find(self, which: Which) -> Trade:
        """The trade that a request is about. Raises GatewayError TRADE_NOT_EXIST, also before the payer opens it."""
        trade = self.ledger.find_trade_no(which.trade_no) if which.trade_no else self.ledger.find(which.out_trade_no)
        if trade is None:
            raise business("TRADE_NOT_EXIST", "交易不存在", {"out_trade_no": which.out_trade_no})
        return trade

    async def close(self, trade: Trade) -> None:
        """Close a trade that waits for its payer. Raises GatewayError TRADE_STATUS_ERROR for any other."""
        if trade.status is not TradeStatus.WAIT_BUYER_PAY:
            raise business("TRADE_STATUS_ERROR", "交易状态不合法")
        self.ledger.shut(trade, self.clock.business_s())
        await self._announce_close(trade)

    async def cancel(self, which: Which) -> tuple[Trade | None, str]:
        """End a trade whatever has happened: close it, or give the money back; tells which of them was done.

        None when there is no such trade: the payer may open it yet.
        """
        try:
            trade = self.find(which)
        except GatewayError:
            return None, ""
        if trade.status is TradeStatus.WAIT_BUYER_PAY:
            self.ledger.shut(trade, self.clock.business_s(), is_cancelled=True)
            return trade, "close"
        if trade.status is TradeStatus.TRADE_FINISHED:
            raise business("TRADE_HAS_FINISHED", "交易已完结")
        rest = trade.paid_total - self.ledger.reserved(trade)
        if rest > 0:
            refund = self._accept(trade, f"cancel_{trade.out_trade_no}"[:64], rest, Outcome.SUCCESS, 0.0)
            await self._settle_and_announce(refund, Outcome.SUCCESS)
        return trade, "refund" if trade.paid_at_s else "close"

    async def refund(self, request: RefundRequest) -> tuple[Trade, Refund, bool]:
        """Give back money; tells the refund, and whether this very request moved it. Raises GatewayError."""
        trade = self.find(request.which)
        number = request.out_request_no or trade.out_trade_no
        self.refund_requests[number] += 1
        known = self.ledger.find_refund(trade.out_trade_no, number)
        if known is not None:
            if known.amount != request.amount:
                raise business("DISCORDANT_REPEAT_REQUEST", "不一致的请求")
            return trade, known, False
        self._check_refund(trade, request)
        plan = self.plan.refund_of(number)
        outcome, after_s = (Outcome.SUCCESS, 0.0) if plan is None else (plan.outcome, plan.after_s)
        refund = self._accept(trade, number, request.amount, outcome, after_s)
        if outcome is Outcome.SUCCESS and not after_s:
            await self._settle_and_announce(refund, Outcome.SUCCESS)
            return trade, refund, True
        return trade, refund, False

    async def settle(self, refund: Refund, outcome: Outcome, *, wait: bool = False) -> list[Delivery]:
        """End an accepted refund by hand. Raises NotPossibleError."""
        if outcome not in _STATUS_OF or refund.status is not RefundStatus.ACCEPTED:
            raise NotPossibleError(f"{refund.status} does not become {outcome}")
        return await self._settle_and_announce(refund, outcome, wait=wait)

    async def come_due(self) -> None:
        """Let come what time brings: unpaid trades end, planned refunds succeed or fail."""
        now_s = self.clock.business_s()
        for trade in self.ledger.overdue_trades(now_s):
            self.ledger.shut(trade, now_s)
            await self._announce_close(trade)
        for refund in self.ledger.due_refunds(now_s):
            await self._settle_and_announce(refund, Outcome(str(refund.outcome)))

    def capture(self, trade: Trade, *, total: int | None = None, late: bool = False) -> Notification:
        """Take the payer's money; another amount than ordered only when a test asks for it.

        `late`: as when a bank was slow, the money arrives although the trade was closed. Raises NotPossibleError.
        """
        now_s = self.clock.business_s()
        payable = trade.status is TradeStatus.WAIT_BUYER_PAY and trade.expires_at_s > now_s
        was_closed = trade.status in {TradeStatus.WAIT_BUYER_PAY, TradeStatus.TRADE_CLOSED} and not trade.paid_at_s
        if not payable and not (late and was_closed):
            raise NotPossibleError(f"the trade cannot be paid: {trade.status}")
        self.ledger.pay(trade, paid_at_s=now_s, total=trade.total if total is None else total)
        return self._note(trade, "paid")

    async def finish(self, trade: Trade) -> None:
        """The time for refunds is over. Raises NotPossibleError for a trade that is not paid."""
        if trade.status is not TradeStatus.TRADE_SUCCESS:
            raise NotPossibleError(f"the trade cannot be finished: {trade.status}")
        self.ledger.finish(trade)
        if trade.product in _TOLD_OF_CLOSE:
            await self.courier.announce(round_of(self._note(trade, "finished")))

    def _check_repeat(self, fields: Mapping[str, object], request: OrderRequest) -> None:
        same = {name: value for name, value in request.fields.items() if name != "auth_code"}
        if same != {name: value for name, value in fields.items() if name != "auth_code"}:
            raise business("CONTEXT_INCONSISTENT", "交易信息被篡改")

    def _check_room(self) -> None:
        if len(self.ledger) >= self._orders_max:
            raise GatewayError("40005", "isv.app-call-limited", f"the simulator holds {self._orders_max} trades")

    def _check_refund(self, trade: Trade, request: RefundRequest) -> None:
        now_s = self.clock.business_s()
        over = trade.paid_at_s and now_s > trade.paid_at_s + _REFUNDABLE_S
        if trade.status is TradeStatus.TRADE_FINISHED or (over and is_paid(trade)):
            raise business("TRADE_HAS_FINISHED", "交易已完结")
        if not trade.paid_at_s:
            raise business("TRADE_STATUS_ERROR", "交易状态不合法")
        rest = trade.paid_total - self.ledger.reserved(trade)
        if request.amount > rest:
            raise business("REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限")
        if not request.out_request_no and request.amount != trade.paid_total:
            raise business("INVALID_PARAMETER", "部分退款必须传入out_request_no")
        if trade.refunds and now_s < trade.last_refund_at_s + self._gap_s:
            raise GatewayError("40005", "isv.app-call-limited", "同一交易两次退款间隔太短")

    def _add(self, request: OrderRequest, now_s: float) -> Trade:
        day = time_text(now_s)[:10].replace("-", "")
        number = f"{self._run:09d}{next(self._numbers):06d}"
        return self.ledger.create(
            Trade(
                out_trade_no=request.out_trade_no,
                trade_no=f"{day}22001{number}",
                product=request.product,
                total=request.total,
                subject=request.subject,
                notify_url=request.notify_url,
                return_url=request.return_url,
                created_at_s=now_s,
                expires_at_s=request.expires_at_s or now_s + _TRADE_S,
                fields=request.fields,
                buyer_id=str(request.fields.get("buyer_id", f"2088{secrets.randbelow(10**12):012d}")),
            )
        )

    def _accept(self, trade: Trade, number: str, amount: int, outcome: Outcome, after_s: float) -> Refund:
        now_s = self.clock.business_s()
        return self.ledger.accept_refund(
            Refund(
                out_request_no=number,
                out_trade_no=trade.out_trade_no,
                amount=amount,
                created_at_s=now_s,
                outcome=None if outcome is Outcome.PENDING else outcome,
                due_at_s=now_s + after_s,
            )
        )

    async def _settle_and_announce(self, refund: Refund, outcome: Outcome, *, wait: bool = False) -> list[Delivery]:
        self.ledger.settle(refund, _STATUS_OF[outcome], self.clock.business_s())
        trade = self.ledger.find(refund.out_trade_no)
        # A refund that fails is told by nobody: the merchant has to ask.
        if trade is None or refund.status is not RefundStatus.SUCCESS:
            return []
        task: Round = round_of(self._note(trade, "refunded", refund))
        plan = self.plan.callbacks_of(refund.out_request_no, before_answer=True)
        if plan is not None:
            return await self.courier.send(planned(task, plan))
        return await self.courier.announce(task, wait=wait)

    async def _announce_close(self, trade: Trade) -> None:
        if trade.product in _TOLD_OF_CLOSE:
            await self.courier.announce(round_of(self._note(trade, "closed")))

    def _note(self, trade: Trade, about: str, refund: Refund | None = None) -> Notification:
        notice = Notification(
            notify_id=f"{time_text(self.clock.business_s())[:10].replace('-', '')}002{secrets.token_hex(8)}",
            out_trade_no=trade.out_trade_no,
            out_request_no="" if refund is None else refund.out_request_no,
            about=about,
            parameters=notice_parameters(trade, app_id=self._app_id, seller_id=self._seller_id, refund=refund),
        )
        if trade.notify_url:
            self.ledger.add_notice(notice)
        return notice


def _refuse_ended(trade: Trade) -> None:
    if trade.status is TradeStatus.TRADE_CLOSED:
        raise business("TRADE_HAS_CLOSE", "交易已经关闭")
    if trade.status is not TradeStatus.WAIT_BUYER_PAY:
        raise business("TRADE_HAS_SUCCESS", "交易已被支付")
