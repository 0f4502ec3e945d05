"""The keys of one WeChat account: ours to sign with, the platform's to verify with, by serial; parsed once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from defray_kernel.crypto import load_rsa_private, load_rsa_public
from defray_kernel.errors import ConfigInvalid

_APIV3_KEY_BYTES: Final = 32
_PLATFORM_KEYS_MAX: Final = 16
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class WechatKeys:
    """`platform` maps the serial or public-key id to its key: two while one replaces the other.

    `newest` names the key that replies to us should be signed with; `certified` says that some are certificates.
    """

    merchant_private: RSAPrivateKey = field(repr=False)
    merchant_serial: str
    platform: Mapping[str, RSAPublicKey] = field(repr=False)
    newest: str
    apiv3: AESGCM = field(repr=False)
    certified: bool = False


def parse(*, merchant_private: bytes, merchant_serial: str, platform: Mapping[str, bytes], apiv3: bytes) -> WechatKeys:
    """Parse PEM material; `platform` holds a public key or a platform certificate for each serial.

    Raises ConfigInvalid, naming no content: without all of them callbacks could not be verified.
    """
    private = load_rsa_private(merchant_private)
    if len(apiv3) != _APIV3_KEY_BYTES:
        raise ConfigInvalid("the WeChat APIv3 key must be 32 bytes of text")
    if not platform:
        raise ConfigInvalid("there is no WeChat platform key: callbacks could not be verified")
    if len(platform) > _PLATFORM_KEYS_MAX:
        raise ConfigInvalid(f"there are more than {_PLATFORM_KEYS_MAX} WeChat platform keys")
    keys: dict[str, RSAPublicKey] = {}
    ranks: dict[str, tuple[bool, dt.datetime, str]] = {}
    for serial, pem in platform.items():
        since = dt.datetime.min.replace(tzinfo=dt.UTC)
        if _CERTIFICATE in pem:
            keys[serial], since = _certified(serial, pem)
        else:
            keys[serial] = load_rsa_public(pem)
        # Public-key ids have no end and are what WeChat moves to; among certificates the youngest signs.
        ranks[serial] = (_CERTIFICATE not in pem, since, serial)
    return WechatKeys(
        merchant_private=private,
        merchant_serial=merchant_serial,
        platform=keys,
        newest=max(ranks.values())[2],
        apiv3=AESGCM(apiv3),
        certified=any(_CERTIFICATE in pem for pem in platform.values()),
    )


def load(*, merchant_private_file: Path, merchant_serial: str, platform_dir: Path, apiv3_key_file: Path) -> WechatKeys:
    """Read mounted key files; `platform_dir` holds one `<serial>.pem` per live platform key. Raises ConfigInvalid."""
    try:
        return parse(
            merchant_private=merchant_private_file.read_bytes(),
            merchant_serial=merchant_serial,
            platform={path.stem: path.read_bytes() for path in sorted(platform_dir.glob("*.pem"))},
            apiv3=apiv3_key_file.read_bytes().strip(),
        )
    except OSError as error:
        raise ConfigInvalid(f"a WeChat key file cannot be read: {type(error).__name__}") from None


def _certified(serial: str, pem: bytes) -> tuple[RSAPublicKey, dt.datetime]:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except ValueError:
        raise ConfigInvalid("a WeChat platform certificate cannot be read") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigInvalid("a WeChat platform certificate holds no RSA key")
    if f"{certificate.serial_number:X}" != serial.upper().lstrip("0"):
        raise ConfigInvalid("a WeChat platform certificate has another serial than its name")
    return key, certificate.not_valid_before_utc
