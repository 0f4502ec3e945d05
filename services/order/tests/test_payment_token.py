"""A payment token carries one order's facts, is the same text at every replay, and verifies with the published key."""

import datetime as dt
from pathlib import Path

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from defray_kernel.clock import SystemClock
from defray_kernel.errors import ConfigInvalid
from defray_kernel.ids import show
from defray_order import announce
from defray_order.domain.order import OrderState
from defray_order.entrypoints.payment_token import PaymentTokens

from .given import order


def tokens(key_id: str = "k1") -> PaymentTokens:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return PaymentTokens(pem, key_id)


def test_the_published_key_verifies_the_token_and_its_claims_are_the_orders() -> None:
    shown = announce.shown(order(OrderState.PLACED), ())
    token = tokens().sign(shown)
    key = jwt.PyJWK(tokens().key_set()["keys"][0])
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "JWT", "kid": "k1"}
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience="defray-payment", issuer="defray-order")
    made_at = claims.pop("iat")
    assert abs(made_at - dt.datetime.now(dt.UTC).timestamp()) < 60
    assert claims == {
        "iss": "defray-order",
        "aud": "defray-payment",
        "sub": shown.order_id,
        "mid": shown.merchant_id,
        "amt": 300,
        "cur": "CNY",
        "oxp": "2026-03-01T14:00:00.000000Z",
        "exp": made_at + 2 * 3600 + 24 * 3600,
        "cid": "c" * 32,
    }


def test_the_token_of_a_stored_answer_is_the_same_text() -> None:
    shown = announce.shown(order(OrderState.PLACED), ())
    stored = msgspec.json.decode(msgspec.json.encode(shown), type=announce.OrderShown)
    assert tokens().sign(stored) == tokens().sign(shown)


def test_the_answer_is_stored_without_a_token() -> None:
    assert b"payment_token" not in msgspec.json.encode(announce.shown(order(OrderState.PLACED), ()))


def test_the_key_set_holds_nothing_private() -> None:
    (key,) = tokens().key_set()["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}


def other_key() -> tuple[bytes, bytes]:
    """Another signing key and its public half, in PEM."""
    key = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def test_two_keys_are_live_while_one_follows_the_other() -> None:
    shown = announce.shown(order(OrderState.PLACED), ())
    before = tokens().sign(shown)
    private, _ = other_key()
    first_public = (
        Ed25519PrivateKey.from_private_bytes(bytes(32))
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    rotated = PaymentTokens(private, "k2", also=("k1", first_public))
    after = rotated.sign(shown)
    now = SystemClock().real()
    assert jwt.get_unverified_header(after)["kid"] == "k2"
    assert [key["kid"] for key in rotated.key_set()["keys"]] == ["k2", "k1"]
    for token in (before, after):
        bearer = rotated.verify(token, now)
        assert bearer is not None
        assert show("ord", bearer.order_id) == shown.order_id
    ended = PaymentTokens(private, "k2")
    assert (ended.verify(before, now), ended.verify(after, now) is None) == (None, False)


def test_a_token_ends_a_day_after_its_order_and_only_its_own_text_is_good() -> None:
    token = tokens().sign(announce.shown(order(OrderState.PLACED), ()))
    now = SystemClock().real()
    end = dt.timedelta(hours=26)
    assert tokens().verify(token, now + end - dt.timedelta(minutes=1)) is not None
    assert tokens().verify(token, now + end + dt.timedelta(seconds=1)) is None
    head, body, signature = token.split(".")
    for forged in (f"{head}.{body}.", f"{head}.{body[:-2]}AA.{signature}", "", "a.b.c", "x" * 3000, f"{token}A"):
        assert tokens().verify(forged, now) is None


def test_keys_that_cannot_both_be_live_are_refused(tmp_path: Path) -> None:
    private, public = other_key()
    with pytest.raises(ConfigInvalid):
        PaymentTokens(private, "k1", also=("k1", public))
    file = tmp_path / "key.pem"
    file.write_bytes(private)
    with pytest.raises(ConfigInvalid):
        PaymentTokens.from_files(file, "k1", file, None)
    with pytest.raises(ConfigInvalid):
        PaymentTokens.from_files(file, "k1", tmp_path / "none.pem", "k2")


def test_another_kind_of_key_is_refused() -> None:
    with pytest.raises(ConfigInvalid):
        PaymentTokens(b"-----BEGIN NOTHING-----", "k1")
