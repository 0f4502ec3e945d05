"""Settings of the payment service, read once from DEFRAY_PAYMENT_… variables."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from defray_kernel.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the payment service needs beside what every service needs."""

    order_token_jwks_file: Path = Field(description="The order service's public keys, for payment tokens.")
    notify_base_url: str = Field(
        pattern=r"^https?://[^?#\s]+[^/?#\s]$", description="Where channels reach the public port from outside."
    )
    channel_timeout_s: Annotated[float, Field(gt=0, le=7)] = 6.0  # four calls fit into one request's 30 s

    channel_calls_per_s: Annotated[float, Field(gt=0, le=10_000)] = Field(
        default=50.0, description="What one process may send to one account at a channel, at most; see its contract."
    )

    # The sandbox's first accounts. In production operators add accounts instead (`channel-account add`).
    wechat_base_url: str = Field(default="https://api.mch.weixin.qq.com", pattern=r"^https?://[^/?#\s]+$")
    wechat_mchid: str | None = Field(default=None, pattern=r"^[0-9]{6,32}$")
    wechat_appid: str | None = Field(default=None, pattern=r"^[0-9A-Za-z]{6,32}$")
    wechat_merchant_serial: str | None = Field(
        default=None, pattern=r"^[0-9A-Za-z_]{1,64}$", description="Serial of our certificate."
    )
    wechat_merchant_private_key_file: Path | None = None
    wechat_platform_keys_dir: Path | None = Field(default=None, description="One <serial>.pem per live platform key.")
    wechat_apiv3_key_file: Path | None = None

    alipay_gateway_url: str = Field(
        default="https://openapi.alipay.com/gateway.do", pattern=r"^https?://[^?#\s]+[^/?#\s]$"
    )
    alipay_seller_id: str | None = Field(default=None, pattern=r"^2088[0-9]{12}$")
    alipay_app_id: str | None = Field(default=None, pattern=r"^[0-9]{6,32}$")
    alipay_app_private_key_file: Path | None = None
    alipay_keys_dir: Path | None = Field(default=None, description="One .pem per live key or certificate of Alipay.")
    alipay_app_certificate_file: Path | None = Field(default=None, description="Certificate mode, with the roots.")
    alipay_root_file: Path | None = None

    @model_validator(mode="after")
    def _only_tls_in_production(self) -> Self:
        urls = (self.notify_base_url, self.wechat_base_url, self.alipay_gateway_url)
        if self.profile == "production" and not all(url.startswith("https://") for url in urls):
            raise ValueError("production speaks TLS with channels; simulators are for the sandbox")
        return self

    @model_validator(mode="after")
    def _whole_accounts(self) -> Self:
        for account in (self._wechat(), self._alipay()):
            missing = [name for name, value in account.items() if value is None]
            if 0 < len(missing) < len(account):
                raise ValueError(f"an account needs all of its settings; missing: {', '.join(missing)}")
        return self

    @property
    def wechat_seed(self) -> dict[str, Any] | None:
        """The arguments of `seeds.wechat`, None without such an account."""
        return None if self.wechat_mchid is None else self._wechat()

    @property
    def alipay_seed(self) -> dict[str, Any] | None:
        """The arguments of `seeds.alipay`, None without such an account."""
        if self.alipay_app_id is None:
            return None
        return self._alipay() | {"certificate": self.alipay_app_certificate_file, "root": self.alipay_root_file}

    def _wechat(self) -> dict[str, Any]:
        return {
            "mchid": self.wechat_mchid,
            "appid": self.wechat_appid,
            "private_key": self.wechat_merchant_private_key_file,
            "serial": self.wechat_merchant_serial,
            "platform": self.wechat_platform_keys_dir,
            "apiv3_key": self.wechat_apiv3_key_file,
        }

    def _alipay(self) -> dict[str, Any]:
        return {
            "seller_id": self.alipay_seller_id,
            "app_id": self.alipay_app_id,
            "private_key": self.alipay_app_private_key_file,
            "keys": self.alipay_keys_dir,
        }
