"""Signatures and sealed resources as the channel makes and checks them."""

import asyncio
import base64
import json
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import Executor

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256

from defray_sandbox.simulators.wechat.errors import ChannelError, Code
from defray_sandbox.simulators.wechat.keys import ChannelKeys

SCHEME = "WECHATPAY2-SHA256-RSA2048"
SKEW_S_MAX = 300
_CREDENTIAL = re.compile(r'\s*([a-z_]+)="([^"]*)"\s*', re.ASCII)
_CREDENTIALS = {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}
_NONCE = re.compile(r"[0-9A-Za-z]{16,32}", re.ASCII)
_AUTHORIZATION_CHARACTERS_MAX = 2048


def sign(key: RSAPrivateKey, message: bytes) -> str:
    """RSA PKCS#1 v1.5 over SHA-256, in base64."""
    return base64.b64encode(key.sign(message, PKCS1v15(), SHA256())).decode()


def message_of(timestamp: str, nonce: str, body: bytes) -> bytes:
    """What the channel signs on its replies and callbacks."""
    return b"%b\n%b\n%b\n" % (timestamp.encode(), nonce.encode(), body)


def signed_headers(key: RSAPrivateKey, serial: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The five Wechatpay-* headers over a body."""
    timestamp, nonce = str(timestamp_s), secrets.token_hex(16)
    return {
        "Wechatpay-Timestamp": timestamp,
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Serial": serial,
        "Wechatpay-Signature": sign(key, message_of(timestamp, nonce, body)),
        "Wechatpay-Signature-Type": SCHEME,
    }


def seal(apiv3_key: bytes, resource: Mapping[str, object] | bytes, kind: str) -> dict[str, str]:
    """Encrypt a resource, or text as it is, with AES-256-GCM as the channel's callbacks and certificates carry it."""
    nonce = secrets.token_hex(6)
    plain = resource
    if not isinstance(plain, bytes):
        plain = json.dumps(resource, ensure_ascii=False, separators=(",", ":")).encode()
    sealed = AESGCM(apiv3_key).encrypt(nonce.encode(), plain, kind.encode())
    return {
        "original_type": kind,
        "algorithm": "AEAD_AES_256_GCM",
        "ciphertext": base64.b64encode(sealed).decode(),
        "associated_data": kind,
        "nonce": nonce,
    }


class SigningBench:
    """Signs on threads: the C code gives up the interpreter lock, so the event loop goes on meanwhile."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def headers(self, key: RSAPrivateKey, serial: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """signed_headers, off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, signed_headers, key, serial, timestamp_s, body)


def check_authorization(
    keys: ChannelKeys, header: str | None, *, mchid: str, now_s: int, method: str, target: str, body: bytes
) -> None:
    """Check the merchant's Authorization header; raises ChannelError SIGN_ERROR (401).

    `target` is path and query exactly as they were sent. Source: APIv3 signature rules.
    """
    values = _credentials(header)
    if values["mchid"] != mchid:
        raise _sign_error("mchid is unknown")
    if values["serial_no"] != keys.merchant_serial:
        raise _sign_error("serial_no does not belong to the merchant")
    timestamp = values["timestamp"]
    if re.fullmatch(r"[0-9]{10}", timestamp, re.ASCII) is None or abs(now_s - int(timestamp)) > SKEW_S_MAX:
        raise _sign_error("timestamp is more than 5 minutes off")
    if _NONCE.fullmatch(values["nonce_str"]) is None:
        raise _sign_error("nonce_str is malformed")
    message = f"{method}\n{target}\n{timestamp}\n{values['nonce_str']}\n".encode() + body + b"\n"
    try:
        signature = base64.b64decode(values["signature"], validate=True)
        keys.merchant.verify(signature, message, PKCS1v15(), SHA256())
    except (ValueError, InvalidSignature) as error:
        raise _sign_error("signature does not verify") from error


def _credentials(header: str | None) -> dict[str, str]:
    if header is None:
        raise _sign_error("Authorization is missing")
    if len(header) > _AUTHORIZATION_CHARACTERS_MAX:
        raise _sign_error("Authorization is too long")
    scheme, _, rest = header.partition(" ")
    if scheme != SCHEME:
        raise _sign_error("Authorization has an unknown scheme")
    values: dict[str, str] = {}
    for part in rest.split(","):
        found = _CREDENTIAL.fullmatch(part)
        if found is None or found[1] in values:
            raise _sign_error("Authorization is malformed")
        values[found[1]] = found[2]
    if set(values) != _CREDENTIALS:
        raise _sign_error("Authorization must hold mchid, nonce_str, timestamp, serial_no and signature")
    return values


def _sign_error(issue: str) -> ChannelError:
    return ChannelError(Code.SIGN_ERROR, issue, field="Authorization", location="header")
