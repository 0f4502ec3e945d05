"""The official Standard Webhooks library as a judge; runs in its own environment and knows nothing of ours."""

# A judge talks untyped JSON and reports whatever its library raises as its verdict.
# ruff: noqa: ANN001, ANN201, BLE001

import json
import sys
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

# The vector that the specification publishes.
_VECTOR = {
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "timestamp": 1614265330,
    "body": '{"test": 2432232314}',
    "signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def verify(question):
    """[{headers, body, secret}] -> [{accepted, why}], one verdict each, in order."""
    verdicts = []
    for case in question:
        headers = {name.lower(): value for name, value in case["headers"].items()}
        try:
            Webhook(case["secret"]).verify(case["body"], headers)
            verdicts.append({"accepted": True, "why": None})
        except Exception as error:
            verdicts.append({"accepted": False, "why": f"{type(error).__name__}: {error}"})
    return verdicts


def sign(question):
    """[{secret, id, timestamp, body}] -> [signature]; timestamps in unix seconds."""
    return [
        Webhook(case["secret"]).sign(
            msg_id=case["id"], timestamp=datetime.fromtimestamp(case["timestamp"], UTC), data=case["body"]
        )
        for case in question
    ]


def known_answers(_question):
    """The published vector: {signed: true} or it is not the protocol we mean."""
    return {"signed": sign([_VECTOR]) == [_VECTOR["signature"]]}


VERBS = {"verify": verify, "sign": sign, "known-answers": known_answers}

if __name__ == "__main__":
    json.dump(VERBS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
