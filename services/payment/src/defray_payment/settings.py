"""Settings of the payment service, read once from DEFRAY_PAYMENT_… variables."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from defray_kernel.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the payment service needs beside what every service needs."""

    order_token_jwks_file: Path = Field(description="The order service's public keys, for payment tokens.")
    notify_base_url: str = Field(
        pattern=r"^https?://[^?#\s]+[^/?#\s]$", description="Where channels reach the public port from outside."
    )
    channel_timeout_s: Annotated[float, Field(gt=0, le=7)] = 6.0  # four calls fit into one request's 30 s

    wechat_base_url: str = Field(default="https://api.mch.weixin.qq.com", pattern=r"^https?://[^/?#\s]+$")
    wechat_mchid: str = Field(pattern=r"^[0-9]{6,32}$")
    wechat_appid: str = Field(pattern=r"^[0-9A-Za-z]{6,32}$")
    wechat_merchant_serial: str = Field(pattern=r"^[0-9A-Za-z_]{1,64}$", description="Serial of our certificate.")
    wechat_merchant_private_key_file: Path
    wechat_platform_keys_dir: Path = Field(description="One <serial>.pem (public key) per live platform key.")
    wechat_apiv3_key_file: Path

    @model_validator(mode="after")
    def _only_tls_in_production(self) -> Self:
        plain = [url for url in (self.notify_base_url, self.wechat_base_url) if not url.startswith("https://")]
        if self.profile == "production" and plain:
            raise ValueError("production speaks TLS with channels; simulators are for the sandbox")
        return self
