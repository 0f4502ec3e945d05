"""What Alipay's codes mean: whether it happened, and what may follow, are two columns."""

from __future__ import annotations

from typing import Final

from defray_payment.channels.alipay.wire import Node
from defray_payment.channels.spi import Kind, Next, Operation, Outcome, Trouble

_UNKNOWN: Final = frozenset({"SYSTEM_ERROR", "ISP.UNKNOW-ERROR", "AOP.UNKNOW-ERROR"})
_AUTH_CODES: Final = frozenset({"20001", "40006"})
_AUTH: Final = frozenset({"isv.invalid-signature", "isv.invalid-app-id", "isv.invalid-signature-type"})
_INVALID_CODES: Final = frozenset({"40001", "40002"})
_INVALID: Final = frozenset({"INVALID_PARAMETER"})
_CONFLICTS: Final = frozenset(
    {"TRADE_HAS_SUCCESS", "TRADE_HAS_CLOSE", "CONTEXT_INCONSISTENT", "DISCORDANT_REPEAT_REQUEST", "TRADE_STATUS_ERROR"}
)
_DECLINED: Final = frozenset(
    {
        "BUYER_BALANCE_NOT_ENOUGH",
        "BUYER_BANKCARD_BALANCE_NOT_ENOUGH",
        "BUYER_ENABLE_STATUS_FORBID",
        "BUYER_PAYMENT_AMOUNT_DAY_LIMIT_ERROR",
        "BUYER_PAYMENT_AMOUNT_MONTH_LIMIT_ERROR",
        "ERROR_BALANCE_PAYMENT_DISABLE",
        "ERROR_BUYER_CERTIFY_LEVEL_LIMIT",
        "PAYMENT_AUTH_CODE_INVALID",
        "PAYMENT_FAIL",
        "SOUNDWAVE_PARSER_FAIL",
    }
)
_NO_REFUND: Final = frozenset(
    {
        "REASON_TRADE_BEEN_FREEZEN",
        "REASON_TRADE_REFUND_FEE_ERR",
        "REFUND_AMT_NOT_EQUAL_TOTAL",
        "TRADE_HAS_FINISHED",
        "TRADE_STATUS_ERROR",
    }
)


def trouble(node: Node, operation: Operation, *, definite: bool) -> Trouble:
    """What a verified reply other than success means.

    `definite` allows a refusal to be final: the first call under a number only. An unlisted code is unknown.
    """
    sub_code = node.sub_code or ""
    name = sub_code.removeprefix("aop.").removeprefix("ACQ.")
    kind, outcome, following = _meaning(node.code, sub_code, name, operation, definite=definite)
    return Trouble(kind=kind, outcome=outcome, next=following, code=(sub_code or node.code)[:64], http_status=200)


def _meaning(
    code: str, sub_code: str, name: str, operation: Operation, *, definite: bool
) -> tuple[Kind, Outcome, Next]:
    final = (Outcome.NOT_APPLIED, Next.FAIL)
    unclear = (Outcome.UNKNOWN, Next.QUERY)
    if code == "20000" or name.upper() in _UNKNOWN:
        return Kind.UNAVAILABLE, *unclear
    if sub_code in _AUTH or code in _AUTH_CODES:
        return Kind.AUTH, Outcome.NOT_APPLIED, Next.ALERT
    if code == "40005":
        return Kind.RATE_LIMITED, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER
    if name == "TRADE_NOT_EXIST":
        return Kind.NOT_FOUND, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER
    if name == "SELLER_BALANCE_NOT_ENOUGH":
        return Kind.INSUFFICIENT_FUNDS, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER
    if operation is Operation.REFUND and name in _NO_REFUND:
        return (Kind.DECLINED, *final) if definite else (Kind.CONFLICT, *unclear)
    if name in _CONFLICTS:
        return Kind.CONFLICT, *unclear
    if operation is Operation.CREATE and name in _DECLINED:
        return (Kind.DECLINED, *final) if definite else (Kind.CONFLICT, *unclear)
    if code in _INVALID_CODES or name in _INVALID:
        return (Kind.INVALID, *final) if definite else (Kind.CONFLICT, *unclear)
    return Kind.PROTOCOL, *unclear
