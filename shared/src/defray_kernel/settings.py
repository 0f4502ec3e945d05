"""Settings read once from the environment; every missing and every unknown key is told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from defray_kernel.errors import ConfigInvalid

S = TypeVar("S", bound="ServiceSettings")
Port = Annotated[int, Field(ge=1, le=65535)]


class ServiceSettings(BaseModel):
    """What every service needs; each adds its own. Secrets are paths of mounted files, except the two DSNs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Literal["sandbox", "production"] = "production"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    database_dsn: str = Field(min_length=1, repr=False)
    database_owner_dsn: str = Field(default="", repr=False, description="Only the migrate role needs it.")
    database_pool_max: Annotated[int, Field(ge=2, le=100)] = 8

    kafka_bootstrap: str = Field(min_length=1)
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "SASL_SSL"
    kafka_tls_ca_file: Path | None = None
    kafka_tls_cert_file: Path | None = None
    kafka_tls_key_file: Path | None = None
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: str = ""
    kafka_sasl_password_file: Path | None = None
    kafka_session_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] = 15_000
    topics_file: Path

    bind_host: str = "0.0.0.0"  # noqa: S104 - a container's; the sandbox binds loopback
    public_port: Port = 8080
    internal_port: Port = 8081

    encryption_keys_file: Path
    operator_jwks_file: Path
    operator_issuer: str = "https://operators.invalid"

    sandbox_clock_file: Path | None = None
    crash_at: str = ""


def load(settings_class: type[S], prefix: str, environment: Mapping[str, str] | None = None) -> S:
    """Read `<prefix>…` variables into frozen settings.

    Raises ConfigInvalid naming every key that is missing, unknown or of the wrong form; never a value.
    """
    source = os.environ if environment is None else environment
    given = {key[len(prefix) :].lower(): value for key, value in source.items() if key.startswith(prefix)}
    wrong: list[str] = []
    settings: S | None = None
    try:
        settings = settings_class.model_validate(given, strict=False)
    except ValidationError as error:
        wrong = [
            f"{prefix}{str(e['loc'][0]).upper() if e['loc'] else ''}: {_reason(e['type'])}" for e in error.errors()
        ]
    if settings is not None and settings.profile == "production":
        wrong = [f"{prefix}{key}" for key in _refused_in_production(settings)]
    if wrong or settings is None:
        raise ConfigInvalid("config_invalid: " + "; ".join(sorted(wrong)))
    return settings


def _reason(error_type: str) -> str:
    return {"missing": "is missing", "extra_forbidden": "is not a setting"}.get(
        error_type, f"is not usable ({error_type})"
    )


def _refused_in_production(settings: ServiceSettings) -> list[str]:
    refused = []
    if settings.sandbox_clock_file is not None:
        refused.append("SANDBOX_CLOCK_FILE: a virtual clock is for the sandbox")
    if settings.crash_at:
        refused.append("CRASH_AT: crash points are for the sandbox")
    if settings.kafka_security in {"PLAINTEXT", "SASL_PLAINTEXT"}:
        refused.append("KAFKA_SECURITY: production speaks TLS")
    if not any(mode in settings.database_dsn for mode in ("sslmode=verify-full", "sslmode=verify-ca")):
        refused.append("DATABASE_DSN: production verifies the server (sslmode=verify-full)")
    return refused
