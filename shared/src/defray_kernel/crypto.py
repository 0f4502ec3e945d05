"""Encryption at rest and signatures, with key ids in what they make and keys parsed once."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from defray_kernel.errors import ConfigInvalid

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_KEY_ID_BYTES_MAX: Final = 64
_PKCS1V15, _SHA256 = padding.PKCS1v15(), hashes.SHA256()


class CannotOpen(Exception):
    """A sealed value is damaged, stands in the wrong place, or its key is not here."""


class Envelope:
    """AES-256-GCM envelopes (NIST SP 800-38D): version, key id, nonce, ciphertext.

    `context` names the place a value is kept at (table, column, row id): moved elsewhere it does not open.
    New values are sealed with `current`; every key of the ring opens.
    """

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        if current not in keys:
            raise ConfigInvalid("the current encryption key id is not among the keys")
        for key_id, key in keys.items():
            if len(key) != _KEY_BYTES or not 0 < len(key_id.encode()) <= _KEY_ID_BYTES_MAX:
                raise ConfigInvalid("an encryption key is not 32 bytes, or its id is empty or over 64 bytes")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = current

    @classmethod
    def from_file(cls, path: Path) -> Envelope:
        """Read `{"current": id, "keys": {id: base64}}`. Raises ConfigInvalid without naming any content."""
        try:
            document = json.loads(path.read_text("utf-8"))
            keys = {key_id: base64.b64decode(text, validate=True) for key_id, text in document["keys"].items()}
            return cls(keys, document["current"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigInvalid(f"the encryption keys file cannot be used: {type(error).__name__}") from None

    @property
    def current(self) -> str:
        """Id of the key that new values are sealed with."""
        return self._current

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt for one place."""
        key_id, nonce = self._current.encode(), os.urandom(_NONCE_BYTES)
        head = _VERSION + bytes([len(key_id)]) + key_id
        return head + nonce + self._ciphers[self._current].encrypt(nonce, plain, head + context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt a value kept at this place. Raises CannotOpen, which never tells why in detail."""
        key_id_end = 2 + (sealed[1] if len(sealed) > 1 else 0)
        head, nonce = sealed[:key_id_end], sealed[key_id_end : key_id_end + _NONCE_BYTES]
        cipher = self._ciphers.get(key_id_of(sealed))
        if sealed[:1] != _VERSION or cipher is None or len(nonce) != _NONCE_BYTES:
            raise CannotOpen
        try:
            return cipher.decrypt(nonce, sealed[key_id_end + _NONCE_BYTES :], head + context.encode())
        except InvalidTag:
            raise CannotOpen from None


def key_id_of(sealed: bytes) -> str:
    """Which key a value was sealed with; empty when it is no envelope."""
    if len(sealed) < 2:
        return ""
    return sealed[2 : 2 + sealed[1]].decode("utf-8", "replace")


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104)."""
    return hmac.digest(key, message, "sha256")


def equal(one: bytes, other: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


def load_rsa_private(pem: bytes) -> RSAPrivateKey:
    """Parse once and keep: checking a key costs 37 ms. Raises ConfigInvalid."""
    key = _load(serialization.load_pem_private_key, pem, None)
    if not isinstance(key, RSAPrivateKey):
        raise ConfigInvalid("not an RSA private key")
    return key


def load_rsa_public(pem: bytes) -> RSAPublicKey:
    """Parse once and keep. Raises ConfigInvalid."""
    key = _load(serialization.load_pem_public_key, pem)
    if not isinstance(key, RSAPublicKey):
        raise ConfigInvalid("not an RSA public key")
    return key


def load_ed25519_private(pem: bytes) -> Ed25519PrivateKey:
    """Parse once and keep. Raises ConfigInvalid."""
    key = _load(serialization.load_pem_private_key, pem, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigInvalid("not an Ed25519 private key")
    return key


def load_ed25519_public(pem: bytes) -> Ed25519PublicKey:
    """Parse once and keep. Raises ConfigInvalid."""
    key = _load(serialization.load_pem_public_key, pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigInvalid("not an Ed25519 public key")
    return key


def sign_rsa_sha256(key: RSAPrivateKey, message: bytes) -> bytes:
    """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 §8.2)."""
    return key.sign(message, _PKCS1V15, _SHA256)


def verify_rsa_sha256(key: RSAPublicKey, signature: bytes, message: bytes) -> bool:
    """Whether an RSASSA-PKCS1-v1_5 SHA-256 signature fits."""
    try:
        key.verify(signature, message, _PKCS1V15, _SHA256)
    except InvalidSignature:
        return False
    return True


def _load(loader: object, *arguments: object) -> object:
    try:
        return loader(*arguments)  # type: ignore[operator]  # one loader per kind of key, each with its own signature
    except (ValueError, TypeError):
        raise ConfigInvalid("a key file is not readable PEM") from None
