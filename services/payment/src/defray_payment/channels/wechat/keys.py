"""The keys of one WeChat account: ours to sign with, the platform's to verify with, by serial; parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from defray_kernel.crypto import load_rsa_private, load_rsa_public
from defray_kernel.errors import ConfigInvalid

_APIV3_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WechatKeys:
    """`platform` maps the serial or public-key id to its key: two while one replaces the other.

    `newest` names the key that replies to us should be signed with.
    """

    merchant_private: RSAPrivateKey = field(repr=False)
    merchant_serial: str
    platform: Mapping[str, RSAPublicKey] = field(repr=False)
    newest: str
    apiv3: AESGCM = field(repr=False)


def load(*, merchant_private_file: Path, merchant_serial: str, platform_dir: Path, apiv3_key_file: Path) -> WechatKeys:
    """Read the mounted key files; `platform_dir` holds one `<serial>.pem` per live platform key.

    Raises ConfigInvalid, naming no content: without all of them callbacks could not be verified.
    """
    try:
        private = load_rsa_private(merchant_private_file.read_bytes())
        apiv3_key = apiv3_key_file.read_bytes().strip()
        platform = {path.stem: load_rsa_public(path.read_bytes()) for path in sorted(platform_dir.glob("*.pem"))}
    except OSError as error:
        raise ConfigInvalid(f"a WeChat key file cannot be read: {type(error).__name__}") from None
    if len(apiv3_key) != _APIV3_KEY_BYTES:
        raise ConfigInvalid("the WeChat APIv3 key must be 32 bytes of text")
    if not platform:
        raise ConfigInvalid("there is no WeChat platform key: callbacks could not be verified")
    return WechatKeys(
        merchant_private=private,
        merchant_serial=merchant_serial,
        platform=platform,
        newest=max(platform),
        apiv3=AESGCM(apiv3_key),
    )
