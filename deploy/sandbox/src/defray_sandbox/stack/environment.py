"""Builds each service's environment from the addresses and credentials of one sandbox."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from defray_sandbox.settings import inherited_environment
from defray_sandbox.simulators.process import ALIPAY_APP_ID, ALIPAY_SELLER_ID, APPID, MCHID
from defray_sandbox.stack.credentials import OPERATOR_ISSUER, Credentials
from defray_sandbox.stack.paths import CHECKOUT
from defray_sandbox.stack.provision import ProvisionedDatabase

_SESSION_TIMEOUT_MS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The two loopback ports of one process: what the world may reach, and what only operators may."""

    public: int
    internal: int

    @property
    def public_url(self) -> str:
        return f"http://127.0.0.1:{self.public}"

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self.internal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where everything of one sandbox listens; for the channels and `shop` the internal port holds the controls.

    `channel` is WeChat Pay's simulator, `alipay` Alipay's; None where only one channel runs.
    """

    kafka: str
    services: Mapping[str, Ports]
    channel: Ports
    shop: Ports
    alipay: Ports | None = None

    @property
    def channels(self) -> Mapping[str, Ports]:
        """Every simulated channel that runs, by its name."""
        return {"wechat": self.channel} | ({"alipay": self.alipay} if self.alipay else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """All that a service's environment is built from."""

    addresses: Addresses
    database: ProvisionedDatabase
    credentials: Credentials
    clock_file: Path

    def service_environment(self, service: str) -> dict[str, str]:
        """Return the environment in which `service` runs; it holds no secret of another service."""
        ports = self.addresses.services[service]
        common = {
            "profile": "sandbox",
            "database_dsn": self.database.dsn(service),
            "kafka_bootstrap": self.addresses.kafka,
            "kafka_security": "PLAINTEXT",
            "kafka_session_timeout_ms": str(_SESSION_TIMEOUT_MS),
            "topics_file": str(CHECKOUT / "deploy" / "topics.yaml"),
            "bind_host": "127.0.0.1",
            "public_port": str(ports.public),
            "internal_port": str(ports.internal),
            "encryption_keys_file": str(self.credentials.encryption_keys(service)),
            "operator_jwks_file": str(self.credentials.operator_jwks),
            "operator_issuer": OPERATOR_ISSUER,
            "sandbox_clock_file": str(self.clock_file),
        }
        return self._named(service, common | self._own(service))

    def migration_environment(self, service: str) -> dict[str, str]:
        """Return the same for the role `migrate`, which alone is given the owner's password."""
        owner = {"database_owner_dsn": self.database.owner_dsn(service)}
        return self.service_environment(service) | self._named(service, owner)

    def _own(self, service: str) -> dict[str, str]:
        match service:
            case "order":
                return {
                    "token_private_key_file": str(self.credentials.order_token_key),
                    "token_key_id": self.credentials.order_token_key_id(),
                }
            case "payment":
                side = self.credentials.merchant_side
                return {
                    "order_token_jwks_file": str(self.credentials.order_token_jwks),
                    "notify_base_url": self.addresses.services["payment"].public_url,
                    "wechat_base_url": self.addresses.channel.public_url,
                    "wechat_mchid": MCHID,
                    "wechat_appid": APPID,
                    "wechat_merchant_private_key_file": str(side / "merchant_private.pem"),
                    "wechat_merchant_serial": self.credentials.wechat_merchant_serial(),
                    "wechat_platform_keys_dir": str(side / "platform"),
                    "wechat_apiv3_key_file": str(side / "apiv3_key.txt"),
                } | self._alipay()
            case "notifier":
                return {"allow_private_networks": "true"}
            case _:
                return {}

    def _alipay(self) -> dict[str, str]:
        if self.addresses.alipay is None:
            return {}
        side = self.credentials.alipay_merchant_side
        return {
            "alipay_gateway_url": f"{self.addresses.alipay.public_url}/gateway.do",
            "alipay_seller_id": ALIPAY_SELLER_ID,
            "alipay_app_id": ALIPAY_APP_ID,
            "alipay_app_private_key_file": str(side / "app_private.pem"),
            "alipay_keys_dir": str(side / "platform"),
        }

    @staticmethod
    def _named(service: str, values: Mapping[str, str]) -> dict[str, str]:
        prefix = f"DEFRAY_{service.upper()}_"
        return inherited_environment() | {prefix + name.upper(): value for name, value in values.items()}
