"""WeChat's signatures: RSA-SHA256 over lines ended by LF, made on requests, checked on replies and callbacks. Pure."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag

from defray_kernel.crypto import sign_rsa_sha256, verify_rsa_sha256
from defray_payment.channels.wechat.keys import WechatKeys
from defray_payment.domain.reports import ChannelAccount

SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
SKEW_S_MAX: Final = 300
_SERIAL_MAX: Final = 64
_NONCE_MAX: Final = 128
_SIGNATURE_MAX: Final = 1024
_TIMESTAMP_DIGITS_MAX: Final = 12


def authorization(
    keys: WechatKeys, *, mchid: str, method: str, target: str, body: bytes, timestamp_s: int, nonce: str
) -> str:
    """The Authorization header over exactly what is sent; costs a private key operation (0.3 ms)."""
    message = b"%b\n%b\n%d\n%b\n%b\n" % (method.encode(), target.encode(), timestamp_s, nonce.encode(), body)
    signature = base64.b64encode(sign_rsa_sha256(keys.merchant_private, message)).decode()
    return (
        f'{SCHEME} mchid="{mchid}",nonce_str="{nonce}",timestamp="{timestamp_s}",'
        f'serial_no="{keys.merchant_serial}",signature="{signature}"'
    )


def fault(keys: WechatKeys, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> str | None:
    """Why a reply or callback is not the platform's, None when it is; header names in lower case, `now` in real time.

    The key is chosen by serial and never fetched here. Stale and future messages are refused alike.
    """
    timestamp, nonce = headers.get("wechatpay-timestamp", ""), headers.get("wechatpay-nonce", "")
    serial, signature = headers.get("wechatpay-serial", ""), headers.get("wechatpay-signature", "")
    if not (timestamp and nonce and serial and signature):
        return "header_missing"
    if headers.get("wechatpay-signature-type", SCHEME) != SCHEME:
        return "algorithm"
    if len(serial) > _SERIAL_MAX or len(nonce) > _NONCE_MAX or len(signature) > _SIGNATURE_MAX:
        return "header_form"
    if not (timestamp.isascii() and timestamp.isdigit()) or len(timestamp) > _TIMESTAMP_DIGITS_MAX:
        return "timestamp_form"
    if abs(now.timestamp() - int(timestamp)) > SKEW_S_MAX:
        return "stale"
    key = keys.platform.get(serial)
    if key is None:
        return "unknown_serial"
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return "signature_form"  # The platform's own probes (WECHATPAY/SIGNTEST/…) end here or below.
    if base64.b64encode(raw).decode() != signature:
        return "signature_form"  # one signature has one form
    message = b"%b\n%b\n%b\n" % (timestamp.encode(), nonce.encode("latin-1", "replace"), body)
    return None if verify_rsa_sha256(key, raw, message) else "signature"


def unseal(keys: WechatKeys, *, nonce: str, ciphertext: str, associated_data: str) -> bytes | None:
    """Open a callback's resource (AES-256-GCM under the APIv3 key); None when it does not open."""
    try:
        return keys.apiv3.decrypt(nonce.encode(), base64.b64decode(ciphertext, validate=True), associated_data.encode())
    except (InvalidTag, ValueError):
        return None


def sheet(keys: WechatKeys, account: ChannelAccount, *, prepay_id: str, timestamp_s: int, nonce: str) -> dict[str, str]:
    """What a page or mini program hands to WeChat to open the payment sheet; costs a private key operation."""
    package = f"prepay_id={prepay_id}"
    return {
        "appId": account.app_ref,
        "timeStamp": str(timestamp_s),
        "nonceStr": nonce,
        "package": package,
        "signType": "RSA",
        "paySign": _signed(keys, account.app_ref, str(timestamp_s), nonce, package),
    }


def app_call(
    keys: WechatKeys, account: ChannelAccount, *, prepay_id: str, timestamp_s: int, nonce: str
) -> dict[str, str]:
    """What an app hands to WeChat's SDK; costs a private key operation."""
    return {
        "appid": account.app_ref,
        "partnerid": account.merchant_ref,
        "prepayid": prepay_id,
        "package": "Sign=WXPay",
        "noncestr": nonce,
        "timestamp": str(timestamp_s),
        "sign": _signed(keys, account.app_ref, str(timestamp_s), nonce, prepay_id),
    }


def _signed(keys: WechatKeys, *lines: str) -> str:
    message = "".join(f"{line}\n" for line in lines).encode()
    return base64.b64encode(sign_rsa_sha256(keys.merchant_private, message)).decode()
