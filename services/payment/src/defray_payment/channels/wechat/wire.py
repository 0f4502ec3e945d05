"""WeChat's JSON to our types and back; pure. What the channel did not sign never decides anything for good."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import Final

import msgspec

from defray_payment.channels.spi import CreatePayment, Kind, Next, NextAction, Notice, Outcome, PaymentView, Trouble
from defray_payment.domain.refusals import CaseReason
from defray_payment.domain.reports import ChannelAccount, Report

CHANNEL: Final = "wechat"
NATIVE_PATH: Final = "/v3/pay/transactions/native"
CODE_URL_LIVES: Final = dt.timedelta(hours=2)
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
    "REVOKED": Report.CLOSED,
    "PAYERROR": Report.REFUSED,
}
# Written without "_", because generations of the API differ in it.
_CONFLICTS: Final = frozenset({"OUTTRADENOUSED", "ORDERCLOSED", "ORDERPAID", "TRADEERROR", "RULELIMIT"})
_LIMITS: Final = frozenset({"FREQUENCYLIMITED", "FREQUENCYLIMITEXCEED", "RATELIMITEXCEEDED"})
_AUTH: Final = frozenset({"SIGNERROR", "NOAUTH", "APPIDMCHIDNOTMATCH", "MCHNOTEXISTS"})
_NOT_FOUND: Final = frozenset({"ORDERNOTEXIST", "RESOURCENOTEXISTS"})
_INVALID: Final = frozenset({"PARAMERROR", "INVALIDREQUEST"})


class _Resource(msgspec.Struct, frozen=True):
    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str | None = None


class Callback(msgspec.Struct, frozen=True):
    """The outer JSON of a callback."""

    id: str
    event_type: str
    resource: _Resource


class _Amount(msgspec.Struct, frozen=True):
    total: int | None = None
    currency: str | None = None


class _Transaction(msgspec.Struct, frozen=True):
    out_trade_no: str
    trade_state: str | None = None
    mchid: str | None = None
    appid: str | None = None
    transaction_id: str | None = None
    success_time: str | None = None
    amount: _Amount | None = None


class _Created(msgspec.Struct, frozen=True):
    code_url: str


class _Refusal(msgspec.Struct, frozen=True):
    code: str


_callback = msgspec.json.Decoder(Callback).decode
_transaction = msgspec.json.Decoder(_Transaction).decode
_created = msgspec.json.Decoder(_Created).decode
_refusal = msgspec.json.Decoder(_Refusal).decode


def native_body(request: CreatePayment, account: ChannelAccount, notify_url: str, now: dt.datetime) -> bytes:
    """The body that opens an order; the bytes are signed and sent as they are. `now` is business time."""
    ends = max(request.expires_at, now + _EXPIRE_AHEAD_MIN).astimezone(_BEIJING)
    return msgspec.json.encode(
        {
            "appid": account.app_ref,
            "mchid": account.merchant_ref,
            "description": request.description,
            "out_trade_no": request.attempt_no,
            "time_expire": ends.isoformat(timespec="seconds"),
            "notify_url": notify_url,
            "amount": {"total": request.amount.minor, "currency": request.amount.currency},
        }
    )


def close_body(account: ChannelAccount) -> bytes:
    """The body that closes an order."""
    return msgspec.json.encode({"mchid": account.merchant_ref})


def read_created(request: CreatePayment, body: bytes, now: dt.datetime) -> PaymentView | Trouble:
    """The order is open and its QR text is here; `body` is verified."""
    try:
        code_url = _created(body).code_url
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return PROTOCOL
    ends = min(max(request.expires_at, now + _EXPIRE_AHEAD_MIN), now + CODE_URL_LIVES)
    action = NextAction(type="qr", data={"code_url": code_url}, expires_at=ends)
    return PaymentView(attempt_no=request.attempt_no, report=Report.OPENED, action=action)


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
    if callback.event_type != "TRANSACTION.SUCCESS":
        return Notice(callback_id=callback_id, digest=digest, view=None, fault=CaseReason.UNSUPPORTED_NOTICE)
    view = read_transaction(resource)
    fault = CaseReason.UNREADABLE_NOTICE if view is None else None
    return Notice(callback_id=callback_id, digest=digest, view=view, fault=fault)


def trouble(status: int, body: bytes, *, verified: bool, definite: bool, retry_after_s: float | None) -> Trouble:
    """What a reply other than success means.

    `definite` allows a refusal to be final: the first create of a number only, and only when the channel signed it.
    """
    try:
        code = _refusal(body).code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        code = ""
    code = _plain(code) or ""
    plain = code.replace("_", "")
    kind, outcome, following = _meaning(status, plain, definite=definite and verified)
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
    if status in {401, 403} or code in _AUTH:
        return Kind.AUTH, Outcome.NOT_APPLIED, Next.ALERT
    if code in _INVALID and definite:
        return Kind.INVALID, Outcome.NOT_APPLIED, Next.FAIL
    if code in _INVALID:
        return Kind.CONFLICT, Outcome.UNKNOWN, Next.QUERY  # repeated, it can hide "already paid"
    return Kind.PROTOCOL, Outcome.UNKNOWN, Next.QUERY


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


PROTOCOL: Final = Trouble(kind=Kind.PROTOCOL, outcome=Outcome.UNKNOWN, next=Next.QUERY)
UNVERIFIED: Final = Trouble(kind=Kind.UNVERIFIED, outcome=Outcome.UNKNOWN, next=Next.QUERY)
TIMEOUT: Final = Trouble(kind=Kind.TIMEOUT, outcome=Outcome.UNKNOWN, next=Next.QUERY)
UNREACHED: Final = Trouble(kind=Kind.UNREACHED, outcome=Outcome.NOT_APPLIED, next=Next.RETRY_SAME_NUMBER)
