"""The channel's own ledger of offers, trades, refunds and notices; every change is a line of its journal first."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from defray_sandbox.simulators.journal import Journal, Line


class TradeStatus(StrEnum):
    """The states of a trade."""

    WAIT_BUYER_PAY = "WAIT_BUYER_PAY"
    TRADE_SUCCESS = "TRADE_SUCCESS"
    TRADE_FINISHED = "TRADE_FINISHED"
    TRADE_CLOSED = "TRADE_CLOSED"


class RefundStatus(StrEnum):
    """The states of a refund; the channel tells only the second one."""

    ACCEPTED = "ACCEPTED"
    SUCCESS = "REFUND_SUCCESS"
    FAILED = "FAILED"


class Event(StrEnum):
    """What a line of the ledger tells."""

    OFFERED = "offered"
    CREATED = "created"
    PAID = "paid"
    DECLINED = "declined"
    EXPIRED = "expired"
    CLOSED = "closed"
    FINISHED = "finished"
    REFUND_ACCEPTED = "refund_accepted"
    REFUND_SETTLED = "refund_settled"
    NOTICE_MADE = "notice_made"
    NOTICE_TAKEN = "notice_taken"
    RESET = "reset"


@dataclass(slots=True, kw_only=True)
class Offer:
    """A QR code that was made and may never have been opened: no trade yet. `total` in fen, times in unix seconds."""

    out_trade_no: str
    qr_code: str
    total: int
    subject: str
    notify_url: str
    expires_at_s: float
    fields: dict[str, object]


@dataclass(slots=True, kw_only=True)
class Trade:
    """One trade as the channel knows it; amounts in fen, times in unix seconds of business time."""

    out_trade_no: str
    trade_no: str
    product: str
    total: int
    subject: str
    notify_url: str
    return_url: str
    created_at_s: float
    expires_at_s: float
    fields: dict[str, object]
    buyer_id: str
    status: TradeStatus = TradeStatus.WAIT_BUYER_PAY
    paid_at_s: float = 0.0
    paid_total: int = 0
    closed_at_s: float = 0.0
    is_cancelled: bool = False
    refunded: int = 0
    refunds: list[str] = field(default_factory=list)
    last_refund_at_s: float = 0.0
    applied: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Refund:
    """One refund; `outcome` is what it will become at `due_at_s`, None = it waits to be settled by hand."""

    out_request_no: str
    out_trade_no: str
    amount: int
    created_at_s: float
    outcome: str | None
    due_at_s: float
    status: RefundStatus = RefundStatus.ACCEPTED
    settled_at_s: float = 0.0
    applied: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A refund's number is unique within its trade."""
        return f"{self.out_trade_no}/{self.out_request_no}"


@dataclass(slots=True, kw_only=True)
class Notification:
    """One notification with what it tells, all of its deliveries alike; `about` says of what."""

    notify_id: str
    out_trade_no: str
    out_request_no: str
    about: str
    parameters: dict[str, str]
    taken: bool = False


