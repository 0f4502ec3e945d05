"""Signatures: the specification's vector, and the official library as a judge."""

import datetime as dt
import os

import pytest

from defray_kernel.clock import SystemClock
from defray_kernel.crypto import CannotOpen, Envelope
from defray_kernel.ids import show, uuid7
from defray_notifier.delivery.signing import Secrets, new_secret, sign
from tests.judges.run import ask

from .conftest import raw_key


def test_the_specification_s_vector() -> None:
    headers = sign(
        [raw_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        dt.datetime.fromtimestamp(1614265330, dt.UTC),
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_official_library_accepts_ours_by_either_live_secret_and_nothing_tampered() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    body = '{"type":"payment.succeeded.v1","data":{"n":"é"}}'
    now = SystemClock().real()
    keys = [raw_key(new), raw_key(old)]
    headers = sign(keys, show("msg", uuid7()), now, body.encode())
    stale = sign(keys, "msg_1", now - dt.timedelta(minutes=6), body.encode())
    cases = [
        {"headers": headers, "body": body, "secret": new},
        {"headers": headers, "body": body, "secret": old},
        {"headers": headers, "body": body, "secret": other},
        {"headers": headers, "body": body + " ", "secret": new},
        {"headers": headers | {"webhook-id": "msg_2"}, "body": body, "secret": new},
        {"headers": stale, "body": body, "secret": new},
    ]
    verdicts = ask("standardwebhooks", "verify", cases)
    assert [verdict["accepted"] for verdict in verdicts] == [True, True, False, False, False, False]


def test_a_secret_is_32_random_bytes_and_opens_at_its_own_endpoint_only() -> None:
    secrets = Secrets(Envelope({"k": os.urandom(32)}, "k"))
    endpoint, secret = uuid7(), new_secret()
    sealed = secrets.seal(endpoint, secret)
    assert len(raw_key(secret)) == 32
    assert raw_key(secret) not in sealed
    assert secrets.open(endpoint, [sealed, sealed]) == [raw_key(secret)] * 2
    with pytest.raises(CannotOpen):
        secrets.open(uuid7(), [sealed])
