"""The channel's own append-only ledger: one JSON line an event, written before anything is answered."""

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

_DEAD_AFTER_S = 7 * 24 * 3600


class TradeState(StrEnum):
    """The states that a Native order of this channel can have."""

    NOTPAY = "NOTPAY"
    SUCCESS = "SUCCESS"
    CLOSED = "CLOSED"


class Event(StrEnum):
    """What a line of the ledger tells."""

    CREATED = "created"
    PAID = "paid"
    DECLINED = "declined"
    EXPIRED = "expired"
    CLOSED = "closed"
    NOTIFIED = "notified"
    RESET = "reset"


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
    state: TradeState = TradeState.NOTPAY
    transaction_id: str = ""
    event_id: str = ""
    openid: str = ""
    paid_at_s: float = 0.0
    paid_total: int = 0
    paid_currency: str = ""
    closed_at_s: float = 0.0
    notified: bool = False
    applied: dict[str, int] = field(default_factory=dict)


class LedgerInUseError(Exception):
    """Another process writes this ledger."""


class Ledger:
    """All orders of the channel; every change is a line of the file first."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and replay it.

        A line torn by a crash was never answered for, and is cut off. Raises LedgerInUseError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise LedgerInUseError(str(path)) from error
        self._orders: dict[str, Order] = {}
        self._by_transaction: dict[str, str] = {}
        self._replay(path)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[Order]:
        return iter(self._orders.values())

    def find(self, out_trade_no: str) -> Order | None:
        """The order of this number, if there is one."""
        return self._orders.get(out_trade_no)

    def find_transaction(self, transaction_id: str) -> Order | None:
        """The paid order of this transaction, if there is one."""
        return self._orders.get(self._by_transaction.get(transaction_id, ""))

    def create(self, order: Order) -> Order:
        """Add an order; its number must be new."""
        assert order.out_trade_no not in self._orders
        self._record(Event.CREATED, order.out_trade_no, order=asdict(order))
        return self._orders[order.out_trade_no]

    def pay(self, order: Order, *, transaction_id: str, event_id: str, openid: str,
            paid_at_s: float, total: int, currency: str) -> None:  # fmt: skip
        """Record that the payer paid; the order must be open."""
        assert order.state is TradeState.NOTPAY
        self._record(
            Event.PAID, order.out_trade_no, transaction_id=transaction_id, event_id=event_id, openid=openid,
            paid_at_s=paid_at_s, paid_total=total, paid_currency=currency,
        )  # fmt: skip

    def decline(self, order: Order) -> None:
        """Record that the payer's payment failed; a Native order stays open."""
        self._record(Event.DECLINED, order.out_trade_no)

    def expire(self, order: Order, at_s: float) -> None:
        """Move the end of payment to now; this is not a close."""
        self._record(Event.EXPIRED, order.out_trade_no, expires_at_s=at_s)

    def shut(self, order: Order, at_s: float) -> None:
        """Record the close; the order must be open."""
        assert order.state is TradeState.NOTPAY
        self._record(Event.CLOSED, order.out_trade_no, closed_at_s=at_s)

    def notified(self, order: Order) -> None:
        """Record that the merchant took the callback, so that a restart does not send it again."""
        # A reset may have come while the merchant answered.
        if self.find(order.out_trade_no) is order and not order.notified:
            self._record(Event.NOTIFIED, order.out_trade_no)

    def reset(self) -> None:
        """Forget all orders; the lines stay in the file."""
        self._record(Event.RESET, "")

    def state_at(self, order: Order, now_s: float) -> TradeState:
        """The state to tell: an unpaid order without an end dies after seven days."""
        dead = order.expires_at_s is None and now_s > order.created_at_s + _DEAD_AFTER_S
        return TradeState.CLOSED if dead and order.state is TradeState.NOTPAY else order.state

    def payable(self, order: Order, now_s: float) -> bool:
        """Whether the payer can still pay."""
        in_time = order.expires_at_s is None or now_s < order.expires_at_s
        return in_time and self.state_at(order, now_s) is TradeState.NOTPAY

    def _record(self, event: Event, out_trade_no: str, **changes: object) -> None:
        line = {"event": event, "out_trade_no": out_trade_no, **changes}
        written = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if os.write(self._file, written) != len(written):
            raise OSError("the ledger could not be written in one piece")
        self._apply(line)

    def _replay(self, path: Path) -> None:
        good = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._apply(json.loads(line))
                good += len(line)
        os.ftruncate(self._file, good)

    def _apply(self, line: dict[str, object]) -> None:
        event, number = Event(str(line["event"])), str(line["out_trade_no"])
        if event is Event.RESET:
            self._orders.clear()
            self._by_transaction.clear()
            return
        if event is Event.CREATED:
            fields = line["order"]
            assert isinstance(fields, dict)
            order = self._orders[number] = Order(**fields | {"state": TradeState(fields["state"])})
        else:
            order = self._orders[number]
            for name in line.keys() - {"event", "out_trade_no"}:
                setattr(order, name, line[name])
        if event is Event.PAID:
            order.state = TradeState.SUCCESS
            self._by_transaction[order.transaction_id] = number
        elif event is Event.CLOSED:
            order.state = TradeState.CLOSED
        elif event is Event.NOTIFIED:
            order.notified = True
        order.applied[event] = order.applied.get(event, 0) + 1
