"""What biz_content may hold, method by method, and the rules that need more than a shape."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from defray_sandbox.simulators.alipay.amounts import TOTAL_MAX, to_fen
from defray_sandbox.simulators.alipay.envelope import parse_time
from defray_sandbox.simulators.clock import beijing
from defray_sandbox.simulators.shapes import (
    Integer,
    ListOf,
    OneOf,
    Record,
    Shape,
    ShapeError,
    Text,
    read_object,
)

OUT_TRADE_NO = Text(length_max=64, pattern="[0-9A-Za-z_]+")
OUT_REQUEST_NO = Text(length_max=64, pattern="[0-9A-Za-z_-]+")
_TRADE_NO = Text(length_max=64, pattern="[0-9]+")
_TIMEOUT = re.compile(r"([1-9][0-9]{0,4})([mhd])|1c", re.ASCII)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_TIMEOUT_MAX = timedelta(days=15)
_EXPIRY = ("time_expire", "timeout_express")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Yuan with two decimals, as text; a JSON number is none."""

    def check(self, value: object, at: str) -> None:
        """Raise ShapeError when the value does not fit."""
        if not isinstance(value, str):
            raise ShapeError(at, "must be a string")
        try:
            fen = to_fen(value)
        except ValueError as error:
            raise ShapeError(at, "must be yuan with two decimals") from error
        if not 1 <= fen <= TOTAL_MAX:
            raise ShapeError(at, "must be 0.01 to 100000000.00")


_GOODS = Record(
    required={
        "goods_id": Text(length_max=64),
        "goods_name": Text(length_max=256),
        "quantity": Integer(low=1, high=10**9),
        "price": Amount(),
    },
    optional={
        "goods_category": Text(length_max=24),
        "categories_tree": Text(length_max=128),
        "body": Text(length_max=400),
        "show_url": Text(length_max=400),
    },
)
_ORDER: dict[str, Shape] = {"out_trade_no": OUT_TRADE_NO, "total_amount": Amount(), "subject": Text(length_max=256)}
_ORDER_MORE: dict[str, Shape] = {
    "body": Text(length_max=128),
    "time_expire": Text(length_max=32),
    "timeout_express": Text(length_max=6),
    "passback_params": Text(length_max=512),
    "goods_detail": ListOf(item=_GOODS, count_max=1000),
    "store_id": Text(length_max=32),
    "operator_id": Text(length_max=28),
    "terminal_id": Text(length_max=32),
    "merchant_order_no": Text(length_max=32),
    "extend_params": Record(required={}, optional={"sys_service_provider_id": Text(length_max=64)}),
    "query_options": ListOf(item=Text(length_max=32), count_max=16),
}
_SELLER: dict[str, Shape] = {"seller_id": Text(length_max=28)}
_WHICH: dict[str, Shape] = {"out_trade_no": OUT_TRADE_NO, "trade_no": _TRADE_NO}
_BUYER: dict[str, Shape] = {
    "buyer_id": Text(length_max=28, pattern="2088[0-9]{12}"),
    "buyer_open_id": Text(length_max=128),
}
_SHAPES: dict[str, Record] = {
    "page": Record(
        required={**_ORDER, "product_code": OneOf(words=("FAST_INSTANT_TRADE_PAY",))},
        optional={
            **_ORDER_MORE,
            "qr_pay_mode": OneOf(words=("0", "1", "2", "3", "4")),
            "qrcode_width": Integer(low=1, high=2000),
            "request_from_url": Text(length_max=256),
            "integration_type": OneOf(words=("PCWEB", "ALIAPP")),
        },
    ),
    "wap": Record(
        required={
            **_ORDER,
            "product_code": OneOf(words=("QUICK_WAP_WAY", "QUICK_WAP_PAY")),
            "quit_url": Text(length_max=400),
        },
        optional={**_ORDER_MORE, **_SELLER},
    ),
    "app": Record(
        required=_ORDER,
        optional={**_ORDER_MORE, **_SELLER, "product_code": OneOf(words=("QUICK_MSECURITY_PAY",))},
    ),
    "precreate": Record(
        required=_ORDER,
        optional={
            **_ORDER_MORE,
            **_SELLER,
            "product_code": OneOf(words=("FACE_TO_FACE_PAYMENT", "QR_CODE_OFFLINE")),
        },
    ),
    "pay": Record(
        required={
            **_ORDER,
            "auth_code": Text(length_max=64, pattern="(2[5-9]|30)[0-9]{14,22}"),
            "scene": OneOf(words=("bar_code", "wave_code", "security_code")),
        },
        optional={**_ORDER_MORE, **_SELLER, "product_code": OneOf(words=("FACE_TO_FACE_PAYMENT",))},
    ),
    "create": Record(
        required=_ORDER,
        optional={
            **_ORDER_MORE,
            **_SELLER,
            **_BUYER,
            "product_code": OneOf(words=("JSAPI_PAY", "FACE_TO_FACE_PAYMENT")),
            "op_app_id": Text(length_max=32),
        },
    ),
}
_QUERY = Record(required={}, optional={**_WHICH, "query_options": _ORDER_MORE["query_options"]})
_CLOSE = Record(required={}, optional={**_WHICH, "operator_id": Text(length_max=28)})
_CANCEL = Record(required={}, optional=_WHICH)
_REFUND = Record(
    required={"refund_amount": Amount()},
    optional={
        **_WHICH,
        "out_request_no": OUT_REQUEST_NO,
        "refund_reason": Text(length_max=256),
        "query_options": _ORDER_MORE["query_options"],
        "operator_id": Text(length_max=30),
        "store_id": Text(length_max=32),
        "terminal_id": Text(length_max=32),
    },
)
_REFUND_QUERY = Record(
    required={"out_request_no": OUT_REQUEST_NO},
    optional={**_WHICH, "query_options": _ORDER_MORE["query_options"]},
)
_CERTIFICATE = Record(required={"alipay_cert_sn": Text(length_max=64, pattern="[0-9a-f]{32}")}, optional={})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A request for a trade that passed all checks; `total` is in fen, `fields` is all but the end of payment."""

    product: str
    out_trade_no: str
    total: int
    subject: str
    expires_at_s: float | None
    notify_url: str
    return_url: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """The trade that a request is about, by our number or the channel's; at least one is given."""

    out_trade_no: str
    trade_no: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """A refund request that passed all checks of its shape; `amount` is in fen."""

    which: Which
    out_request_no: str
    amount: int


