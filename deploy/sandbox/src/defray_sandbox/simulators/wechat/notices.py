"""What the channel tells about an order: the transaction, and the callback that carries it sealed and signed."""

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from defray_sandbox.simulators.wechat.clock import to_text
from defray_sandbox.simulators.wechat.faults import CallbackKind
from defray_sandbox.simulators.wechat.keys import ChannelKeys
from defray_sandbox.simulators.wechat.ledger import Order, TradeState
from defray_sandbox.simulators.wechat.signing import SKEW_S_MAX, seal, signed_headers

_DESCRIPTIONS = {TradeState.SUCCESS: "支付成功", TradeState.NOTPAY: "订单未支付", TradeState.CLOSED: "订单已关闭"}
_SIGNATURE_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One callback as it goes over the wire."""

    headers: dict[str, str]
    body: bytes


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
    if state is TradeState.SUCCESS:
        told |= {
            "transaction_id": order.transaction_id,
            "trade_type": "NATIVE",
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


def body_of(apiv3_key: bytes, event_id: str, created_at_s: float, resource: Mapping[str, object]) -> bytes:
    """The body of a TRANSACTION.SUCCESS callback."""
    body = {
        "id": event_id,
        "create_time": to_text(created_at_s),
        "resource_type": "encrypt-resource",
        "event_type": "TRANSACTION.SUCCESS",
        "summary": "支付成功",
        "resource": seal(apiv3_key, resource, "transaction"),
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def success_body(keys: ChannelKeys, order: Order, overrides: Mapping[str, object], kind: CallbackKind) -> bytes:
    """The body that tells of a payment; `overrides` replace fields of the sealed transaction (a lying channel)."""
    apiv3_key = secrets.token_bytes(32) if kind is CallbackKind.WRONG_APIV3_KEY else keys.apiv3_key
    resource = transaction(order, TradeState.SUCCESS) | dict(overrides)
    return body_of(apiv3_key, order.event_id, order.paid_at_s, resource)


def sign_notice(keys: ChannelKeys, generation: int, now_s: int, body: bytes, kind: CallbackKind) -> Notice:
    """Sign a callback body in the way its kind asks for; costs a private key operation (0.3 ms)."""
    platform = keys.generations[-1 if kind is CallbackKind.SECOND_GENERATION else generation]
    key, serial, timestamp_s = platform.private, platform.serial, now_s
    if kind in (CallbackKind.FORGED_KEY, CallbackKind.UNKNOWN_SERIAL):
        key = keys.forger
    if kind is CallbackKind.UNKNOWN_SERIAL:
        serial = "PUB_KEY_ID_9900000000000000000000000000"
    if kind is CallbackKind.STALE:
        timestamp_s -= SKEW_S_MAX + 1
    if kind is CallbackKind.FUTURE:
        # Two seconds more: it must still be too early when it arrives.
        timestamp_s += SKEW_S_MAX + 3
    headers = signed_headers(key, serial, timestamp_s, body)
    if kind is CallbackKind.TAMPERED:
        body = body.replace(b'"id":"EV-', b'"id":"EW-', 1)
    if kind is CallbackKind.PROBE:
        noise = base64.b64encode(secrets.token_bytes(_SIGNATURE_BYTES)).decode()
        headers["Wechatpay-Signature"] = f"WECHATPAY/SIGNTEST/{noise}"
    if kind is CallbackKind.NO_SIGNATURE:
        del headers["Wechatpay-Signature"]
    headers |= {"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "Mozilla/4.0"}
    return Notice(headers=headers, body=body)