class Ledger:
    """All that the channel knows."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and replay it. Raises LedgerInUseError."""
        self._offers: dict[str, Offer] = {}
        self._by_code: dict[str, str] = {}
        self._trades: dict[str, Trade] = {}
        self._by_trade_no: dict[str, str] = {}
        self._waiting: dict[str, Trade] = {}
        self._refunds: dict[str, Refund] = {}
        self._open_refunds: dict[str, Refund] = {}
        self._notices: dict[str, Notification] = {}
        self._journal = Journal(path, self._apply)

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()

    def __len__(self) -> int:
        return len(self._trades) + len(self._offers)

    def trades(self) -> Iterator[Trade]:
        """All trades in the order of their creation."""
        return iter(self._trades.values())

    def refunds(self) -> Iterator[Refund]:
        """All refunds in the order of their acceptance."""
        return iter(self._refunds.values())

    def notices(self) -> Iterator[Notification]:
        """All notifications in the order of their making."""
        return iter(self._notices.values())

    def offers_made(self) -> int:
        """How many QR codes were made."""
        return len(self._offers)

    def offer(self, out_trade_no: str) -> Offer | None:
        """The QR code that was made for this number, if there is one."""
        return self._offers.get(out_trade_no)

    def offer_of(self, qr_code: str) -> Offer | None:
        """The offer behind a QR code, if there is one."""
        return self._offers.get(self._by_code.get(qr_code, ""))

    def find(self, out_trade_no: str) -> Trade | None:
        """The trade of this number, if the payer has opened it."""
        return self._trades.get(out_trade_no)

    def find_trade_no(self, trade_no: str) -> Trade | None:
        """The trade with the channel's own number, if there is one."""
        return self._trades.get(self._by_trade_no.get(trade_no, ""))

    def find_refund(self, out_trade_no: str, out_request_no: str) -> Refund | None:
        """The refund of this trade with this number, if there is one."""
        return self._refunds.get(f"{out_trade_no}/{out_request_no}")

    def find_notice(self, notify_id: str) -> Notification | None:
        """The notification with this id, if there is one."""
        return self._notices.get(notify_id)

    def latest_notice(self, out_trade_no: str, out_request_no: str) -> Notification | None:
        """The last notification about a trade, or about one of its refunds if its number is given."""
        found = [
            notice
            for notice in self._notices.values()
            if notice.out_trade_no == out_trade_no and notice.out_request_no == out_request_no
        ]
        return found[-1] if found else None

    def overdue_trades(self, now_s: float) -> list[Trade]:
        """The trades whose time to be paid is over."""
        return [trade for trade in self._waiting.values() if trade.expires_at_s <= now_s]

    def due_refunds(self, now_s: float) -> list[Refund]:
        """The refunds whose planned outcome has come."""
        return [
            refund for refund in self._open_refunds.values() if refund.outcome is not None and refund.due_at_s <= now_s
        ]

    def reserved(self, trade: Trade) -> int:
        """The sum of the trade's refunds that have not failed, in fen."""
        refunds = (self._refunds[f"{trade.out_trade_no}/{number}"] for number in trade.refunds)
        return sum(refund.amount for refund in refunds if refund.status is not RefundStatus.FAILED)

    def add_offer(self, offer: Offer) -> None:
        """Keep a QR code; a later one for the same number takes its place."""
        self._journal.record({"event": Event.OFFERED, "number": offer.out_trade_no, "held": asdict(offer)})

    def create(self, trade: Trade) -> Trade:
        """Add a trade; its number must be new."""
        assert trade.out_trade_no not in self._trades
        self._journal.record({"event": Event.CREATED, "number": trade.out_trade_no, "held": asdict(trade)})
        return self._trades[trade.out_trade_no]

    def pay(self, trade: Trade, *, paid_at_s: float, total: int) -> None:
        """Record that the payer paid; the trade must be open, or closed when money comes late."""
        assert trade.status in {TradeStatus.WAIT_BUYER_PAY, TradeStatus.TRADE_CLOSED}
        assert not trade.paid_at_s
        changes = {"paid_at_s": paid_at_s, "paid_total": total, "status": TradeStatus.TRADE_SUCCESS}
        self._change(Event.PAID, trade.out_trade_no, **changes)

    def decline(self, trade: Trade) -> None:
        """Record that the payer's payment failed; the trade stays open."""
        self._change(Event.DECLINED, trade.out_trade_no)

    def expire(self, trade: Trade, at_s: float) -> None:
        """Move the end of payment to now."""
        self._change(Event.EXPIRED, trade.out_trade_no, expires_at_s=at_s)

    def shut(self, trade: Trade, at_s: float, *, is_cancelled: bool = False) -> None:
        """Record that an open trade was closed, or cancelled."""
        assert trade.status is TradeStatus.WAIT_BUYER_PAY
        changes = {"status": TradeStatus.TRADE_CLOSED, "closed_at_s": at_s, "is_cancelled": is_cancelled}
        self._change(Event.CLOSED, trade.out_trade_no, **changes)

    def finish(self, trade: Trade) -> None:
        """Record that the time for refunds is over."""
        assert trade.status is TradeStatus.TRADE_SUCCESS
        self._change(Event.FINISHED, trade.out_trade_no, status=TradeStatus.TRADE_FINISHED)

    def accept_refund(self, refund: Refund) -> Refund:
        """Add a refund; its number must be new for its trade."""
        assert refund.key not in self._refunds
        self._journal.record({"event": Event.REFUND_ACCEPTED, "number": refund.key, "held": asdict(refund)})
        return self._refunds[refund.key]

    def settle(self, refund: Refund, status: RefundStatus, at_s: float) -> None:
        """Record what became of an accepted refund; the whole given back closes the trade."""
        assert refund.status is RefundStatus.ACCEPTED
        self._change(Event.REFUND_SETTLED, refund.key, status=status, settled_at_s=at_s)

    def add_notice(self, notice: Notification) -> None:
        """Keep a notification, so that a restart does not lose it."""
        self._journal.record({"event": Event.NOTICE_MADE, "number": notice.notify_id, "held": asdict(notice)})

    def notice_taken(self, notice: Notification) -> None:
        """Record that the merchant took the notification, so that a restart does not send it again."""
        # A reset may have come while the merchant answered.
        if self.find_notice(notice.notify_id) is notice and not notice.taken:
            self._change(Event.NOTICE_TAKEN, notice.notify_id, taken=True)

    def reset(self) -> None:
        """Forget all; the lines stay in the file."""
        self._journal.record({"event": Event.RESET, "number": ""})

    def _change(self, event: Event, number: str, **changes: object) -> None:
        self._journal.record({"event": event, "number": number, "changes": changes})

    def _apply(self, line: Line) -> None:
        event, number = Event(str(line["event"])), str(line["number"])
        held, changes = line.get("held", {}), line.get("changes", {})
        assert isinstance(held, dict)
        assert isinstance(changes, dict)
        match event:
            case Event.RESET:
                self._forget()
            case Event.OFFERED:
                self._offers[number] = Offer(**held)
                self._by_code[str(held["qr_code"])] = number
            case Event.NOTICE_MADE:
                self._notices[number] = Notification(**held)
            case Event.NOTICE_TAKEN:
                self._notices[number].taken = True
            case Event.REFUND_ACCEPTED | Event.REFUND_SETTLED:
                self._apply_refund(event, number, held, changes)
            case _:
                self._apply_trade(event, number, held, changes)

    def _forget(self) -> None:
        self._offers.clear()
        self._by_code.clear()
        self._trades.clear()
        self._by_trade_no.clear()
        self._waiting.clear()
        self._refunds.clear()
        self._open_refunds.clear()
        self._notices.clear()

    def _apply_trade(self, event: Event, number: str, held: Line, changes: Line) -> None:
        if event is Event.CREATED:
            trade = Trade(**held)  # type: ignore[arg-type]  # The line was made from the same class.
            self._trades[number] = trade
            self._by_trade_no[trade.trade_no] = number
        else:
            trade = self._trades[number]
            for name, value in changes.items():
                setattr(trade, name, value)
        trade.status = TradeStatus(trade.status)
        if trade.status is TradeStatus.WAIT_BUYER_PAY:
            self._waiting[number] = trade
        else:
            self._waiting.pop(number, None)
        trade.applied[event] = trade.applied.get(event, 0) + 1

    def _apply_refund(self, event: Event, key: str, held: Line, changes: Line) -> None:
        if event is Event.REFUND_ACCEPTED:
            refund = Refund(**held)  # type: ignore[arg-type]  # The line was made from the same class.
            self._refunds[key] = self._open_refunds[key] = refund
            trade = self._trades[refund.out_trade_no]
            trade.refunds.append(refund.out_request_no)
            trade.last_refund_at_s = refund.created_at_s
        else:
            refund = self._refunds[key]
            for name, value in changes.items():
                setattr(refund, name, value)
            self._open_refunds.pop(key, None)
        refund.status = RefundStatus(refund.status)
        if event is Event.REFUND_SETTLED and refund.status is RefundStatus.SUCCESS:
            trade = self._trades[refund.out_trade_no]
            trade.refunded += refund.amount
            if trade.refunded >= trade.paid_total:
                trade.status = TradeStatus.TRADE_CLOSED
                trade.closed_at_s = refund.settled_at_s
        refund.applied[event] = refund.applied.get(event, 0) + 1
