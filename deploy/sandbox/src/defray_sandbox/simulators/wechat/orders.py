"""The requests about orders: shapes of each product, and the rules that need more than a shape."""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from defray_sandbox.simulators.shapes import (
    Flag,
    Integer,
    ListOf,
    OneOf,
    Record,
    Shape,
    ShapeError,
    Text,
    read_object,
)
from defray_sandbox.simulators.wechat.errors import ChannelError, Code

OUT_TRADE_NO = Text(length_min=6, length_max=32, pattern=r"[0-9A-Za-z_\-|*]+")
CURRENCY = "CNY"
TOTAL_MAX = 10**10
_AHEAD_S_MIN = 60
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)

_GOODS = Record(
    required={
        "merchant_goods_id": Text(length_max=32),
        "quantity": Integer(low=1, high=10**9),
        "unit_price": Integer(low=0, high=TOTAL_MAX),
    },
    optional={"wechatpay_goods_id": Text(length_max=32), "goods_name": Text(length_max=256)},
)
_DETAIL = Record(
    required={},
    optional={
        "cost_price": Integer(low=0, high=TOTAL_MAX),
        "invoice_id": Text(length_max=32),
        "goods_detail": ListOf(item=_GOODS, count_max=6000),
    },
)
_STORE = Record(
    required={"id": Text(length_max=32)},
    optional={
        "name": Text(length_max=256),
        "area_code": Text(length_max=32),
        "address": Text(length_max=512),
    },
)
_H5_INFO = Record(
    required={"type": OneOf(words=("iOS", "Android", "Wap"))},
    optional={
        "app_name": Text(length_max=64),
        "app_url": Text(length_max=128),
        "bundle_id": Text(length_max=128),
        "package_name": Text(length_max=128),
    },
)
_ADDRESS = Text(length_max=45, pattern=r"[0-9A-Fa-f.:]+")
_SCENE: dict[str, Shape] = {"payer_client_ip": _ADDRESS}
_SCENE_MORE: dict[str, Shape] = {"device_id": Text(length_max=32), "store_info": _STORE}
_CODE_SCENE = Record(
    required={},
    optional={
        "device_id": Text(length_max=32),
        "device_ip": _ADDRESS,
        "store_info": Record(required={}, optional={"id": Text(length_max=32), "out_id": Text(length_max=32)}),
    },
)
_REQUIRED: dict[str, Shape] = {
    "appid": Text(length_max=32),
    "mchid": Text(length_max=32),
    "description": Text(length_max=127),
    "out_trade_no": OUT_TRADE_NO,
    "amount": Record(
        required={"total": Integer(low=1, high=TOTAL_MAX)},
        optional={"currency": OneOf(words=(CURRENCY,))},
    ),
}
_OPTIONAL: dict[str, Shape] = {
    "time_expire": Text(length_max=64),
    "attach": Text(length_min=0, length_max=128),
    "goods_tag": Text(length_max=32),
    "support_fapiao": Flag(),
    "detail": _DETAIL,
    "scene_info": Record(required=_SCENE, optional=_SCENE_MORE),
    "settle_info": Record(required={}, optional={"profit_sharing": Flag()}),
}
_NOTIFIED: dict[str, Shape] = {**_REQUIRED, "notify_url": Text(length_max=255)}
_AUTH_CODE = Record(required={"auth_code": Text(length_max=32, pattern="1[0-5][0-9]{16}")}, optional={})
_PRODUCTS: dict[str, Record] = {
    "native": Record(required=_NOTIFIED, optional=_OPTIONAL),
    "app": Record(required=_NOTIFIED, optional=_OPTIONAL),
    "jsapi": Record(
        required={**_NOTIFIED, "payer": Record(required={"openid": Text(length_max=128)}, optional={})},
        optional=_OPTIONAL,
    ),
    "h5": Record(
        required={**_NOTIFIED, "scene_info": Record(required={**_SCENE, "h5_info": _H5_INFO}, optional=_SCENE_MORE)},
        optional=_OPTIONAL,
    ),
    # Paid at once or not at all: it has neither an end nor a callback.
    "codepay": Record(
        required={**_REQUIRED, "payer": _AUTH_CODE},
        optional={name: shape for name, shape in _OPTIONAL.items() if name != "time_expire"}
        | {"scene_info": _CODE_SCENE},
    ),
}
_CLOSE = Record(required={"mchid": Text(length_max=32)}, optional={})
_REVERSE = Record(required={"mchid": Text(length_max=32), "appid": Text(length_max=32)}, optional={})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A create request that passed all checks; `fields` is the body without `time_expire`, `total` is in fen."""

    product: str
    out_trade_no: str
    total: int
    notify_url: str
    attach: str
    expires_at_s: float | None
    fields: dict[str, object]


def read_order(
    raw: bytes, product: str, *, appid: str, mchid: str, now_s: float, plain_hosts: frozenset[str]
) -> OrderRequest:
    """Read the body of POST /v3/pay/transactions/{product}; raises ChannelError or ShapeError."""
    body = read_object(raw, _PRODUCTS[product])
    check_mchid(str(body["mchid"]), mchid, location="body")
    check_appid(str(body["appid"]), appid)
    notify_url = str(body.get("notify_url", ""))
    if notify_url:
        check_notify_url(notify_url, plain_hosts)
    expires = body.pop("time_expire", None)
    amount = body["amount"]
    assert isinstance(amount, dict)
    amount.setdefault("currency", CURRENCY)
    return OrderRequest(
        product=product,
        out_trade_no=str(body["out_trade_no"]),
        total=int(amount["total"]),
        notify_url=notify_url,
        attach=str(body.get("attach", "")),
        expires_at_s=None if expires is None else _expiry_s(str(expires), now_s),
        fields=body,
    )


def read_close(raw: bytes, *, mchid: str) -> None:
    """Read the body of a close request; raises ChannelError or ShapeError."""
    check_mchid(str(read_object(raw, _CLOSE)["mchid"]), mchid, location="body")


def read_reverse(raw: bytes, *, mchid: str, appid: str) -> None:
    """Read the body of a reverse request; raises ChannelError or ShapeError."""
    body = read_object(raw, _REVERSE)
    check_mchid(str(body["mchid"]), mchid, location="body")
    check_appid(str(body["appid"]), appid)


def check_mchid(claimed: str | None, mchid: str, *, location: str) -> None:
    """Raise ChannelError unless the merchant named in the request is the one that this channel serves."""
    if claimed is None:
        raise ChannelError(Code.PARAM_ERROR, "mchid is missing", field="mchid", location=location)
    if claimed != mchid:
        field = "/mchid" if location == "body" else "mchid"
        raise ChannelError(Code.MCH_NOT_EXISTS, "the merchant does not exist", field=field, location=location)


def check_appid(claimed: str, appid: str) -> None:
    """Raise ChannelError unless the app is the merchant's."""
    if claimed != appid:
        raise ChannelError(Code.APPID_MCHID_NOT_MATCH, "appid is not bound to mchid", field="/appid")


def check_out_trade_no(number: str) -> None:
    """Raise ShapeError for a number in a path that no order can have."""
    OUT_TRADE_NO.check(number, "out_trade_no")


def check_notify_url(url: str, plain_hosts: frozenset[str]) -> None:
    """Raise ShapeError for an address that the channel would not call."""
    at = "/notify_url"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ShapeError(at, "is not a URL") from error
    if not host or parts.username is not None or not url.isascii() or any(character <= " " for character in url):
        raise ShapeError(at, "must be an absolute URL")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ShapeError(at, "must not carry a query or a fragment")
    # The real channel takes https only; the sandbox has no certificates, so named hosts may be plain.
    if parts.scheme != "https" and not (parts.scheme == "http" and host in plain_hosts):
        raise ShapeError(at, "must be https")


def _expiry_s(text: str, now_s: float) -> float:
    at = "/time_expire"
    if _RFC3339.fullmatch(text) is None:
        raise ShapeError(at, "must be RFC 3339")
    try:
        expires_at_s = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise ShapeError(at, "is not a time") from error
    if expires_at_s < now_s + _AHEAD_S_MIN:
        raise ShapeError(at, "must be at least one minute ahead")
    return expires_at_s
