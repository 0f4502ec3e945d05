"""Settings of the order service, read once from DEFRAY_ORDER_… variables."""

from pathlib import Path

from pydantic import Field

from defray_kernel.settings import ServiceSettings


class Settings(ServiceSettings):
    """What the order service needs beside what every service needs."""

    token_private_key_file: Path = Field(description="Ed25519 private key (PEM) that payment tokens are signed with.")
    token_key_id: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Its `kid` in the published key set.")
    token_other_public_key_file: Path | None = Field(
        None, description="Ed25519 public key (PEM) of the last or the next signing key, while its tokens are about."
    )
    token_other_key_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="The `kid` of that other key."
    )
    inbound_merchant_wait_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="How long a published request waits for a merchant that is not known yet.",
    )
