"""What the channel tells about trades and refunds: reply nodes, and the notifications it posts as signed forms."""

import json
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import quote_plus, urlencode

from defray_sandbox.simulators.alipay.amounts import to_text
from defray_sandbox.simulators.alipay.keys import AlipayKey, ChannelKeys
from defray_sandbox.simulators.alipay.ledger import Refund, RefundStatus, Trade, TradeStatus
from defray_sandbox.simulators.alipay.signing import notice_content, sign
from defray_sandbox.simulators.clock import beijing
from defray_sandbox.simulators.courier import Notice

_STALE_S = 26 * 3600
_PAID = (TradeStatus.TRADE_SUCCESS, TradeStatus.TRADE_FINISHED)


class CallbackKind(StrEnum):
    """What is sent; a careful merchant takes the first and BLANK_FIELD, SECOND_GENERATION in an overlap, no other."""

    GENUINE = "genuine"
    SECOND_GENERATION = "second_generation"
    BLANK_FIELD = "blank_field"
    TAMPERED = "tampered"
    FORGED_KEY = "forged_key"
    STALE = "stale"
    FUTURE = "future"
    NO_SIGNATURE = "no_signature"
    SHA1 = "sha1"
    WRONG_SIGN_TYPE = "wrong_sign_type"
    REPEATED_FIELD = "repeated_field"


def time_text(unix_s: float) -> str:
    """The channel writes its times in Beijing time, without a zone."""
    return beijing(unix_s).strftime("%Y-%m-%d %H:%M:%S")


def buyer_fields(trade: Trade) -> dict[str, object]:
    """Who paid, as replies tell it."""
    return {"buyer_logon_id": "159****5620", "buyer_user_id": trade.buyer_id}


def trade_node(trade: Trade) -> dict[str, object]:
    """The description of a trade, as queries show it; amounts in yuan."""
    paid = trade.paid_total if trade.paid_at_s else 0
    node: dict[str, object] = {
        **buyer_fields(trade),
        "buyer_pay_amount": to_text(paid),
        "invoice_amount": to_text(paid),
        "out_trade_no": trade.out_trade_no,
        "point_amount": "0.00",
        "receipt_amount": to_text(paid),
        "total_amount": to_text(trade.paid_total if trade.paid_at_s else trade.total),
        "trade_no": trade.trade_no,
        "trade_status": trade.status,
    }
    if trade.paid_at_s:
        node |= {
            "send_pay_date": time_text(trade.paid_at_s),
            "fund_bill_list": [{"amount": to_text(paid), "fund_channel": "ALIPAYACCOUNT"}],
        }
    return node


def pay_node(trade: Trade) -> dict[str, object]:
    """The description of a trade that a scanned code paid at once."""
    paid = to_text(trade.paid_total)
    return {
        **buyer_fields(trade),
        "buyer_pay_amount": paid,
        "fund_bill_list": [{"amount": paid, "fund_channel": "ALIPAYACCOUNT"}],
        "gmt_payment": time_text(trade.paid_at_s),
        "invoice_amount": paid,
        "out_trade_no": trade.out_trade_no,
        "point_amount": "0.00",
        "receipt_amount": paid,
        "total_amount": paid,
        "trade_no": trade.trade_no,
    }


def refund_node(trade: Trade, refund: Refund, *, moved: bool) -> dict[str, object]:
    """The answer to a refund: `refund_fee` is all that went back so far, `moved` whether this request moved money."""
    return {
        **buyer_fields(trade),
        "fund_change": "Y" if moved else "N",
        "gmt_refund_pay": time_text(refund.settled_at_s or refund.created_at_s),
        "out_trade_no": trade.out_trade_no,
        "refund_fee": to_text(trade.refunded),
        "send_back_fee": to_text(refund.amount if moved else 0),
        "trade_no": trade.trade_no,
    }


