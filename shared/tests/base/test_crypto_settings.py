"""Envelopes open only where they were sealed; settings tell every wrong key and no value."""

import base64
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from defray_kernel import crypto
from defray_kernel.errors import ConfigInvalid
from defray_kernel.settings import ServiceSettings, load

OLD, NEW = os.urandom(32), os.urandom(32)


def test_a_sealed_value_opens_in_its_place_and_after_rotation() -> None:
    before = crypto.Envelope({"k1": OLD}, "k1")
    after = crypto.Envelope({"k1": OLD, "k2": NEW}, "k2")
    sealed = before.seal(b"openid-of-a-payer", "callback.raw:1")
    assert after.open(sealed, "callback.raw:1") == b"openid-of-a-payer"
    assert crypto.key_id_of(sealed) == "k1"
    assert crypto.key_id_of(after.seal(b"x", "c")) == "k2"
    assert b"openid" not in sealed


def test_a_moved_or_damaged_value_does_not_open() -> None:
    envelope = crypto.Envelope({"k1": OLD}, "k1")
    sealed = envelope.seal(b"secret", "callback.raw:1")
    with pytest.raises(crypto.CannotOpen):
        envelope.open(sealed, "callback.raw:2")
    for position in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        with pytest.raises(crypto.CannotOpen):
            envelope.open(bytes(damaged), "callback.raw:1")
    for stump in (b"", b"\x01", sealed[:10]):
        with pytest.raises(crypto.CannotOpen):
            envelope.open(stump, "callback.raw:1")
    with pytest.raises(crypto.CannotOpen):
        crypto.Envelope({"k2": NEW}, "k2").open(sealed, "callback.raw:1")


def test_a_key_file_that_cannot_be_used_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    for text in ("", "{}", '{"current": "k1", "keys": {"k1": "c2hvcnQ="}}', '{"current": "k2", "keys": {}}', "[]"):
        path.write_text(text)
        with pytest.raises(ConfigInvalid) as refused:
            crypto.Envelope.from_file(path)
        assert "c2hvcnQ" not in str(refused.value)
    path.write_text(json.dumps({"current": "k1", "keys": {"k1": base64.b64encode(OLD).decode()}}))
    assert crypto.Envelope.from_file(path).current == "k1"


def test_rsa_signatures_fit_their_message_and_key_only() -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signature = crypto.sign_rsa_sha256(crypto.load_rsa_private(pem), b"message")
    assert crypto.verify_rsa_sha256(key.public_key(), signature, b"message")
    assert not crypto.verify_rsa_sha256(key.public_key(), signature, b"massage")
    assert not crypto.verify_rsa_sha256(key.public_key(), b"WECHATPAY/SIGNTEST/", b"message")
    with pytest.raises(ConfigInvalid):
        crypto.load_ed25519_private(pem)
    with pytest.raises(ConfigInvalid):
        crypto.load_rsa_public(b"not pem")


def good_settings(tmp_path: Path) -> dict[str, str]:
    return {
        "DEFRAY_X_PROFILE": "sandbox",
        "DEFRAY_X_DATABASE_DSN": "postgresql://u:hunter2@127.0.0.1/d",
        "DEFRAY_X_KAFKA_BOOTSTRAP": "127.0.0.1:9",
        "DEFRAY_X_KAFKA_SECURITY": "PLAINTEXT",
        "DEFRAY_X_TOPICS_FILE": str(tmp_path / "t"),
        "DEFRAY_X_ENCRYPTION_KEYS_FILE": str(tmp_path / "k"),
        "DEFRAY_X_OPERATOR_JWKS_FILE": str(tmp_path / "j"),
    }


def test_every_missing_unknown_and_malformed_key_is_told_at_once_and_no_value(tmp_path: Path) -> None:
    environment = good_settings(tmp_path)
    assert load(ServiceSettings, "DEFRAY_X_", environment).profile == "sandbox"
    del environment["DEFRAY_X_TOPICS_FILE"]
    environment |= {"DEFRAY_X_TOPIC_FILE": "typo", "DEFRAY_X_PUBLIC_PORT": "hunter3", "PROFILE": "production"}
    with pytest.raises(ConfigInvalid) as refused:
        load(ServiceSettings, "DEFRAY_X_", environment)
    message = str(refused.value)
    for key in ("DEFRAY_X_TOPICS_FILE", "DEFRAY_X_TOPIC_FILE", "DEFRAY_X_PUBLIC_PORT"):
        assert key in message
    assert "hunter" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SANDBOX_CLOCK_FILE", "/tmp/clock"),  # noqa: S108 - a name, never opened
        ("CRASH_AT", "relay.after_send:1"),
        ("KAFKA_SECURITY", "PLAINTEXT"),
        ("DATABASE_DSN", "postgresql://u:hunter2@db/d?sslmode=prefer"),
    ],
)
def test_production_refuses_what_belongs_to_the_sandbox(tmp_path: Path, key: str, value: str) -> None:
    environment = good_settings(tmp_path) | {
        "DEFRAY_X_PROFILE": "production",
        "DEFRAY_X_KAFKA_SECURITY": "SASL_SSL",
        "DEFRAY_X_DATABASE_DSN": "postgresql://u:hunter2@db/d?sslmode=verify-full",
    }
    assert load(ServiceSettings, "DEFRAY_X_", environment).profile == "production"
    with pytest.raises(ConfigInvalid, match=f"DEFRAY_X_{key}") as refused:
        load(ServiceSettings, "DEFRAY_X_", environment | {f"DEFRAY_X_{key}": value})
    assert "hunter2" not in str(refused.value)
