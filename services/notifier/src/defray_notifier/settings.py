"""Settings of the notifier service, read once from DEFRAY_NOTIFIER_… variables."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from defray_kernel.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the notifier needs beside what every service needs."""

    allow_private_networks: bool = Field(
        default=False, description="Let endpoints be http and on private addresses; for the sandbox only."
    )
    in_flight_max: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=512, description="Attempts under way at once in one process."
    )
    endpoint_in_flight_max: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=64, description="Of these, how many may be to one endpoint."
    )

    @field_validator("allow_private_networks")
    @classmethod
    def _not_in_production(cls, allowed: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        if allowed and info.data.get("profile") != "sandbox":
            raise ValueError("private networks are for the sandbox")
        return allowed
