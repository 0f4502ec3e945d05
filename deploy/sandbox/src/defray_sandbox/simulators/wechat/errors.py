"""The refusals of the channel, with its own codes and its own JSON shape."""

from enum import StrEnum
from typing import Final

from defray_sandbox.simulators.shapes import ShapeError


class Code(StrEnum):
    """Codes as the channel documents them."""

    APPID_MCHID_NOT_MATCH = "APPID_MCHID_NOT_MATCH"
    FREQUENCY_LIMITED = "FREQUENCY_LIMITED"
    INVALID_REQUEST = "INVALID_REQUEST"
    MCH_NOT_EXISTS = "MCH_NOT_EXISTS"
    NOT_ENOUGH = "NOT_ENOUGH"
    NO_AUTH = "NO_AUTH"
    ORDER_CLOSED = "ORDER_CLOSED"
    ORDER_NOT_EXIST = "ORDER_NOT_EXIST"
    ORDER_PAID = "ORDER_PAID"
    OUT_TRADE_NO_USED = "OUT_TRADE_NO_USED"
    PARAM_ERROR = "PARAM_ERROR"
    REQUEST_BLOCKED = "REQUEST_BLOCKED"
    RESOURCE_NOT_EXISTS = "RESOURCE_NOT_EXISTS"
    RULE_LIMIT = "RULE_LIMIT"
    SIGN_ERROR = "SIGN_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    TRADE_ERROR = "TRADE_ERROR"
    USERPAYING = "USERPAYING"
    USER_ACCOUNT_ABNORMAL = "USER_ACCOUNT_ABNORMAL"


STATUS: Final[dict[Code, int]] = {
    Code.APPID_MCHID_NOT_MATCH: 400,
    Code.FREQUENCY_LIMITED: 429,
    Code.INVALID_REQUEST: 400,
    Code.MCH_NOT_EXISTS: 400,
    Code.NOT_ENOUGH: 403,
    Code.NO_AUTH: 403,
    Code.ORDER_CLOSED: 400,
    Code.ORDER_NOT_EXIST: 404,
    Code.ORDER_PAID: 400,
    Code.OUT_TRADE_NO_USED: 403,
    Code.PARAM_ERROR: 400,
    Code.REQUEST_BLOCKED: 403,
    Code.RESOURCE_NOT_EXISTS: 404,
    Code.RULE_LIMIT: 403,
    Code.SIGN_ERROR: 401,
    Code.SYSTEM_ERROR: 500,
    Code.TRADE_ERROR: 403,
    Code.USERPAYING: 202,
    Code.USER_ACCOUNT_ABNORMAL: 403,
}


class ChannelError(Exception):
    """The channel refuses the request; `field` is a JSON pointer, `location` is body, query, header or uri."""

    def __init__(self, code: Code, message: str, *, field: str = "", location: str = "body") -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]
        self.message = message
        self.field = field
        self.location = location

    def to_json(self) -> dict[str, object]:
        """The body of the refusal."""
        body: dict[str, object] = {"code": self.code, "message": self.message}
        if self.field:
            body["detail"] = {"field": self.field, "issue": self.message, "location": self.location}
        return body


def of_shape(error: ShapeError) -> ChannelError:
    """The channel's PARAM_ERROR for the first field that does not fit."""
    return ChannelError(Code.PARAM_ERROR, str(error), field=error.at)
