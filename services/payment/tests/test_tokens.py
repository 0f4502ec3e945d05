"""Payment tokens: what verifies, and what does not, whatever the reason."""

import datetime as dt
import json

import jwt
import pytest

from defray_kernel.clock import ManualClock, SystemClock
from defray_kernel.errors import ConfigInvalid
from defray_payment.entrypoints.tokens import PaymentTokens

from .conftest import OrderService
from .given import terms

REAL = SystemClock().real()


@pytest.fixture
def orders() -> OrderService:
    return OrderService()


def test_a_token_tells_its_order_until_it_ends(orders: OrderService) -> None:
    clock, of = ManualClock(REAL), terms()
    verify, token = PaymentTokens(orders.jwks(), clock), orders.token(of)
    for _ in range(2):
        found = verify(token)
        assert found is not None
        assert found.terms == of
    clock.advance(dt.timedelta(hours=2))
    assert verify(token) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "defray-payment"},
        {"aud": "defray-order"},
        {"exp": 1},
        {"sub": "pay_0"},
        {"mid": ""},
        {"amt": "19900"},
        {"amt": True},
        {"amt": -1},
        {"amt": 10**13},
        {"cur": "XXX"},
        {"oxp": "soon"},
        {"oxp": "2026-11-24T10:00:00"},
        {"cid": ""},
        {"cid": 7},
        {"exp": 10**30},
    ],
)
def test_wrong_claims(orders: OrderService, claims: dict[str, object]) -> None:
    assert PaymentTokens(orders.jwks(), ManualClock(REAL))(orders.token(terms(), **claims)) is None


def test_forgeries(orders: OrderService) -> None:
    verify, of = PaymentTokens(orders.jwks(), ManualClock(REAL)), terms()
    good = orders.token(of)
    head, body, signature = good.split(".")
    stranger = OrderService()
    claims = jwt.decode(good, options={"verify_signature": False})
    public = json.loads(orders.jwks())["keys"][0]["x"]
    forged = [
        stranger.token(of),
        f"{head}.{body}.{signature[:-4]}AAAA",
        f"{head}.{body}.",
        jwt.encode(claims, None, algorithm="none", headers={"kid": "o1"}),
        jwt.encode(claims, public.ljust(32, "x"), algorithm="HS256", headers={"kid": "o1"}),
        jwt.encode(claims, orders.key, algorithm="EdDSA", headers={"kid": "o2"}),
        jwt.encode(claims, orders.key, algorithm="EdDSA"),
        "x" * 5000,
        "",
        "a.b.c",
    ]
    assert [verify(token) for token in forged] == [None] * len(forged)
    assert verify(good) is not None


def test_what_is_remembered_is_bounded(orders: OrderService) -> None:
    verify = PaymentTokens(orders.jwks(), ManualClock(REAL), remembered_max=3)
    made = [orders.token(terms()) for _ in range(5)]
    assert all(verify(token) for token in made)
    assert len(verify._verified) == 3
    assert all(verify(token) for token in made)


@pytest.mark.parametrize(
    "key_set", [b"", b"{}", b'{"keys": []}', b'{"keys": [{"kid": "a", "kty": "oct", "k": "AAAA"}]}']
)
def test_a_key_set_that_cannot_be_used(key_set: bytes) -> None:
    with pytest.raises(ConfigInvalid):
        PaymentTokens(key_set, ManualClock(REAL))
