"""The common parameters of a request: form and query, strict, with the signature checked before anything is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl, urlsplit

from defray_sandbox.simulators.alipay.errors import GatewayError, invalid
from defray_sandbox.simulators.alipay.keys import ChannelKeys
from defray_sandbox.simulators.alipay.signing import request_content, verifies
from defray_sandbox.simulators.clock import BEIJING

# The pages do not say how far a timestamp may be off; a merchant in a wrong time zone must find out.
SKEW_S_MAX = 600
_PARAMETERS = frozenset(
    {"app_id", "method", "format", "return_url", "charset", "sign_type", "sign", "timestamp", "version", "notify_url",
     "app_auth_token", "biz_content", "app_cert_sn", "alipay_root_cert_sn", "alipay_sdk"}
)  # fmt: skip
_FIELDS_MAX = 64
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_URL_CHARACTERS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A request whose common parameters and signature are good; `certificate_mode` is the merchant's choice."""

    method: str
    biz_content: bytes
    notify_url: str
    return_url: str
    certificate_mode: bool


def read_form(text: str) -> dict[str, str]:
    """Parameters of a query or a form; raises GatewayError for repeated names and broken encodings."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=_FIELDS_MAX,
                          errors="strict")  # fmt: skip
    except ValueError as error:
        raise invalid("invalid-parameter", "the form cannot be read", signed=False) from error
    parameters = dict(pairs)
    if len(parameters) != len(pairs):
        raise invalid("invalid-parameter", "a parameter is repeated", signed=False)
    return parameters


def read_link(link: str) -> dict[str, str]:
    """Parameters of a signed address, or of an order string as an app hands it over; raises GatewayError."""
    return read_form(urlsplit(link).query if "://" in link.partition("?")[0] else link)


def open_envelope(
    parameters: Mapping[str, str], keys: ChannelKeys, *, app_id: str, now_s: int, methods: frozenset[str], fresh: bool
) -> Envelope:
    """Check the common parameters and the signature; raises GatewayError.

    `fresh` refuses old timestamps: a link may be opened long after it was made, a call may not arrive so.
    """
    _need(parameters, "app_id", signed=False)
    if parameters["app_id"] != app_id:
        raise invalid("invalid-app-id", "无效的AppID参数", signed=False)
    _need(parameters, "method", signed=False)
    if parameters["method"] not in methods:
        raise invalid("invalid-method", "不存在的方法名", signed=False)
    _need(parameters, "sign_type", "signature-type")
    _need(parameters, "sign", "signature")
    if parameters["sign_type"] != "RSA2":
        raise invalid("invalid-signature-type", "签名类型无效")
    if not verifies(keys.app, request_content(parameters), parameters["sign"]):
        raise invalid("invalid-signature", "验签出错")
    certificate_mode = _certificate_mode(parameters, keys)
    if unknown := sorted(set(parameters) - _PARAMETERS):
        raise invalid("invalid-parameter", f"{unknown[0][:64]} is not a parameter")
    if parameters.get("app_auth_token"):
        raise GatewayError("20001", "aop.invalid-app-auth-token", "无效的应用授权令牌")
    _check_fixed(parameters)
    _check_timestamp(parameters, now_s, fresh=fresh)
    for name in ("notify_url", "return_url"):
        if parameters.get(name):
            _check_url(name, parameters[name])
    return Envelope(
        method=parameters["method"],
        biz_content=parameters.get("biz_content", "").encode(),
        notify_url=parameters.get("notify_url", ""),
        return_url=parameters.get("return_url", ""),
        certificate_mode=certificate_mode,
    )


def _need(parameters: Mapping[str, str], name: str, called: str = "", *, signed: bool = True) -> None:
    if not parameters.get(name):
        sub_code = f"isv.missing-{called or name.replace('_', '-')}"
        raise GatewayError("40001", sub_code, f"缺少{name}参数", signed=signed)


def _certificate_mode(parameters: Mapping[str, str], keys: ChannelKeys) -> bool:
    claimed = {name: parameters.get(name, "") for name in ("app_cert_sn", "alipay_root_cert_sn")}
    if not any(claimed.values()):
        return False
    if claimed != {"app_cert_sn": keys.app_certificate_sn, "alipay_root_cert_sn": keys.root_sn}:
        raise invalid("invalid-signature", "应用公钥证书或根证书序列号不匹配")
    return True


def _check_fixed(parameters: Mapping[str, str]) -> None:
    _need(parameters, "charset")
    if parameters["charset"].lower() != "utf-8":
        raise invalid("invalid-charset", "字符集错误")
    _need(parameters, "version")
    if parameters["version"] != "1.0":
        raise invalid("invalid-version", "版本参数无效")
    if parameters.get("format", "JSON").upper() != "JSON":
        raise invalid("invalid-format", "数据格式无效")


def _check_timestamp(parameters: Mapping[str, str], now_s: int, *, fresh: bool) -> None:
    _need(parameters, "timestamp")
    text = parameters["timestamp"]
    stamped_s = parse_time(text)
    if stamped_s is None or (fresh and abs(now_s - stamped_s) > SKEW_S_MAX):
        raise invalid("invalid-timestamp", "非法的时间戳参数")


def parse_time(text: str) -> float | None:
    """Unix seconds of `yyyy-MM-dd HH:mm:ss` in Beijing; None when it is no such time."""
    if _TIMESTAMP.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=BEIJING).timestamp()
    except ValueError:
        return None


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise invalid("invalid-parameter", f"{name} is not a URL") from error
    odd = not url.isascii() or any(character <= " " for character in url) or parts.username is not None
    if not host or odd or parts.scheme not in {"http", "https"} or len(url) > _URL_CHARACTERS_MAX:
        raise invalid("invalid-parameter", f"{name} is not an absolute URL")
