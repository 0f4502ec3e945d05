"""WeChat's JSON to our types and back; pure. What the channel did not sign never decides anything for good."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from defray_payment.channels.spi import (
    PROTOCOL,
    UNVERIFIED,
    CreatePayment,
    Kind,
    Next,
    NextAction,
    Notice,
    Outcome,
    PaymentView,
    RefundCall,
    RefundView,
    Trouble,
)
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import ChannelAccount, RefundReport, Report

CHANNEL: Final = "wechat"
TRANSACTIONS: Final = "/v3/pay/transactions"
CERTIFICATES: Final = "/v3/certificates"
REFUNDS: Final = "/v3/refund/domestic/refunds"
_PREPAY_LIVES: Final = dt.timedelta(hours=2)
_H5_LIVES: Final = dt.timedelta(minutes=5)
_EXPIRE_AHEAD_MIN: Final = dt.timedelta(seconds=90)  # the channel takes no end less than a minute ahead
_AMOUNT_MAX: Final = 10**15
_BEIJING: Final = dt.timezone(dt.timedelta(hours=8))
_NUMBER: Final = re.compile(r"[0-9A-Za-z_\-|*]{6,32}", re.ASCII)
_TXN_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)
_PLAIN: Final = re.compile(r"[!-~]{1,64}", re.ASCII)

# REFUND means paid and at least partly refunded: for the payment it is money that arrived. An absent state is no state.
_STATES: Final = {
    "SUCCESS": Report.PAID,
    "REFUND": Report.PAID,
    "NOTPAY": Report.OPENED,
    "USERPAYING": Report.OPENED,
    "ACCEPT": Report.OPENED,
    "CLOSED": Report.CLOSED,
    "REVOKED": Report.RETURNED,
    "PAYERROR": Report.REFUSED,
}
_REFUND_STATES: Final = {
    "PROCESSING": RefundReport.PROCESSING,
    "SUCCESS": RefundReport.SUCCEEDED,
    "CLOSED": RefundReport.FAILED,
    "ABNORMAL": RefundReport.ABNORMAL,
}
_REFUND_EVENTS: Final = frozenset({"REFUND.SUCCESS", "REFUND.ABNORMAL", "REFUND.CLOSED"})
# Written without "_", because generations of the API differ in it.
_CONFLICTS: Final = frozenset({"OUTTRADENOUSED", "ORDERCLOSED", "ORDERPAID", "TRADEERROR", "RULELIMIT"})
_LIMITS: Final = frozenset({"FREQUENCYLIMITED", "FREQUENCYLIMITEXCEED", "RATELIMITEXCEEDED"})
_AUTH: Final = frozenset({"SIGNERROR", "NOAUTH", "APPIDMCHIDNOTMATCH", "MCHNOTEXISTS"})
_NOT_FOUND: Final = frozenset({"ORDERNOTEXIST", "RESOURCENOTEXISTS"})
_INVALID: Final = frozenset({"PARAMERROR", "INVALIDREQUEST"})
_DECLINED: Final = frozenset({"USERACCOUNTABNORMAL", "REQUESTBLOCKED"})
_NO_FUNDS: Final = frozenset({"NOTENOUGH"})


class Resource(msgspec.Struct, frozen=True):
    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str | None = None


class Callback(msgspec.Struct, frozen=True):
    """The outer JSON of a callback."""

    id: str
    event_type: str
    resource: Resource


class _Amount(msgspec.Struct, frozen=True):
    total: int | None = None
    refund: int | None = None
    currency: str | None = None


class _Refund(msgspec.Struct, frozen=True):
    out_refund_no: str
    out_trade_no: str | None = None
    refund_id: str | None = None
    mchid: str | None = None
    status: str | None = None  # a reply's name for it
    refund_status: str | None = None  # a callback's
    success_time: str | None = None
    amount: _Amount | None = None


class _Transaction(msgspec.Struct, frozen=True):
    out_trade_no: str
    trade_state: str | None = None
    mchid: str | None = None
    appid: str | None = None
    transaction_id: str | None = None
    success_time: str | None = None
    amount: _Amount | None = None


class _Created(msgspec.Struct, frozen=True):
    code_url: str | None = None
    h5_url: str | None = None
    prepay_id: str | None = None


class _Refusal(msgspec.Struct, frozen=True):
    code: str


class _Certificate(msgspec.Struct, frozen=True):
    serial_no: str
    encrypt_certificate: Resource


class _Certificates(msgspec.Struct, frozen=True):
    data: list[_Certificate]


_certificates = msgspec.json.Decoder(_Certificates).decode
_callback = msgspec.json.Decoder(Callback).decode
_transaction = msgspec.json.Decoder(_Transaction).decode
_refund = msgspec.json.Decoder(_Refund).decode
_created = msgspec.json.Decoder(_Created).decode
_refusal = msgspec.json.Decoder(_Refusal).decode


def create_body(request: CreatePayment, account: ChannelAccount, notify_url: str, now: dt.datetime) -> bytes:
    """The body that opens an order; the bytes are signed and sent as they are. `now` is business time."""
    told: dict[str, object] = {
        "appid": account.app_ref,
        "mchid": account.merchant_ref,
        "description": request.description,
        "out_trade_no": request.attempt_no,
        "amount": {"total": request.amount.minor, "currency": request.amount.currency},
    }
    if request.product != "codepay":  # it has neither an end nor a callback
        told["time_expire"] = _ends(request, now).astimezone(_BEIJING).isoformat(timespec="seconds")
        told["notify_url"] = notify_url
    payer = request.payer
    match request.product:
        case "jsapi":
            told["payer"] = {"openid": payer.payer_id}
        case "h5":
            told["scene_info"] = {"payer_client_ip": payer.client_ip, "h5_info": {"type": "Wap"}}
        case "codepay":
            told["payer"] = {"auth_code": payer.auth_code}
        case _:
            pass  # native and app need to know nobody
    return msgspec.json.encode(told)


def refund_body(request: RefundCall, notify_url: str) -> bytes:
    """The body that asks for a refund."""
    return msgspec.json.encode(
        {
            "transaction_id": request.channel_txn_id,
            "out_refund_no": request.refund_no,
            "reason": request.reason,
            "notify_url": notify_url,
            "amount": {
                "refund": request.amount.minor,
                "total": request.total.minor,
                "currency": request.amount.currency,
            },
        }
    )


def reverse_body(account: ChannelAccount) -> bytes:
    """The body that ends an order paid by code."""
    return msgspec.json.encode({"appid": account.app_ref, "mchid": account.merchant_ref})


def close_body(account: ChannelAccount) -> bytes:
    """The body that closes an order."""
    return msgspec.json.encode({"mchid": account.merchant_ref})


def read_created(request: CreatePayment, body: bytes, now: dt.datetime) -> PaymentView | str | Trouble:
    """The order is open: what the payer does next, or the prepay id that is yet to be signed; `body` is verified."""
    try:
        told = _created(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return PROTOCOL
    match request.product:
        case "native" if told.code_url:
            return opened(request, "qr", {"code_url": told.code_url}, now)
        case "h5" if told.h5_url and told.h5_url.startswith("https://"):
            return opened(request, "redirect", {"url": told.h5_url}, now)
        case "jsapi" | "app" if told.prepay_id and _PLAIN.fullmatch(told.prepay_id):
            return told.prepay_id
        case "codepay":
            return read_transaction(body) or PROTOCOL
        case _:
            return PROTOCOL


def opened(
    request: CreatePayment,
    type_: Literal["qr", "redirect", "app_sdk", "jsapi", "none"],
    data: Mapping[str, str],
    now: dt.datetime,
) -> PaymentView:
    """The order is open and this is what the payer does next."""
    lives = _H5_LIVES if type_ == "redirect" else _PREPAY_LIVES
    action = NextAction(type=type_, data=data, expires_at=min(_ends(request, now), now + lives))
    return PaymentView(attempt_no=request.attempt_no, report=Report.OPENED, action=action)


def waits_for_payer(body: bytes) -> bool:
    """Whether a 202 says that the payer is typing a password."""
    return _code(body).replace("_", "") == "USERPAYING"


def read_refund(body: bytes) -> RefundView | None:
    """What a verified refund reply or callback resource says; None when it does not read or its state is not known."""
    try:
        told = _refund(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    state = told.status or told.refund_status or ""
    report = _REFUND_STATES.get(state)
    if report is None or _NUMBER.fullmatch(told.out_refund_no) is None:
        return None
    amount = told.amount or _Amount()
    return RefundView(
        report=report,
        refund_no=told.out_refund_no,
        attempt_no=told.out_trade_no if _NUMBER.fullmatch(told.out_trade_no or "") else None,
        amount_minor=amount.refund if amount.refund is not None and abs(amount.refund) <= _AMOUNT_MAX else None,
        currency=_plain(amount.currency),
        channel_refund_id=told.refund_id if _TXN_ID.fullmatch(told.refund_id or "") else None,
        done_at=_time(told.success_time),
        native_state=state,
        merchant_ref=_plain(told.mchid),
    )


def read_transaction(body: bytes) -> PaymentView | None:
    """What a verified query reply or callback resource says; None when it does not read.

    A state that is not known is never mapped: the report is UNCLEAR and carries the native state.
    """
    try:
        told = _transaction(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if _NUMBER.fullmatch(told.out_trade_no) is None:
        return None
    amount = told.amount or _Amount()
    total = amount.total if amount.total is not None and abs(amount.total) <= _AMOUNT_MAX else None
    state = told.trade_state or ""
    return PaymentView(
        attempt_no=told.out_trade_no,
        report=_STATES.get(state, Report.UNCLEAR),
        native_state=_plain(state) or "ABSENT",
        merchant_ref=_plain(told.mchid),
        app_ref=_plain(told.appid),
        amount_minor=total,
        currency=_plain(amount.currency),
        channel_txn_id=told.transaction_id if _TXN_ID.fullmatch(told.transaction_id or "") else None,
        paid_at=_time(told.success_time),
    )


def read_certificates(body: bytes) -> dict[str, Resource] | None:
    """The sealed platform certificates by serial; None when it does not read."""
    try:
        told = _certificates(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return {each.serial_no: each.encrypt_certificate for each in told.data if _PLAIN.fullmatch(each.serial_no)}


def read_callback(body: bytes) -> Callback | None:
    """The outer JSON of a callback; None when it does not read or is sealed in a way we do not know."""
    try:
        callback = _callback(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return callback if callback.resource.algorithm == "AEAD_AES_256_GCM" else None


def read_notice(callback: Callback, resource: bytes) -> Notice:
    """What an opened callback tells. It is genuine, so what does not read is a case, not a refusal."""
    callback_id = callback.id
    if _PLAIN.fullmatch(callback_id) is None:
        callback_id = "sha256:" + hashlib.sha256(callback.id.encode("utf-8", "surrogatepass")).hexdigest()
    digest = hashlib.sha256(resource).digest()
    view: PaymentView | RefundView | None
    if callback.event_type == "TRANSACTION.SUCCESS":
        view = read_transaction(resource)
    elif callback.event_type in _REFUND_EVENTS:
        view = read_refund(resource)
    else:
        return Notice(callback_id=callback_id, digest=digest, view=None, fault=CaseReason.UNSUPPORTED_NOTICE)
    fault = CaseReason.UNREADABLE_NOTICE if view is None else None
    return Notice(callback_id=callback_id, digest=digest, view=view, fault=fault)


def trouble(status: int, body: bytes, *, verified: bool, definite: bool, retry_after_s: float | None) -> Trouble:
    """What a reply other than success means.

    `definite` allows a refusal to be final: the first create of a number only, and only when the channel signed it.
    """
    code = _code(body)
    kind, outcome, following = _meaning(status, code.replace("_", ""), definite=definite and verified)
    if kind is Kind.NOT_FOUND and not verified:
        return UNVERIFIED  # "not found" can end a payment once it has expired
    return Trouble(
        kind=kind, outcome=outcome, next=following, code=code, http_status=status, retry_after_s=retry_after_s
    )


def _meaning(status: int, code: str, *, definite: bool) -> tuple[Kind, Outcome, Next]:
    if status == 429 or code in _LIMITS:
        return Kind.RATE_LIMITED, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER
    if status >= 500:
        return Kind.UNAVAILABLE, Outcome.UNKNOWN, Next.QUERY
    if code in _CONFLICTS:
        return Kind.CONFLICT, Outcome.UNKNOWN, Next.QUERY
    if code in _NOT_FOUND:
        return Kind.NOT_FOUND, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER
    if code in _NO_FUNDS:
        return Kind.INSUFFICIENT_FUNDS, Outcome.NOT_APPLIED, Next.RETRY_SAME_NUMBER
    if code in _DECLINED and definite:
        return Kind.DECLINED, Outcome.NOT_APPLIED, Next.FAIL
    if code in _INVALID and definite:
        return Kind.INVALID, Outcome.NOT_APPLIED, Next.FAIL
    if (status in {401, 403} or code in _AUTH) and code not in _DECLINED:
        return Kind.AUTH, Outcome.NOT_APPLIED, Next.ALERT
    if code in _INVALID:
        return Kind.CONFLICT, Outcome.UNKNOWN, Next.QUERY  # repeated, it can hide "already paid"
    return Kind.PROTOCOL, Outcome.UNKNOWN, Next.QUERY


def _code(body: bytes) -> str:
    try:
        return _plain(_refusal(body).code) or ""
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _ends(request: CreatePayment, now: dt.datetime) -> dt.datetime:
    return max(request.expires_at, now + _EXPIRE_AHEAD_MIN)


def _plain(text: str | None) -> str | None:
    if text is None or text == "":
        return None
    return text if _PLAIN.fullmatch(text) else "?"


def _time(text: str | None) -> dt.datetime | None:
    try:
        moment = dt.datetime.fromisoformat(text or "")
        return moment.astimezone(dt.UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
