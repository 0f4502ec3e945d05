"""A merchant who signs for himself as Alipay's pages say; written here anew, so that it can also get it wrong."""

import base64
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yarl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from defray_sandbox.simulators.alipay.keys import certificate_sn, root_sn
from defray_sandbox.simulators.process import ALIPAY_APP_ID, AlipaySimulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the gateway answered; `verified` tells whether the signature over the node's very text holds."""

    name: str
    node: dict[str, Any]
    verified: bool
    certificate_sn: str
    text: str

    @property
    def code(self) -> str:
        return str(self.node["code"])

    @property
    def sub_code(self) -> str:
        return str(self.node.get("sub_code", ""))


class AlipayMerchant:
    """Sends signed requests; `certificate_mode` sends the numbers of the certificates as well."""

    def __init__(self, simulator: AlipaySimulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session
        self.certificate_mode = False
        self.keys_dir = simulator.keys_dir
        private = serialization.load_pem_private_key((self.keys_dir / "app_private.pem").read_bytes(), None)
        assert isinstance(private, RSAPrivateKey)
        self._private = private

    def order(self, number: str, total: str = "19.99", **changes: object) -> dict[str, object]:
        """The biz_content of a request for a trade; a change to None leaves a field out."""
        body: dict[str, object] = {"out_trade_no": number, "total_amount": total, "subject": "三件衬衫 & a+b=c%"}
        body |= changes
        return {name: value for name, value in body.items() if value is not None}

    def parameters(self, method: str, content: object, /, **changes: str | None) -> dict[str, str]:
        """Signed parameters; changes are made before the signature, except to `sign` itself."""
        told: dict[str, str | None] = {
            "app_id": ALIPAY_APP_ID,
            "method": f"alipay.trade.{method}",
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": beijing_text(time.time()),
            "version": "1.0",
            "biz_content": content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
        }
        if self.certificate_mode:
            app = x509.load_pem_x509_certificate((self.keys_dir / "app_certificate.pem").read_bytes())
            told["app_cert_sn"] = certificate_sn(app)
            told["alipay_root_cert_sn"] = root_sn((self.keys_dir / "alipay_root.pem").read_bytes())
        told |= changes
        kept = {name: value for name, value in told.items() if value is not None}
        text = "&".join(f"{name}={value}" for name, value in sorted(kept.items()) if name != "sign" and value)
        signature = base64.b64encode(self._private.sign(text.encode(), PKCS1v15(), SHA256())).decode()
        return {"sign": signature} | kept if "sign" not in changes else kept

    async def call(self, method: str, content: object, /, **changes: str | None) -> Answer:
        """Send a signed request: common parameters in the address, biz_content in the body."""
        parameters = self.parameters(method, content, **changes)
        body = {"biz_content": parameters.pop("biz_content")} if "biz_content" in parameters else {}
        return await self.post(urlencode(parameters), urlencode(body))

    async def post(self, query: str, body: str, content_type: str = "application/x-www-form-urlencoded") -> Answer:
        """Send what is given."""
        # The client would write the address anew otherwise, and bad encodings with it.
        url = yarl.URL(f"{self.simulator.base_url}/gateway.do?{query}", encoded=True)
        async with self.session.post(url, data=body.encode(), headers={"Content-Type": content_type}) as reply:
            return self.read(await reply.text())

    def read(self, text: str) -> Answer:
        """Take a reply apart by hand: the node is everything up to what follows it."""
        value = json.loads(text)
        name = next(name for name in value if name.endswith("_response"))
        start = text.index(f'"{name}":') + len(name) + 3
        _, length = json.JSONDecoder().raw_decode(text[start:])
        return Answer(
            name=name,
            node=value[name],
            verified=self._verified(text[start : start + length], value.get("sign", "")),
            certificate_sn=value.get("alipay_cert_sn", ""),
            text=text,
        )

    def link(self, method: str, content: object, /, **changes: str | None) -> str:
        """The signed address for a browser."""
        return f"{self.simulator.base_url}/gateway.do?{urlencode(self.parameters(method, content, **changes))}"

    def _verified(self, node: str, signature: str) -> bool:
        public = serialization.load_pem_public_key((self.keys_dir / "alipay_public.pem").read_bytes())
        assert isinstance(public, RSAPublicKey)
        try:
            public.verify(base64.b64decode(signature), node.encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


def beijing_text(unix_s: float) -> str:
    """A time as the channel writes it."""
    return (datetime.fromtimestamp(unix_s, UTC) + timedelta(hours=8)).strftime("%Y-%m-%d %H:%M:%S")
