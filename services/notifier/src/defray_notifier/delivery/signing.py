"""Signatures of webhooks as Standard Webhooks 1.0.0 has them (symmetric, `v1`), with secrets opened once."""

import base64
import datetime as dt
import secrets
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from defray_kernel.crypto import Envelope, hmac_sha256

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the form of secrets, not one
_SECRET_BYTES: Final = 32
_CACHED_MAX: Final = 10_000


def new_secret() -> str:
    """A secret in its public form, shown to the merchant once."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(keys: Sequence[bytes], message_id: str, at: dt.datetime, body: bytes) -> dict[str, str]:
    """The three headers of one attempt: the id is the message's on every attempt, `at` is real time and the attempt's."""
    timestamp = str(int(at.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(hmac_sha256(key, signed)).decode()}" for key in keys),
    }


class Secrets:
    """Seals endpoints' secrets and opens them, each once in a process's life."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._opened: dict[tuple[UUID, bytes], bytes] = {}

    def seal(self, endpoint_id: UUID, secret: str) -> bytes:
        """For the endpoint's own row; it opens nowhere else."""
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        return self._envelope.seal(key, _context(endpoint_id))

    def open(self, endpoint_id: UUID, sealed: Sequence[bytes]) -> list[bytes]:
        """The HMAC keys of one endpoint. Raises CannotOpen."""
        return [self._open(endpoint_id, each) for each in sealed]

    def _open(self, endpoint_id: UUID, sealed: bytes) -> bytes:
        known: Mapping[tuple[UUID, bytes], bytes] = self._opened
        key = known.get((endpoint_id, sealed))
        if key is None:
            key = self._envelope.open(sealed, _context(endpoint_id))
            if len(self._opened) >= _CACHED_MAX:
                self._opened.clear()
            self._opened[endpoint_id, sealed] = key
        return key


def _context(endpoint_id: UUID) -> str:
    return f"endpoint_secret:{endpoint_id.hex}"
