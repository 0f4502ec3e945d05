"""The channel's own ledger of orders and refunds; every change is a line of its journal first."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from defray_sandbox.simulators.journal import Journal, Line

_DEAD_AFTER_S = 7 * 24 * 3600


class TradeState(StrEnum):
    """The states of an order; REFUND is told of a paid order that has refunds, and never stored."""

    NOTPAY = "NOTPAY"
    USERPAYING = "USERPAYING"
    SUCCESS = "SUCCESS"
    REFUND = "REFUND"
    CLOSED = "CLOSED"
    REVOKED = "REVOKED"
    PAYERROR = "PAYERROR"


class RefundStatus(StrEnum):
    """The states of a refund."""

    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    ABNORMAL = "ABNORMAL"
    CLOSED = "CLOSED"


class Event(StrEnum):
    """What a line of the ledger tells."""

    CREATED = "created"
    USER_PAYING = "user_paying"
    PAID = "paid"
    DECLINED = "declined"
    EXPIRED = "expired"
    CLOSED = "closed"
    REVERSED = "reversed"
    NOTIFIED = "notified"
    REFUND_CREATED = "refund_created"
    REFUND_SETTLED = "refund_settled"
    REFUND_NOTIFIED = "refund_notified"
    RESET = "reset"


_STATE_AFTER = {
    Event.USER_PAYING: TradeState.USERPAYING,
    Event.PAID: TradeState.SUCCESS,
    Event.CLOSED: TradeState.CLOSED,
    Event.REVERSED: TradeState.REVOKED,
}
_NO_FIELDS = {"event", "out_trade_no", "out_refund_no"}


@dataclass(slots=True, kw_only=True)
class Refund:
    """One refund as the channel knows it; `amount` in minor units, times in unix seconds of business time.

    `outcome` is what it will become at `due_at_s`; None = it waits to be settled by hand.
    """

    out_refund_no: str
    out_trade_no: str
    refund_id: str
    amount: int
    notify_url: str
    created_at_s: float
    fields: dict[str, object]
    outcome: str | None
    due_at_s: float
    status: RefundStatus = RefundStatus.PROCESSING
    settled_at_s: float = 0.0
    event_id: str = ""
    notified: bool = False
    applied: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Order:
    """One order as the channel knows it; amounts in minor units, times in unix seconds of business time."""

    out_trade_no: str
    total: int
    currency: str
    notify_url: str
    attach: str
    created_at_s: float
    expires_at_s: float | None
    fields: dict[str, object]
    product: str = "native"
    state: TradeState = TradeState.NOTPAY
    transaction_id: str = ""
    event_id: str = ""
    openid: str = ""
    paid_at_s: float = 0.0
    paid_total: int = 0
    paid_currency: str = ""
    closed_at_s: float = 0.0
    notified: bool = False
    refunds: list[str] = field(default_factory=list)
    last_refund_at_s: float = 0.0
    applied: dict[str, int] = field(default_factory=dict)


class Ledger:
    """All orders and refunds of the channel."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and replay it. Raises LedgerInUseError."""
        self._orders: dict[str, Order] = {}
        self._by_transaction: dict[str, str] = {}
        self._refunds: dict[str, Refund] = {}
        self._open_refunds: dict[str, Refund] = {}
        self._journal = Journal(path, self._apply)

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[Order]:
        return iter(self._orders.values())

    def refunds(self) -> Iterator[Refund]:
        """All refunds in the order of their creation."""
        return iter(self._refunds.values())

    def find(self, out_trade_no: str) -> Order | None:
        """The order of this number, if there is one."""
        return self._orders.get(out_trade_no)

    def find_transaction(self, transaction_id: str) -> Order | None:
        """The paid order of this transaction, if there is one."""
        return self._orders.get(self._by_transaction.get(transaction_id, ""))

    def find_refund(self, out_refund_no: str) -> Refund | None:
        """The refund of this number, if there is one."""
        return self._refunds.get(out_refund_no)

    def due_refunds(self, now_s: float) -> list[Refund]:
        """The refunds whose planned outcome has come."""
        return [
            refund for refund in self._open_refunds.values() if refund.outcome is not None and refund.due_at_s <= now_s
        ]

    def create(self, order: Order) -> Order:
        """Add an order; its number must be new."""
        assert order.out_trade_no not in self._orders
        self._record(Event.CREATED, order.out_trade_no, order=asdict(order))
        return self._orders[order.out_trade_no]

    def user_paying(self, order: Order) -> None:
        """Record that the payer is typing the password."""
        assert order.state is TradeState.NOTPAY
        self._record(Event.USER_PAYING, order.out_trade_no)

    def pay(self, order: Order, *, transaction_id: str, event_id: str, openid: str,
            paid_at_s: float, total: int, currency: str) -> None:  # fmt: skip
        """Record that the payer paid; the order must be open, or closed when money comes late."""
        assert order.state in (TradeState.NOTPAY, TradeState.USERPAYING, TradeState.CLOSED)
        self._record(
            Event.PAID, order.out_trade_no, transaction_id=transaction_id, event_id=event_id, openid=openid,
            paid_at_s=paid_at_s, paid_total=total, paid_currency=currency,
        )  # fmt: skip

    def decline(self, order: Order) -> None:
        """Record that the payer's payment failed; only an order paid by code ends with it."""
        self._record(Event.DECLINED, order.out_trade_no)

    def expire(self, order: Order, at_s: float) -> None:
        """Move the end of payment to now; this is not a close."""
        self._record(Event.EXPIRED, order.out_trade_no, expires_at_s=at_s)

    def shut(self, order: Order, at_s: float) -> None:
        """Record the close; the order must be open."""
        assert order.state is TradeState.NOTPAY
        self._record(Event.CLOSED, order.out_trade_no, closed_at_s=at_s)

    def reverse(self, order: Order, at_s: float) -> None:
        """Record that an order paid by code was reversed; what was paid goes back."""
        self._record(Event.REVERSED, order.out_trade_no, closed_at_s=at_s)

    def notified(self, order: Order) -> None:
        """Record that the merchant took the callback, so that a restart does not send it again."""
        # A reset may have come while the merchant answered.
        if self.find(order.out_trade_no) is order and not order.notified:
            self._record(Event.NOTIFIED, order.out_trade_no)

    def create_refund(self, refund: Refund) -> Refund:
        """Add a refund; its number must be new."""
        assert refund.out_refund_no not in self._refunds
        self._record(Event.REFUND_CREATED, refund.out_trade_no, refund.out_refund_no, refund=asdict(refund))
        return self._refunds[refund.out_refund_no]

    def settle(self, refund: Refund, status: RefundStatus, at_s: float, event_id: str) -> None:
        """Record what became of a refund that is processed, or abnormal and handled."""
        assert refund.status in (RefundStatus.PROCESSING, RefundStatus.ABNORMAL)
        self._record(
            Event.REFUND_SETTLED, refund.out_trade_no, refund.out_refund_no, status=status, settled_at_s=at_s,
            event_id=event_id, notified=False,
        )  # fmt: skip

    def refund_notified(self, refund: Refund, event_id: str) -> None:
        """Record that the merchant took the callback of what became of the refund."""
        if self.find_refund(refund.out_refund_no) is refund and refund.event_id == event_id and not refund.notified:
            self._record(Event.REFUND_NOTIFIED, refund.out_trade_no, refund.out_refund_no, notified=True)

    def reset(self) -> None:
        """Forget all; the lines stay in the file."""
        self._record(Event.RESET, "")

    def state_at(self, order: Order, now_s: float) -> TradeState:
        """The state to tell: an unpaid order without an end dies after seven days, a refunded one is called so."""
        dead = order.expires_at_s is None and now_s > order.created_at_s + _DEAD_AFTER_S
        if dead and order.state is TradeState.NOTPAY:
            return TradeState.CLOSED
        return TradeState.REFUND if order.state is TradeState.SUCCESS and order.refunds else order.state

    def payable(self, order: Order, now_s: float) -> bool:
        """Whether the payer can still pay."""
        in_time = order.expires_at_s is None or now_s < order.expires_at_s
        return in_time and self.state_at(order, now_s) in (TradeState.NOTPAY, TradeState.USERPAYING)

    def reserved(self, order: Order) -> int:
        """The sum of the order's refunds that have not failed, in minor units."""
        refunds = (self._refunds[number] for number in order.refunds)
        return sum(refund.amount for refund in refunds if refund.status is not RefundStatus.CLOSED)

    def _record(self, event: Event, out_trade_no: str, out_refund_no: str = "", **changes: object) -> None:
        refund = {"out_refund_no": out_refund_no} if out_refund_no else {}
        self._journal.record({"event": event, "out_trade_no": out_trade_no, **refund, **changes})

    def _apply(self, line: Line) -> None:
        event, number = Event(str(line["event"])), str(line["out_trade_no"])
        match event:
            case Event.RESET:
                for held in (self._orders, self._by_transaction, self._refunds, self._open_refunds):
                    held.clear()
            case Event.REFUND_CREATED | Event.REFUND_SETTLED | Event.REFUND_NOTIFIED:
                self._apply_refund(event, number, line)
            case _:
                self._apply_order(event, number, line)

    def _apply_order(self, event: Event, number: str, line: Line) -> None:
        if event is Event.CREATED:
            fields = line["order"]
            assert isinstance(fields, dict)
            order = self._orders[number] = Order(**fields | {"state": TradeState(fields["state"])})
        else:
            order = self._orders[number]
            _change(order, line)
        if event is Event.PAID:
            self._by_transaction[str(line["transaction_id"])] = number
        elif event is Event.NOTIFIED:
            order.notified = True
        elif event is Event.DECLINED and order.product == "codepay":
            order.state = TradeState.PAYERROR
        order.state = _STATE_AFTER.get(event, order.state)
        order.applied[event] = order.applied.get(event, 0) + 1

    def _apply_refund(self, event: Event, number: str, line: Line) -> None:
        refund_no = str(line["out_refund_no"])
        if event is Event.REFUND_CREATED:
            fields = line["refund"]
            assert isinstance(fields, dict)
            refund = Refund(**fields | {"status": RefundStatus(fields["status"])})
            self._refunds[refund_no] = self._open_refunds[refund_no] = refund
            order = self._orders[number]
            order.refunds.append(refund_no)
            order.last_refund_at_s = refund.created_at_s
        else:
            refund = self._refunds[refund_no]
            _change(refund, line)
            refund.status = RefundStatus(refund.status)
        if event is Event.REFUND_SETTLED:
            self._open_refunds.pop(refund_no, None)
        refund.applied[event] = refund.applied.get(event, 0) + 1


def _change(target: Order | Refund, line: Line) -> None:
    for name in line.keys() - _NO_FIELDS:
        setattr(target, name, line[name])
