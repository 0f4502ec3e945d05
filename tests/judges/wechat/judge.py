"""The community client wechatpayv3 as a judge; runs in its own environment and knows nothing of ours.

Keys are given as a folder (`keys_dir`, as python -m defray_sandbox.simulators.wechat.keys makes it).
"""

# A judge talks untyped JSON and reports whatever its library raises as its verdict.
# ruff: noqa: ANN001, ANN201, ANN202, ANN204, BLE001

import base64
import json
import sys
import tempfile
from pathlib import Path

import wechatpayv3.utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from wechatpayv3 import WeChatPay, WeChatPayType

# The known answer of the official Java SDK's own tests.
_AES_GCM = ("a7cde1ZJB1kG2e7VfTs3jQzaWizur8Gb", "uluk4a9R25RW", "message", "associatedData",
            "ulwSiIajGClcvcOYvOQ7+l+0PAbzzwI=")  # fmt: skip


def _client(question):
    keys = Path(question["keys_dir"])
    text = lambda name: (keys / name).read_text().strip()  # noqa: E731
    generation = "_2" if question.get("generation") == 2 else ""
    # In certificate mode the client knows one platform certificate, as if it had loaded it on an earlier day.
    known = {"public_key": text(f"platform_public{generation}.pem"),
             "public_key_id": text(f"platform_serial{generation}.txt")}  # fmt: skip
    if question.get("mode") == "certificate":
        known = {"cert_dir": tempfile.mkdtemp()}
        (Path(known["cert_dir"]) / "known.pem").write_text(text(f"platform_certificate{generation}.pem"))
    client = WeChatPay(
        WeChatPayType.NATIVE,
        mchid=question.get("mchid", "1900000109"),
        appid=question.get("appid", "wx8888888888888888"),
        private_key=text("merchant_private.pem"),
        cert_serial_no=text("merchant_serial.txt"),
        apiv3_key=text("apiv3_key.txt"),
        notify_url=question.get("notify_url", "https://merchant.example/notify"),
        **known,
        timeout=(5, 10),
    )
    if "base_url" in question:
        client._core._gate_way = question["base_url"]
    # An unknown serial makes this client ask the real channel for certificates; here it must stay unknown.
    client._core._update_certificates = lambda: None
    return client


def verify_callback(question):
    """{keys_dir, callbacks: [{headers, body}]} -> [{accepted, event, why}], one verdict each, in order."""
    client = _client(question)
    verdicts = []
    for callback in question["callbacks"]:
        try:
            event = client.callback(callback["headers"], callback["body"])
            verdicts.append({"accepted": event is not None, "event": event, "why": None})
        except Exception as error:
            verdicts.append({"accepted": False, "event": None, "why": f"{type(error).__name__}: {error}"})
    return verdicts


def verify_authorization(question):
    """{keys_dir, requests: [{method, target, body, authorization}]} -> [{accepted, why}].

    The signature algorithm is deterministic, so the client's own header for the same nonce and second must hold the
    same signature.
    """
    client = _client(question)
    verdicts = []
    for request in question["requests"]:
        scheme, _, rest = request["authorization"].partition(" ")
        claimed = dict(part.strip().split("=", 1) for part in rest.split(","))
        claimed = {name: value.strip('"') for name, value in claimed.items()}
        wechatpayv3.utils.time = _FrozenTime(int(claimed["timestamp"]))
        theirs = wechatpayv3.utils.build_authorization(
            request["target"], request["method"], client._mchid, client._core._cert_serial_no,
            client._core._private_key, data=request["body"], nonce_str=claimed["nonce_str"],
        )  # fmt: skip
        wanted = dict(part.split("=", 1) for part in theirs.partition(" ")[2].split(","))
        wanted = {name: value.strip('"') for name, value in wanted.items()}
        wrong = sorted(name for name in wanted.keys() | claimed.keys() if wanted.get(name) != claimed.get(name))
        if scheme != theirs.partition(" ")[0]:
            wrong.append("scheme")
        verdicts.append({"accepted": not wrong, "why": ", ".join(wrong) or None})
    return verdicts


def authorize(question):
    """{keys_dir, requests: [{method, target, body}]} -> [authorization made by the client]."""
    client = _client(question)
    return [
        wechatpayv3.utils.build_authorization(
            request["target"], request["method"], client._mchid, client._core._cert_serial_no,
            client._core._private_key, data=request["body"],
        )
        for request in question["requests"]
    ]  # fmt: skip


def drive(question):
    """{keys_dir, base_url, mode, steps: [[method, arguments]]} -> [[status, body]]; the unmodified client verifies.

    A `pay_type` among the arguments names the product.
    """
    client = _client(question)
    answers = []
    for method, arguments in question["steps"]:
        product = {"pay_type": WeChatPayType[arguments["pay_type"]]} if "pay_type" in arguments else {}
        try:
            status, body = getattr(client, method)(**arguments | product)
            answers.append([status, body.decode() if isinstance(body, bytes) else body])
        except Exception as error:
            answers.append([None, f"{type(error).__name__}: {error}"])
    return answers


def certificates(question):
    """{keys_dir, base_url} -> serials of the platform certificates that the client downloads and can open."""
    client = _client(question | {"mode": "certificate"})
    type(client._core)._update_certificates(client._core)
    return [f"{certificate.serial_number:X}" for certificate in client._core._certificates]


def known_answers(_question):
    """The published vector, computed by the library's decryption: true or it is not the protocol we mean."""
    key, nonce, plain, associated, sealed = _AES_GCM
    ours = base64.b64encode(AESGCM(key.encode()).encrypt(nonce.encode(), plain.encode(), associated.encode())).decode()
    opened = wechatpayv3.utils.aes_decrypt(nonce=nonce, ciphertext=sealed, associated_data=associated, apiv3_key=key)
    return {"sealed": ours == sealed, "opened": opened == plain}


class _FrozenTime:
    def __init__(self, now_s):
        self._now_s = now_s

    def time(self):
        return self._now_s


VERBS = {
    "verify-callback": verify_callback,
    "verify-authorization": verify_authorization,
    "authorize": authorize,
    "drive": drive,
    "certificates": certificates,
    "known-answers": known_answers,
}

if __name__ == "__main__":
    json.dump(VERBS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
