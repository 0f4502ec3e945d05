"""The limit of P1: a bare ASGI application that reads a callback, verifies its RSA signature and answers."""

import argparse
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Verifying:
    """204 when the signature fits, else 401; nothing is kept."""

    def __init__(self, keys: dict[bytes, RSAPublicKey]) -> None:
        self._keys = keys

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        status = 204 if scope["method"] == "GET" or self._genuine(dict(scope["headers"]), body) else 401
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _genuine(self, headers: dict[bytes, bytes], body: bytes) -> bool:
        signed = b"%b\n%b\n%b\n" % (headers[b"wechatpay-timestamp"], headers[b"wechatpay-nonce"], body)
        signature = base64.b64decode(headers[b"wechatpay-signature"])
        self._keys[headers[b"wechatpay-serial"]].verify(signature, signed, PKCS1v15(), SHA256())
        return True


def main() -> None:
    """Entry point: one worker on uvloop and httptools, as our service has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=Path, required=True, help="folder with <serial>.pem")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    keys: dict[bytes, RSAPublicKey] = {}
    for path in options.keys.glob("*.pem"):
        key = load_pem_public_key(path.read_bytes())
        assert isinstance(key, RSAPublicKey)
        keys[path.stem.encode()] = key
    app: Any = Verifying(keys)
    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False, log_level="warning", lifespan="off",
                loop="uvloop", http="httptools")  # fmt: skip


if __name__ == "__main__":
    main()
