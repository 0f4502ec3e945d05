"""Alipay's parameters, response nodes and notices to our types and back; pure. What is not signed decides nothing."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from defray_payment.channels.alipay import signing
from defray_payment.channels.alipay.money import fen, yuan
from defray_payment.channels.spi import (
    PROTOCOL,
    CreatePayment,
    NextAction,
    Notice,
    PaymentView,
    RefundCall,
    RefundView,
    Trouble,
    Unverified,
)
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import ChannelAccount, RefundReport, Report

CHANNEL: Final = "alipay"
CURRENCY: Final = "CNY"
SUCCESS: Final = "10000"
WAITING: Final = "10003"
_QR_LIVES: Final = dt.timedelta(hours=2)
_EXPIRE_AHEAD_MIN: Final = dt.timedelta(seconds=90)
_NOTICE_PAST_MAX: Final = dt.timedelta(hours=25, minutes=30)  # its tries go on for 25 hours
_NOTICE_AHEAD_MAX: Final = dt.timedelta(seconds=300)
_BEIJING: Final = dt.timezone(dt.timedelta(hours=8))
_NUMBER: Final = re.compile(r"[0-9A-Za-z_\-]{1,64}", re.ASCII)
_PLAIN: Final = re.compile(r"[!-~]{1,64}", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,3})?", re.ASCII)
METHODS: Final = {
    "page": "alipay.trade.page.pay",
    "wap": "alipay.trade.wap.pay",
    "app": "alipay.trade.app.pay",
    "precreate": "alipay.trade.precreate",
    "pay": "alipay.trade.pay",
    "create": "alipay.trade.create",
}
_PRODUCT_CODES: Final = {
    "page": "FAST_INSTANT_TRADE_PAY",
    "wap": "QUICK_WAP_WAY",
    "app": "QUICK_MSECURITY_PAY",
    "pay": "FACE_TO_FACE_PAYMENT",
    "create": "JSAPI_PAY",
}
_STATES: Final = {
    "WAIT_BUYER_PAY": Report.OPENED,
    "TRADE_SUCCESS": Report.PAID,
    "TRADE_FINISHED": Report.PAID,  # paid, and the time for refunds is over
    "TRADE_CLOSED": Report.CLOSED,  # unless it was paid before: see `_report`
}


class Node(msgspec.Struct, frozen=True):
    """What is read of a response node; all amounts are texts in yuan."""

    code: str
    sub_code: str | None = None
    out_trade_no: str | None = None
    trade_no: str | None = None
    trade_status: str | None = None
    total_amount: str | None = None
    trans_currency: str | None = None
    send_pay_date: str | None = None
    gmt_payment: str | None = None
    qr_code: str | None = None
    action: str | None = None
    retry_flag: str | None = None
    fund_change: str | None = None
    gmt_refund_pay: str | None = None
    out_request_no: str | None = None
    refund_status: str | None = None
    refund_amount: str | None = None
    alipay_cert_content: str | None = None


_node = msgspec.json.Decoder(Node).decode


def read_node(text: str) -> Node | None:
    """A response node; None when it does not read."""
    try:
        return _node(text)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return None


def creation(request: CreatePayment, account: ChannelAccount, notify_url: str, now: dt.datetime) -> dict[str, object]:
    """The biz_content that opens a trade; `now` is business time."""
    told: dict[str, object] = {
        "out_trade_no": request.attempt_no,
        "total_amount": yuan(request.amount.minor),
        "subject": request.description,
        "time_expire": time_text(_ends(request, now)),
    }
    if request.product in _PRODUCT_CODES:
        told["product_code"] = _PRODUCT_CODES[request.product]
    match request.product:
        case "wap":
            told["quit_url"] = request.return_url or notify_url
        case "pay":
            told |= {"auth_code": request.payer.auth_code, "scene": "bar_code"}
        case "create":
            told |= {"buyer_id": request.payer.payer_id, "op_app_id": account.app_ref}
        case _:
            pass
    return told


def refund(request: RefundCall) -> dict[str, object]:
    """The biz_content that asks for a refund."""
    return {
        "out_trade_no": request.attempt_no,
        "trade_no": request.channel_txn_id,
        "refund_amount": yuan(request.amount.minor),
        "out_request_no": request.refund_no,
        "refund_reason": request.reason,
    }


def link_action(request: CreatePayment, signed: str, gateway: str, now: dt.datetime) -> PaymentView:
    """What the payer opens: a signed address, or for an app the order string; the channel knows nothing of it yet."""
    if request.product == "app":
        action = NextAction(type="app_sdk", data={"order_string": signed}, expires_at=_ends(request, now))
    else:
        action = NextAction(type="redirect", data={"url": f"{gateway}?{signed}"}, expires_at=_ends(request, now))
    return PaymentView(attempt_no=request.attempt_no, report=Report.OPENED, action=action)


def created(request: CreatePayment, node: Node, account: ChannelAccount, now: dt.datetime) -> PaymentView | Trouble:
    """A verified and successful answer to precreate, pay or create."""
    if node.out_trade_no != request.attempt_no:
        return PROTOCOL
    ends = _ends(request, now)
    match request.product:
        case "precreate" if node.qr_code and node.qr_code.startswith("https://"):
            action = NextAction(type="qr", data={"code_url": node.qr_code}, expires_at=min(ends, now + _QR_LIVES))
        case "create" if _plain(node.trade_no) not in {None, "?"}:
            action = NextAction(type="jsapi", data={"trade_no": str(node.trade_no)}, expires_at=ends)
        case "pay" if node.code == WAITING:
            action = NextAction(type="none", data={}, expires_at=ends)
        case "pay":
            return _view(node, account, Report.PAID, native_state="TRADE_SUCCESS")
        case _:
            return PROTOCOL
    return PaymentView(attempt_no=request.attempt_no, report=Report.OPENED, action=action)


def queried(node: Node, attempt_no: str, account: ChannelAccount) -> PaymentView | Trouble:
    """A verified and successful answer to a query."""
    if node.out_trade_no != attempt_no:
        return PROTOCOL
    state = node.trade_status or ""
    report = _report(state, was_paid=bool(node.send_pay_date))
    return _view(node, account, report, native_state=_plain(state) or "ABSENT")


def refunded(request: RefundCall, node: Node, account: ChannelAccount) -> RefundView | Trouble:
    """A verified and successful answer to a refund: only `fund_change=Y` says that money moved, and `refund_fee` is
    cumulative, so the amount is the one that the signed request named.
    """
    if node.out_trade_no != request.attempt_no:
        return PROTOCOL
    done = node.fund_change == "Y"
    return RefundView(
        report=RefundReport.SUCCEEDED if done else RefundReport.PROCESSING,
        refund_no=request.refund_no,
        attempt_no=request.attempt_no,
        amount_minor=request.amount.minor,
        currency=request.amount.currency,
        done_at=_time(node.gmt_refund_pay) if done else None,
        native_state=f"fund_change={'Y' if done else 'N'}",
        merchant_ref=account.merchant_ref,
        app_ref=account.app_ref,
    )


def refund_queried(node: Node, refund_no: str, attempt_no: str, account: ChannelAccount) -> RefundView | Trouble | None:
    """A verified and successful answer to a refund query; None: it tells of none, so there is none or not yet."""
    if node.out_request_no is None and node.refund_status is None:
        return None
    if (node.out_request_no, node.out_trade_no) != (refund_no, attempt_no):
        return PROTOCOL
    done = node.refund_status == "REFUND_SUCCESS"
    return RefundView(
        report=RefundReport.SUCCEEDED if done else RefundReport.PROCESSING,
        refund_no=refund_no,
        attempt_no=attempt_no,
        amount_minor=fen(node.refund_amount),
        currency=CURRENCY,
        done_at=_time(node.gmt_refund_pay) if done else None,
        native_state=_plain(node.refund_status) or "ABSENT",
        merchant_ref=account.merchant_ref,
        app_ref=account.app_ref,
    )


def read_notice(parameters: Mapping[str, str], now: dt.datetime) -> Notice | Unverified:
    """What a notice tells whose signature is good; `now` is real time. What does not read is a case, not a refusal."""
    sent_at = _time(parameters.get("notify_time"))
    if sent_at is None:
        return Unverified(reason="timestamp_form")
    if not now - _NOTICE_PAST_MAX <= sent_at <= now + _NOTICE_AHEAD_MAX:
        return Unverified(reason="stale")
    # All tries of one notice tell the same but their own time.
    content = signing.notice_content(parameters, without=frozenset({"notify_time"}))
    notify_id = parameters.get("notify_id", "")
    if _PLAIN.fullmatch(notify_id) is None:
        notify_id = "sha256:" + hashlib.sha256(notify_id.encode("utf-8", "surrogatepass") or content).hexdigest()
    digest = hashlib.sha256(content).digest()
    if "msg_method" in parameters or "trade_status" not in parameters:
        return Notice(callback_id=notify_id, digest=digest, view=None, fault=CaseReason.UNSUPPORTED_NOTICE)
    view = _of_notice(parameters)
    fault = CaseReason.UNREADABLE_NOTICE if view is None else None
    return Notice(callback_id=notify_id, digest=digest, view=view, fault=fault)


def _of_notice(parameters: Mapping[str, str]) -> PaymentView | RefundView | None:
    number = parameters.get("out_trade_no", "")
    if _NUMBER.fullmatch(number) is None:
        return None
    state = parameters["trade_status"]
    refund_no = parameters.get("out_biz_no", "")
    about_refund = any(parameters.get(name) for name in ("refund_fee", "gmt_refund", "out_biz_no"))
    if about_refund:
        # What it tells is the sum of all refunds, so it proves none of them: it says that there is something to ask.
        return (
            RefundView(
                report=RefundReport.PROCESSING,
                refund_no=refund_no,
                attempt_no=number,
                currency=CURRENCY,
                native_state=f"{_plain(state)}+refund"[:64],
                merchant_ref=_plain(parameters.get("seller_id")),
                app_ref=_plain(parameters.get("app_id")),
            )
            if _NUMBER.fullmatch(refund_no)
            else None
        )
    return PaymentView(
        attempt_no=number,
        report=_report(state, was_paid=False),
        native_state=_plain(state) or "ABSENT",
        merchant_ref=_plain(parameters.get("seller_id")),
        app_ref=_plain(parameters.get("app_id")),
        amount_minor=fen(parameters.get("total_amount")),
        currency=_plain(parameters.get("trans_currency")) or CURRENCY,
        channel_txn_id=_plain(parameters.get("trade_no")),
        paid_at=_time(parameters.get("gmt_payment")),
    )


def time_text(moment: dt.datetime) -> str:
    """Alipay's times: Beijing, without a zone."""
    return moment.astimezone(_BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def _view(node: Node, account: ChannelAccount, report: Report, *, native_state: str) -> PaymentView:
    # A reply is signed for the app that asked, and names neither app nor seller.
    return PaymentView(
        attempt_no=node.out_trade_no or "",
        report=report,
        native_state=native_state,
        merchant_ref=account.merchant_ref,
        app_ref=account.app_ref,
        amount_minor=fen(node.total_amount),
        currency=_plain(node.trans_currency) or CURRENCY,
        channel_txn_id=_plain(node.trade_no),
        paid_at=_time(node.send_pay_date or node.gmt_payment),
    )


def _report(state: str, *, was_paid: bool) -> Report:
    """A trade that is closed after it was paid has gone back in full, by refunds or by a cancel: no money is kept."""
    if state == "TRADE_CLOSED" and was_paid:
        return Report.RETURNED
    return _STATES.get(state, Report.UNCLEAR)


def _ends(request: CreatePayment, now: dt.datetime) -> dt.datetime:
    return max(request.expires_at, now + _EXPIRE_AHEAD_MIN)


def _plain(text: str | None) -> str | None:
    if not text:
        return None
    return text if _PLAIN.fullmatch(text) else "?"


def _time(text: str | None) -> dt.datetime | None:
    if _TIME.fullmatch(text or "") is None:
        return None
    try:
        return dt.datetime.fromisoformat(text or "").replace(tzinfo=_BEIJING).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
