"""The refusals of the gateway and of the business behind it, with the channel's own codes."""

from collections.abc import Mapping
from typing import Final

MESSAGES: Final[dict[str, str]] = {
    "10000": "Success",
    "10003": "order success pay inprocess",
    "20000": "Service Currently Unavailable",
    "20001": "Insufficient Token Permissions",
    "40001": "Missing Required Arguments",
    "40002": "Invalid Arguments",
    "40004": "Business Failed",
    "40005": "Call Limited",
    "40006": "Insufficient Permissions",
}
_SUB_CODES = {
    "20000": "isp.unknow-error",
    "20001": "aop.invalid-auth-token",
    "40005": "isv.app-call-limited",
    "40006": "isv.insufficient-isv-permissions",
}


class GatewayError(Exception):
    """The channel refuses; `fields` are told beside the codes, `signed` is False when it cannot know who asks."""

    def __init__(self, code: str, sub_code: str, message: str, *, signed: bool = True,
                 fields: Mapping[str, str] | None = None) -> None:  # fmt: skip
        super().__init__(f"{sub_code}: {message}")
        self.code = code
        self.sub_code = sub_code
        self.message = message
        self.signed = signed
        self.fields = fields or {}

    def to_node(self) -> dict[str, object]:
        """The response node of the refusal."""
        return {
            "code": self.code,
            "msg": MESSAGES[self.code],
            "sub_code": self.sub_code,
            "sub_msg": self.message,
            **self.fields,
        }


def business(sub_code: str, message: str, fields: Mapping[str, str] | None = None) -> GatewayError:
    """40004: the request is well-formed and is refused."""
    return GatewayError("40004", f"ACQ.{sub_code}", message, fields=fields)


def invalid(sub_code: str, message: str, *, signed: bool = True) -> GatewayError:
    """40002: a common parameter is wrong."""
    return GatewayError("40002", f"isv.{sub_code}", message, signed=signed)


def planned(code: str) -> GatewayError:
    """The refusal that a fault plan names: a code of the gateway such as 20000, or a sub code such as ACQ.SYSTEM_ERROR."""
    if code in _SUB_CODES:
        return GatewayError(code, _SUB_CODES[code], "planned fault")
    return GatewayError("40004", code or "ACQ.SYSTEM_ERROR", "planned fault")
