"""What the channel tells about orders and refunds, and the callbacks that carry it sealed and signed."""

import base64
import json
import secrets
from collections.abc import Mapping
from enum import StrEnum

from defray_sandbox.simulators.clock import beijing
from defray_sandbox.simulators.courier import Notice
from defray_sandbox.simulators.wechat.keys import ChannelKeys, PlatformKey
from defray_sandbox.simulators.wechat.ledger import Order, Refund, RefundStatus, TradeState
from defray_sandbox.simulators.wechat.signing import SKEW_S_MAX, seal, signed_headers


class CallbackKind(StrEnum):
    """What is sent; all but the first must be refused by a careful merchant, except SECOND_GENERATION in an overlap."""

    GENUINE = "genuine"
    SECOND_GENERATION = "second_generation"
    TAMPERED = "tampered"
    PROBE = "probe"
    FORGED_KEY = "forged_key"
    UNKNOWN_SERIAL = "unknown_serial"
    STALE = "stale"
    FUTURE = "future"
    NO_SIGNATURE = "no_signature"
    WRONG_APIV3_KEY = "wrong_apiv3_key"


_DESCRIPTIONS = {
    TradeState.SUCCESS: "支付成功",
    TradeState.REFUND: "订单发生过退款",
    TradeState.NOTPAY: "订单未支付",
    TradeState.CLOSED: "订单已关闭",
    TradeState.REVOKED: "订单已撤销",
    TradeState.USERPAYING: "需要用户输入支付密码",
    TradeState.PAYERROR: "支付失败",
}
_TRADE_TYPES = {"native": "NATIVE", "jsapi": "JSAPI", "h5": "MWEB", "app": "APP", "codepay": "MICROPAY"}
_PAID = (TradeState.SUCCESS, TradeState.REFUND)
_REFUND_SUMMARIES = {
    RefundStatus.SUCCESS: "退款成功",
    RefundStatus.ABNORMAL: "退款异常",
    RefundStatus.CLOSED: "退款关闭",
}
_SIGNATURE_BYTES = 256
_UNKNOWN_SERIALS = {True: "PUB_KEY_ID_9900000000000000000000000000", False: "7E" * 20}


def to_text(unix_s: float) -> str:
    """The channel writes its times in Beijing time, RFC 3339, whole seconds."""
    return beijing(unix_s).isoformat()


def transaction(order: Order, state: TradeState) -> dict[str, object]:
    """The channel's description of an order, as queries and callbacks show it; amounts in fen."""
    told: dict[str, object] = {
        "appid": order.fields["appid"],
        "mchid": order.fields["mchid"],
        "out_trade_no": order.out_trade_no,
        "trade_state": state,
        "trade_state_desc": _DESCRIPTIONS[state],
        "attach": order.attach,
        "promotion_detail": [],
    }
    if state in _PAID or order.transaction_id:
        told |= {
            "transaction_id": order.transaction_id,
            "trade_type": _TRADE_TYPES[order.product],
            "bank_type": "OTHERS",
            "success_time": to_text(order.paid_at_s),
            "payer": {"openid": order.openid},
            "amount": {
                "total": order.paid_total,
                "payer_total": order.paid_total,
                "currency": order.paid_currency,
                "payer_currency": order.paid_currency,
            },
        }
    else:
        told |= {"payer": {}, "amount": {"total": order.total, "currency": order.currency}}
    return told


def refund_reply(refund: Refund, order: Order) -> dict[str, object]:
    """The channel's description of a refund, as its creation and queries show it; amounts in fen."""
    told: dict[str, object] = {
        "refund_id": refund.refund_id,
        "out_refund_no": refund.out_refund_no,
        "transaction_id": order.transaction_id,
        "out_trade_no": order.out_trade_no,
        "channel": "ORIGINAL",
        "user_received_account": "支付用户零钱",
        "create_time": to_text(refund.created_at_s),
        "status": refund.status,
        "funds_account": refund.fields.get("funds_account", "UNSETTLED"),
        "amount": {
            "total": order.paid_total,
            "refund": refund.amount,
            "from": [],
            "payer_total": order.paid_total,
            "payer_refund": refund.amount,
            "settlement_refund": refund.amount,
            "settlement_total": order.paid_total,
            "discount_refund": 0,
            "currency": order.paid_currency,
            "refund_fee": 0,
        },
        "promotion_detail": [],
    }
    if refund.status is RefundStatus.SUCCESS:
        told["success_time"] = to_text(refund.settled_at_s)
    return told