def read_order(
    raw: bytes, product: str, *, seller_id: str, now_s: float, notify_url: str, return_url: str
) -> OrderRequest:
    """Read the biz_content of a request for a trade; raises ShapeError."""
    body = read_object(raw, _SHAPES[product])
    if body.get("seller_id", seller_id) != seller_id:
        raise ShapeError("/seller_id", "is not the seller of this app")
    if product == "create" and "buyer_id" not in body and "buyer_open_id" not in body:
        raise ShapeError("/buyer_id", "or buyer_open_id must be given")
    expires = {name: str(body.pop(name)) for name in _EXPIRY if name in body}
    return OrderRequest(
        product=product,
        out_trade_no=str(body["out_trade_no"]),
        total=to_fen(str(body["total_amount"])),
        subject=str(body["subject"]),
        expires_at_s=_expiry_s(expires, now_s),
        notify_url=notify_url,
        return_url=return_url,
        fields=body,
    )


def read_which(raw: bytes, operation: str) -> Which:
    """Read the biz_content of a query, close or cancel; raises ShapeError."""
    return _which(read_object(raw, {"query": _QUERY, "close": _CLOSE, "cancel": _CANCEL}[operation]))


def read_refund(raw: bytes) -> RefundRequest:
    """Read the biz_content of a refund; raises ShapeError. Without a number it is taken for a refund of the whole."""
    body = read_object(raw, _REFUND)
    return RefundRequest(
        which=_which(body),
        out_request_no=str(body.get("out_request_no", "")),
        amount=to_fen(str(body["refund_amount"])),
    )


def read_refund_query(raw: bytes) -> tuple[Which, str, bool]:
    """Read the biz_content of a refund query: the trade, the refund, and whether its time is asked for."""
    body = read_object(raw, _REFUND_QUERY)
    options = body.get("query_options", [])
    assert isinstance(options, list)
    return _which(body), str(body["out_request_no"]), "gmt_refund_pay" in options


def read_certificate(raw: bytes) -> str:
    """Read the biz_content of a certificate download; raises ShapeError."""
    return str(read_object(raw, _CERTIFICATE)["alipay_cert_sn"])


def _which(body: Mapping[str, object]) -> Which:
    if "out_trade_no" not in body and "trade_no" not in body:
        raise ShapeError("/out_trade_no", "or trade_no must be given")
    return Which(out_trade_no=str(body.get("out_trade_no", "")), trade_no=str(body.get("trade_no", "")))


def _expiry_s(given: Mapping[str, str], now_s: float) -> float | None:
    if "time_expire" in given:
        expires_at_s = parse_time(given["time_expire"])
        if expires_at_s is None:
            raise ShapeError("/time_expire", "must be yyyy-MM-dd HH:mm:ss")
        if expires_at_s <= now_s:
            raise ShapeError("/time_expire", "is over")
        return expires_at_s
    if "timeout_express" not in given:
        return None
    found = _TIMEOUT.fullmatch(given["timeout_express"])
    if found is None:
        raise ShapeError("/timeout_express", "must be 1m to 15d, or 1c")
    if found[1] is None:
        midnight = beijing(now_s).replace(hour=0, minute=0, second=0) + timedelta(days=1)
        return midnight.timestamp()
    lasts = int(found[1]) * _UNITS[found[2]]
    if lasts > _TIMEOUT_MAX:
        raise ShapeError("/timeout_express", "must be 1m to 15d, or 1c")
    return now_s + lasts.total_seconds()
