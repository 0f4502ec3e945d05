"""Makes a sandbox's own keys and secrets once, each readable by its owner only, and signs operator tokens with them."""

import base64
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_sandbox.simulators.alipay import keys as alipay_keys
from defray_sandbox.simulators.wechat import keys as wechat_keys
from defray_sandbox.stack.provision import SERVICES

OPERATOR_ISSUER = "https://operators.sandbox.invalid"
_OPERATOR_AUDIENCE = "defray-operator"
_TOKEN_LIFETIME_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where the secrets of one sandbox lie. Each service is told the paths of its own files and of no others."""

    folder: Path

    @property
    def order_token_key(self) -> Path:
        return self.folder / "order" / "token_private.pem"

    @property
    def order_token_jwks(self) -> Path:
        return self.folder / "payment" / "order_tokens.jwks.json"

    @property
    def operator_jwks(self) -> Path:
        return self.folder / "operators.jwks.json"

    @property
    def channel_side(self) -> Path:
        """The simulated WeChat Pay's keys: no service may read these."""
        return self.folder / "channel" / "wechat"

    @property
    def alipay_side(self) -> Path:
        """The simulated Alipay's keys: no service may read these."""
        return self.folder / "channel" / "alipay"

    @property
    def merchant_side(self) -> Path:
        """What a real merchant has from WeChat Pay: own private key, API v3 key, the channel's public keys by id."""
        return self.folder / "payment" / "wechat"

    @property
    def alipay_merchant_side(self) -> Path:
        """What a real merchant has from Alipay: own private key and certificate, the channel's public keys and roots."""
        return self.folder / "payment" / "alipay"

    @property
    def passwords(self) -> Path:
        return self.folder / "database.json"

    @property
    def merchants(self) -> Path:
        return self.folder / "merchants.json"

    def encryption_keys(self, service: str) -> Path:
        """The ring that `service` seals personal and payment data with."""
        return self.folder / service / "encryption.json"

    def order_token_key_id(self) -> str:
        """Id of the key that signs payment tokens."""
        key: str = json.loads(self.order_token_jwks.read_text())["keys"][0]["kid"]
        return key

    def wechat_merchant_serial(self) -> str:
        """Serial of the merchant's certificate at the channel."""
        return (self.merchant_side / "merchant_serial.txt").read_text().strip()

    def operator_token(self, subject: str, roles: Sequence[str]) -> str:
        """Sign a token for the internal ports, good for an hour; `roles` are of viewer, operator, finance."""
        now = int(time.time())
        claims = {"iss": OPERATOR_ISSUER, "aud": _OPERATOR_AUDIENCE, "sub": subject, "roles": list(roles), "iat": now}
        key_id = json.loads(self.operator_jwks.read_text())["keys"][0]["kid"]
        private = (self.folder / "operators_private.pem").read_text()
        claims |= {"exp": now + _TOKEN_LIFETIME_S}
        return jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": key_id})


def make_credentials(folder: Path) -> Credentials:
    """Return the sandbox's credentials under `folder`, making what is not there yet."""
    made = Credentials(folder=folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for service in SERVICES:
        (folder / service).mkdir(exist_ok=True, mode=0o700)
        if not made.encryption_keys(service).exists():
            ring = {"current": "k1", "keys": {"k1": base64.b64encode(secrets.token_bytes(32)).decode()}}
            write_private(made.encryption_keys(service), json.dumps(ring))
    _signing_pair(made.order_token_key, made.order_token_jwks)
    _signing_pair(folder / "operators_private.pem", made.operator_jwks)
    _wechat(made)
    _alipay(made)
    return made


def write_private(path: Path, text: str) -> None:
    """Write `text` so that only the owner can read it, and no reader ever sees half of it."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)


def _signing_pair(private: Path, public: Path) -> None:
    if private.exists() and public.exists():
        return
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    document = {
        "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": f"sandbox-{secrets.token_hex(4)}",
        "x": base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }  # fmt: skip
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(private, key.private_bytes(serialization.Encoding.PEM, *form).decode())
    write_private(public, json.dumps({"keys": [document]}))


def _wechat(made: Credentials) -> None:
    wechat_keys.generate(made.channel_side)
    side = made.merchant_side
    (side / "platform").mkdir(parents=True, exist_ok=True, mode=0o700)
    # The merchant's private key belongs to the payment service alone; the channel keeps the public half.
    for name in ("merchant_private.pem", "merchant_serial.txt", "apiv3_key.txt"):
        write_private(side / name, (made.channel_side / name).read_text())
    for suffix in wechat_keys.GENERATIONS:
        serial = (made.channel_side / f"platform_serial{suffix}.txt").read_text().strip()
        write_private(
            side / "platform" / f"{serial}.pem", (made.channel_side / f"platform_public{suffix}.pem").read_text()
        )


def _alipay(made: Credentials) -> None:
    alipay_keys.generate(made.alipay_side)
    side = made.alipay_merchant_side
    # The keys that one mode verifies with lie in a folder of their own, whole: `platform` or `certificates`.
    for folder in ("platform", "certificates"):
        (side / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("app_private.pem", "app_certificate.pem", "alipay_root.pem"):
        write_private(side / name, (made.alipay_side / name).read_text())
    for suffix in alipay_keys.GENERATIONS:
        for folder, what in (("platform", "public"), ("certificates", "certificate")):
            name = f"alipay_{what}{suffix}.pem"
            write_private(side / folder / name, (made.alipay_side / name).read_text())