def refund_resource(refund: Refund, order: Order) -> dict[str, object]:
    """The same as a callback tells it: other field names than the reply's."""
    told: dict[str, object] = {
        "mchid": order.fields["mchid"],
        "out_trade_no": order.out_trade_no,
        "transaction_id": order.transaction_id,
        "out_refund_no": refund.out_refund_no,
        "refund_id": refund.refund_id,
        "refund_status": refund.status,
        "user_received_account": "支付用户零钱",
        "amount": {
            "total": order.paid_total,
            "refund": refund.amount,
            "payer_total": order.paid_total,
            "payer_refund": refund.amount,
        },
    }
    if refund.status is RefundStatus.SUCCESS:
        told["success_time"] = to_text(refund.settled_at_s)
    return told


def success_body(keys: ChannelKeys, order: Order, overrides: Mapping[str, object], kind: str) -> bytes:
    """The body that tells of a payment; `overrides` replace fields of the sealed transaction (a lying channel)."""
    resource = transaction(order, TradeState.SUCCESS) | dict(overrides)
    return _body(
        keys, kind, order.event_id, order.paid_at_s, ("TRANSACTION.SUCCESS", "支付成功", "transaction", resource)
    )


def refund_body(keys: ChannelKeys, refund: Refund, order: Order, overrides: Mapping[str, object], kind: str) -> bytes:
    """The body that tells what became of a refund; `overrides` as above."""
    resource = refund_resource(refund, order) | dict(overrides)
    summary = _REFUND_SUMMARIES[refund.status]
    content = (f"REFUND.{refund.status}", summary, "refund", resource)
    return _body(keys, kind, refund.event_id, refund.settled_at_s, content)


def sign_notice(
    keys: ChannelKeys, platform: PlatformKey, second: PlatformKey, now_s: int, body: bytes, kind: str
) -> Notice:
    """Sign a callback body in the way its kind asks for; costs a private key operation (0.3 ms)."""
    if kind == CallbackKind.SECOND_GENERATION:
        platform = second
    key, serial, timestamp_s = platform.private, platform.serial, now_s
    if kind in (CallbackKind.FORGED_KEY, CallbackKind.UNKNOWN_SERIAL):
        key = keys.forger
    if kind == CallbackKind.UNKNOWN_SERIAL:
        serial = _UNKNOWN_SERIALS[not platform.certificate]
    if kind == CallbackKind.STALE:
        timestamp_s -= SKEW_S_MAX + 1
    if kind == CallbackKind.FUTURE:
        # Two seconds more: it must still be too early when it arrives.
        timestamp_s += SKEW_S_MAX + 3
    headers = signed_headers(key, serial, timestamp_s, body)
    if kind == CallbackKind.TAMPERED:
        body = body.replace(b'"id":"EV-', b'"id":"EW-', 1)
    if kind == CallbackKind.PROBE:
        noise = base64.b64encode(secrets.token_bytes(_SIGNATURE_BYTES)).decode()
        headers["Wechatpay-Signature"] = f"WECHATPAY/SIGNTEST/{noise}"
    if kind == CallbackKind.NO_SIGNATURE:
        del headers["Wechatpay-Signature"]
    headers |= {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "Mozilla/4.0"}
    return Notice(headers=headers, body=body)


def _body(keys: ChannelKeys, kind: str, event_id: str, created_at_s: float,
          content: tuple[str, str, str, Mapping[str, object]]) -> bytes:  # fmt: skip
    event_type, summary, original_type, resource = content
    apiv3_key = secrets.token_bytes(32) if kind == CallbackKind.WRONG_APIV3_KEY else keys.apiv3_key
    body = {
        "id": event_id,
        "create_time": to_text(created_at_s),
        "resource_type": "encrypt-resource",
        "event_type": event_type,
        "summary": summary,
        "resource": seal(apiv3_key, resource, original_type),
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
