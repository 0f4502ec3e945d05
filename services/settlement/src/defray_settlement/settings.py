"""Settings of the settlement service, read once from DEFRAY_SETTLEMENT_… variables."""

from defray_kernel.settings import ServiceSettings


class Settings(ServiceSettings):
    """What every service needs; this one adds nothing."""
