"""Signatures as the channel makes and checks them: RSA2 over sorted parameters, or over the text of a response node."""

import base64
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256


def sign(key: RSAPrivateKey, content: str, *, weak: bool = False) -> str:
    """RSA PKCS#1 v1.5 over SHA-256 in base64; `weak` takes SHA-1, which nobody may accept."""
    digest = SHA1() if weak else SHA256()  # noqa: S303  A bad callback on purpose.
    return base64.b64encode(key.sign(content.encode(), PKCS1v15(), digest)).decode()


def verifies(key: RSAPublicKey, content: str, signature: str) -> bool:
    """Whether the signature is RSA2 over this content."""
    try:
        key.verify(base64.b64decode(signature, validate=True), content.encode(), PKCS1v15(), SHA256())
    except (ValueError, InvalidSignature):
        return False
    return True


def request_content(parameters: Mapping[str, str]) -> str:
    """What a merchant signs: all parameters but `sign` that are not empty, sorted, with raw values."""
    return _joined({name: value for name, value in parameters.items() if name != "sign" and value})


def notice_content(parameters: Mapping[str, str]) -> str:
    """What the channel signs of a callback: all parameters but `sign` and `sign_type`, blank ones as well."""
    return _joined({name: value for name, value in parameters.items() if name not in {"sign", "sign_type"}})


def _joined(parameters: Mapping[str, str]) -> str:
    return "&".join(f"{name}={value}" for name, value in sorted(parameters.items()))