def refund_query_node(trade: Trade, refund: Refund | None, *, with_time: bool) -> dict[str, object]:
    """The answer to a refund query; it tells nothing of a refund that has not succeeded."""
    if refund is None or refund.status is not RefundStatus.SUCCESS:
        return {}
    node: dict[str, object] = {
        "out_request_no": refund.out_request_no,
        "out_trade_no": trade.out_trade_no,
        "refund_amount": to_text(refund.amount),
        "refund_status": refund.status,
        "total_amount": to_text(trade.paid_total),
        "trade_no": trade.trade_no,
    }
    return node | ({"gmt_refund_pay": time_text(refund.settled_at_s)} if with_time else {})


def notice_parameters(trade: Trade, *, app_id: str, seller_id: str, refund: Refund | None = None) -> dict[str, str]:
    """What a notification tells, all but its time, its id and its signature; `refund` makes it a refund notice."""
    paid = to_text(trade.paid_total if trade.paid_at_s else 0)
    told = {
        "app_id": app_id,
        "auth_app_id": app_id,
        "buyer_id": trade.buyer_id,
        "buyer_logon_id": "159****5620",
        "buyer_pay_amount": paid,
        "charset": "utf-8",
        "gmt_create": time_text(trade.created_at_s),
        "invoice_amount": paid,
        "notify_type": "trade_status_sync",
        "out_trade_no": trade.out_trade_no,
        "point_amount": "0.00",
        "receipt_amount": paid,
        "seller_email": "seller@sandbox.invalid",
        "seller_id": seller_id,
        "sign_type": "RSA2",
        "subject": trade.subject,
        "total_amount": to_text(trade.paid_total if trade.paid_at_s else trade.total),
        "trade_no": trade.trade_no,
        "trade_status": trade.status,
        "version": "1.0",
    }
    for name in ("body", "passback_params"):
        if name in trade.fields:
            told[name] = str(trade.fields[name])
    if trade.paid_at_s:
        told["gmt_payment"] = time_text(trade.paid_at_s)
        channels = [{"amount": paid, "fundChannel": "ALIPAYACCOUNT"}]
        told["fund_bill_list"] = json.dumps(channels, separators=(",", ":"))
    if refund is not None:
        told["refund_fee"] = to_text(trade.refunded)
        told["gmt_refund"] = f"{time_text(refund.settled_at_s)}.000"
        told["out_biz_no"] = refund.out_request_no
    if trade.status is TradeStatus.TRADE_CLOSED:
        told["gmt_close"] = time_text(trade.closed_at_s)
    return told


def sign_notice(
    keys: ChannelKeys, generation: AlipayKey, now_s: int, parameters: Mapping[str, str], kind: str
) -> Notice:
    """Sign a notification in the way its kind asks for; costs a private key operation (0.3 ms)."""
    offset_s = {CallbackKind.STALE: -_STALE_S, CallbackKind.FUTURE: _STALE_S}.get(CallbackKind(kind), 0)
    told = {**parameters, "notify_time": time_text(now_s + offset_s)}
    if kind == CallbackKind.BLANK_FIELD:
        told["discount_info"] = ""
    if kind == CallbackKind.WRONG_SIGN_TYPE:
        told["sign_type"] = "RSA"
    if kind == CallbackKind.SECOND_GENERATION:
        generation = keys.generations[-1]
    key = keys.forger if kind == CallbackKind.FORGED_KEY else generation.private
    told["sign"] = sign(key, notice_content(told), weak=kind in (CallbackKind.SHA1, CallbackKind.WRONG_SIGN_TYPE))
    if kind == CallbackKind.TAMPERED:
        told["trade_no"] = told["trade_no"][:-1] + ("1" if told["trade_no"][-1] != "1" else "2")
    if kind == CallbackKind.NO_SIGNATURE:
        del told["sign"]
    body = urlencode(told)
    if kind == CallbackKind.REPEATED_FIELD:
        body += f"&out_trade_no={quote_plus(told['out_trade_no'])}"
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "User-Agent": "Mozilla/4.0"}
    return Notice(headers=headers, body=body.encode())


def is_paid(trade: Trade) -> bool:
    """Whether the trade was paid and can have refunds."""
    return trade.status in _PAID
