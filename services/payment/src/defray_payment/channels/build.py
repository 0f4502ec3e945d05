"""From an account's row and keys to the adapter that speaks with its channel; what cannot verify is not built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from defray_kernel.clock import Clock
from defray_kernel.errors import ConfigInvalid
from defray_payment.channels.alipay import keys as alipay_keys
from defray_payment.channels.alipay.channel import CAPABILITIES as ALIPAY
from defray_payment.channels.alipay.channel import AlipayChannel
from defray_payment.channels.spi import Capabilities, PaymentChannel
from defray_payment.channels.wechat import keys as wechat_keys
from defray_payment.channels.wechat.channel import CAPABILITIES as WECHAT
from defray_payment.channels.wechat.channel import WechatChannel
from defray_payment.domain.channel_account import HeldAccount
from defray_payment.domain.reports import ChannelAccount

KINDS: Final[dict[str, Capabilities]] = {kind.channel: kind for kind in (WECHAT, ALIPAY)}
"""Every channel there is an adapter for."""
_REFS: Final = {
    "wechat": (r"[0-9]{6,32}", r"[0-9A-Za-z]{6,32}"),
    "alipay": (r"2088[0-9]{12}", r"[0-9]{6,32}"),
}
_URL: Final = re.compile(r"https?://[^?#\s]+[^/?#\s]", re.ASCII)


class Secrets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of an account as they are sealed: ours to sign with, the channel's to verify with by serial or name.

    WeChat also has the serial of our certificate and the APIv3 key; Alipay in certificate mode our certificate and
    its roots. All but serial and APIv3 key are PEM.
    """

    private_key: str
    verify_keys: dict[str, str]
    serial: str = ""
    seal_key: str = ""
    certificate: str | None = None
    root: str | None = None

    def __repr__(self) -> str:
        return "Secrets(…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """What every adapter needs besides its account."""

    session: aiohttp.ClientSession
    notify_base_url: str
    clock: Clock
    timeout_s: float
    tls_only: bool

    def build(self, held: HeldAccount, secrets: Secrets) -> PaymentChannel:
        """The adapter. Raises ConfigInvalid, naming no content, when it could not sign or verify."""
        check(held, tls_only=self.tls_only)
        account = ChannelAccount(merchant_ref=held.merchant_ref, app_ref=held.app_ref, account_id=held.account_id)
        notify_url = f"{self.notify_base_url}/v1/webhooks/{held.channel}/{held.account_id}"
        if held.channel == WECHAT.channel:
            return WechatChannel(
                session=self.session,
                base_url=held.base_url,
                account=account,
                keys=_wechat(secrets),
                notify_url=notify_url,
                clock=self.clock,
                timeout_s=self.timeout_s,
            )
        return AlipayChannel(
            session=self.session,
            gateway_url=held.base_url,
            account=account,
            keys=_alipay(secrets),
            notify_url=notify_url,
            clock=self.clock,
            timeout_s=self.timeout_s,
        )


def check(held: HeldAccount, *, tls_only: bool) -> None:
    """Raises ConfigInvalid for a channel without adapter, a name that is none, or an address of the wrong kind."""
    if held.channel not in KINDS:
        raise ConfigInvalid(f"there is no adapter for this channel; there are {', '.join(KINDS)}")
    for pattern, ref in zip(_REFS[held.channel], (held.merchant_ref, held.app_ref), strict=True):
        if re.fullmatch(pattern, ref, re.ASCII) is None:
            raise ConfigInvalid("the channel's name of the merchant or app has another form")
    if _URL.fullmatch(held.base_url) is None or (tls_only and not held.base_url.startswith("https://")):
        raise ConfigInvalid("the channel's address is none, or not TLS")


def check_keys(channel: str, secrets: Secrets) -> None:
    """Raises ConfigInvalid, naming no content, when these keys could not sign or verify."""
    _wechat(secrets) if channel == WECHAT.channel else _alipay(secrets)


def _wechat(secrets: Secrets) -> wechat_keys.WechatKeys:
    if not re.fullmatch(r"[0-9A-Za-z_]{1,64}", secrets.serial, re.ASCII):
        raise ConfigInvalid("the serial of the WeChat merchant certificate is missing")
    return wechat_keys.parse(
        merchant_private=secrets.private_key.encode(),
        merchant_serial=secrets.serial,
        platform={serial: pem.encode() for serial, pem in secrets.verify_keys.items()},
        apiv3=secrets.seal_key.encode(),
    )


def _alipay(secrets: Secrets) -> alipay_keys.AlipayKeys:
    return alipay_keys.parse(
        app_private=secrets.private_key.encode(),
        alipay={name: pem.encode() for name, pem in secrets.verify_keys.items()},
        app_certificate=None if secrets.certificate is None else secrets.certificate.encode(),
        root=None if secrets.root is None else secrets.root.encode(),
    )
