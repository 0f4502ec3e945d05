"""Alipay's own client as a judge; runs in its own environment and knows nothing of ours.

Keys are given as a folder (`keys_dir`, as python -m defray_sandbox.simulators.alipay.keys makes it).
"""

# A judge talks untyped JSON and reports whatever its library raises as its verdict.
# ruff: noqa: ANN001, ANN201, ANN202, BLE001

import base64
import http.client
import importlib
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

# The client stamps requests with the local time and takes it for Beijing's.
os.environ["TZ"] = "CST-8"
time.tzset()

from alipay.aop.api.AlipayClientConfig import AlipayClientConfig  # noqa: E402
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient  # noqa: E402
from alipay.aop.api.util import SignatureUtils, WebUtils  # noqa: E402

_METHODS = {
    "page": "AlipayTradePagePay",
    "wap": "AlipayTradeWapPay",
    "app": "AlipayTradeAppPay",
    "precreate": "AlipayTradePrecreate",
    "pay": "AlipayTradePay",
    "create": "AlipayTradeCreate",
    "query": "AlipayTradeQuery",
    "close": "AlipayTradeClose",
    "cancel": "AlipayTradeCancel",
    "refund": "AlipayTradeRefund",
    "refund_query": "AlipayTradeFastpayRefundQuery",
}


def _connection(url, query, timeout):
    # The client's own function fixes the port to 80 or 443; this is all of it that is replaced.
    parts = urlsplit(url)
    return f"{parts.path}?{query}", http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


WebUtils.get_http_connection = _connection


def _pem_body(text):
    return "".join(line for line in text.splitlines() if not line.startswith("-----"))


def _pkcs1(pem):
    """The RSA key inside a PKCS#8 envelope, which this client cannot read: the last octet string of three fields."""
    der = base64.b64decode(_pem_body(pem))
    # PKCS#8 of a 2048-bit RSA key: 26 bytes of header before the PKCS#1 structure.
    return base64.b64encode(der[26:]).decode()


def _client(question):
    keys = Path(question["keys_dir"])
    generation = "_2" if question.get("generation") == 2 else ""
    config = AlipayClientConfig()
    config.server_url = f"{question.get('base_url', 'http://127.0.0.1:9')}/gateway.do"
    config.app_id = question.get("app_id", "2021000000000001")
    config.app_private_key = _pkcs1((keys / "app_private.pem").read_text())
    config.alipay_public_key = _pem_body((keys / f"alipay_public{generation}.pem").read_text())
    config.timeout = 10
    return DefaultAlipayClient(config)


def _request(method, arguments, question):
    name = _METHODS[method]
    request_type = getattr(importlib.import_module(f"alipay.aop.api.request.{name}Request"), f"{name}Request")
    model_type = getattr(importlib.import_module(f"alipay.aop.api.domain.{name}Model"), f"{name}Model")
    request = request_type(biz_model=model_type.from_alipay_dict(arguments))
    for name in ("notify_url", "return_url"):
        if name in question:
            setattr(request, name, question[name])
    return request


def drive(question):
    """{keys_dir, base_url, steps: [[method, biz content]]} -> [node or {"error"}]; the client signs and verifies."""
    client = _client(question)
    answers = []
    for method, arguments in question["steps"]:
        try:
            answers.append(json.loads(client.execute(_request(method, arguments, question))))
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
    return answers


def link(question):
    """{keys_dir, base_url, method, arguments, notify_url} -> the signed address or order string that the client makes."""
    client = _client(question)
    request = _request(question["method"], question["arguments"], question)
    return client.sdk_execute(request) if question["method"] == "app" else client.page_execute(request, "GET")


def verify_callback(question):
    """{keys_dir, callbacks: [{body}]} -> [{accepted, parameters, why}], one verdict each, in order.

    The client verifies text that the caller takes apart: all parameters but sign and sign_type.
    """
    public = _pem_body(
        (Path(question["keys_dir"]) / f"alipay_public{'_2' if question.get('generation') == 2 else ''}.pem").read_text()
    )
    verdicts = []
    for callback in question["callbacks"]:
        try:
            told = dict(parse_qsl(callback["body"], keep_blank_values=True, strict_parsing=True))
            signed = {name: value for name, value in told.items() if name not in {"sign", "sign_type"}}
            content = SignatureUtils.get_sign_content(signed).encode()
            accepted = SignatureUtils.verify_with_rsa(public, content, told["sign"])
            verdicts.append({"accepted": bool(accepted), "parameters": told, "why": None})
        except Exception as error:
            verdicts.append({"accepted": False, "parameters": None, "why": f"{type(error).__name__}: {error}"})
    return verdicts


def verify_request(question):
    """{keys_dir, requests: [{name: value}]} -> [{accepted, why}]: the client must make the same signature.

    RSA PKCS#1 v1.5 is deterministic, so the client's own signature over the same parameters is the only right one.
    """
    private = _pkcs1((Path(question["keys_dir"]) / "app_private.pem").read_text())
    verdicts = []
    for parameters in question["requests"]:
        signed = {name: value for name, value in parameters.items() if name != "sign" and value}
        wanted = SignatureUtils.sign_with_rsa2(private, SignatureUtils.get_sign_content(signed), "utf-8")
        accepted = parameters.get("sign") == wanted
        verdicts.append({"accepted": accepted, "why": None if accepted else "sign"})
    return verdicts


def verify_text(question):
    """{public_pem, texts: [[text, sign]]} -> [accepted]: whether each text was signed by this key."""
    public = _pem_body(question["public_pem"])
    verdicts = []
    for text, sign in question["texts"]:
        try:
            verdicts.append(bool(SignatureUtils.verify_with_rsa(public, text.encode(), sign)))
        except Exception:
            verdicts.append(False)
    return verdicts


VERBS = {
    "drive": drive,
    "link": link,
    "verify-callback": verify_callback,
    "verify-request": verify_request,
    "verify-text": verify_text,
}

if __name__ == "__main__":
    json.dump(VERBS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
