"""Calls to WeChat Pay: one signed request each, one deadline, no retry, no state; and the judge of its callbacks."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog
from msgspec.structs import replace

from defray_kernel.clock import Clock
from defray_kernel.money import MINOR_MAX
from defray_payment.channels import call
from defray_payment.channels.spi import (
    PROTOCOL,
    UNVERIFIED,
    Acknowledgement,
    Capabilities,
    CreatePayment,
    Next,
    Notice,
    Operation,
    PayerField,
    PaymentView,
    Product,
    RefundCall,
    RefundSaid,
    Said,
    Trouble,
    Unverified,
    unacceptable,
)
from defray_payment.channels.wechat import signing, wire
from defray_payment.channels.wechat.keys import WechatKeys
from defray_payment.domain.reports import ChannelAccount, Report

CAPABILITIES: Final = Capabilities(
    channel=wire.CHANNEL,
    products={
        "native": Product(),
        "app": Product(),
        "jsapi": Product(needs=frozenset({PayerField.PAYER_ID})),
        "h5": Product(needs=frozenset({PayerField.CLIENT_IP})),
        "codepay": Product(
            needs=frozenset({PayerField.AUTH_CODE}), ends_by=Operation.CANCEL, lives_s=60, notifies=False
        ),
    },
    currencies=frozenset({"CNY"}),
    operations=frozenset(Operation),
    minor_min=1,
    minor_max=min(MINOR_MAX, 10**10),
    attempt_no_pattern=r"[0-9A-Za-z_\-|*]{6,32}",
    refund_no_pattern=r"[0-9A-Za-z_\-|*@]{1,64}",
    refunds_max=50,
    refund_window=dt.timedelta(days=365),
    refund_gap=dt.timedelta(minutes=1),
    description_max=127,
)
_ACCEPTED: Final = Acknowledgement(status=204, body=b"")
_REFUSED: Final = Acknowledgement(status=401, body=b'{"code":"FAIL","message":"not verified"}')
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A reply as it came; `verified` when the platform signed it."""

    status: int
    body: bytes
    verified: bool
    retry_after_s: float | None
    unknown_key: str


class WechatChannel:
    """One merchant account at WeChat Pay; callbacks come to `notify_url`."""

    capabilities: Final = CAPABILITIES

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        base_url: str,
        account: ChannelAccount,
        keys: WechatKeys,
        notify_url: str,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._session, self._base_url, self._keys = session, base_url.rstrip("/"), keys
        self.account: Final = account
        self._notify_url, self._clock = notify_url, clock
        self._timeout = call.timeout_of(timeout_s)

    async def create(self, request: CreatePayment) -> Said:
        """Open the order; the same number with the same data gives the same order and a fresh next action."""
        if (refusal := unacceptable(CAPABILITIES, request)) is not None:
            return refusal
        body = wire.create_body(request, self.account, self._notify_url, self._clock.now())
        answer = await self._exchange("create", "POST", f"{wire.TRANSACTIONS}/{request.product}", body)
        if isinstance(answer, Trouble):
            return answer
        if answer.status == 202 and answer.verified and wire.waits_for_payer(answer.body):
            return wire.opened(request, "none", {}, self._clock.now())
        if answer.status != 200:
            return _trouble(answer, definite=not request.again)
        if not answer.verified:
            return UNVERIFIED
        created = wire.read_created(request, answer.body, self._clock.now())
        return await self._handed_over(request, created) if isinstance(created, str) else created

    async def query(self, attempt_no: str) -> Said:
        """Ask for the order by our number."""
        target = f"{wire.TRANSACTIONS}/out-trade-no/{attempt_no}?mchid={self.account.merchant_ref}"
        answer = await self._exchange("query", "GET", target, b"")
        if isinstance(answer, Trouble):
            return answer
        if answer.status != 200:
            return _trouble(answer, definite=False)
        if not answer.verified:
            return UNVERIFIED
        view = wire.read_transaction(answer.body)
        return view if view is not None and view.attempt_no == attempt_no else PROTOCOL

    async def close(self, attempt_no: str) -> Said:
        """Close the order; that it is paid already comes back as a conflict, to be asked about."""
        target = f"{wire.TRANSACTIONS}/out-trade-no/{attempt_no}/close"
        answer = await self._exchange("close", "POST", target, wire.close_body(self.account))
        return _ended(answer, PaymentView(attempt_no=attempt_no, report=Report.CLOSED), status=204)

    async def cancel(self, attempt_no: str) -> Said:
        """Reverse an order paid by code: whatever was paid goes back."""
        target = f"{wire.TRANSACTIONS}/out-trade-no/{attempt_no}/reverse"
        answer = await self._exchange("reverse", "POST", target, wire.reverse_body(self.account))
        return _ended(answer, PaymentView(attempt_no=attempt_no, report=Report.RETURNED), status=200)

    async def refund(self, request: RefundCall) -> RefundSaid:
        """Ask for a refund; the same number with the same data is the same refund."""
        answer = await self._exchange("refund", "POST", wire.REFUNDS, wire.refund_body(request, self._notify_url))
        return _refund_said(answer, request.refund_no, request.attempt_no, definite=not request.again)

    async def query_refund(self, refund_no: str, attempt_no: str) -> RefundSaid:
        """Ask for the refund by our number."""
        answer = await self._exchange("query_refund", "GET", f"{wire.REFUNDS}/{refund_no}", b"")
        return _refund_said(answer, refund_no, attempt_no, definite=False)

    def verify(self, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> Notice | Unverified:
        """Judge a callback by signature, freshness and seal; no I/O, no clock but `now`."""
        fault = signing.fault(self._keys, headers, body, now)
        if fault is not None:
            return Unverified(
                reason=fault, unknown_key=headers["wechatpay-serial"] if fault == "unknown_serial" else ""
            )
        callback = wire.read_callback(body)
        if callback is None:
            return Unverified(reason="shape")
        sealed = callback.resource
        resource = signing.unseal(
            self._keys,
            nonce=sealed.nonce,
            ciphertext=sealed.ciphertext,
            associated_data=sealed.associated_data or "",
        )
        return Unverified(reason="seal") if resource is None else wire.read_notice(callback, resource)

    def acknowledge(self, *, accepted: bool) -> Acknowledgement:
        """204 with nothing in it, or 401 with the channel's own word for a refusal."""
        return _ACCEPTED if accepted else _REFUSED

    async def _handed_over(self, request: CreatePayment, prepay_id: str) -> PaymentView:
        """Sign what the payer's page or app hands to WeChat; off the loop, as every private key operation."""
        timestamp_s, nonce = int(self._clock.real().timestamp()), secrets.token_hex(16)
        account = self.account
        if request.product == "jsapi":
            data = await asyncio.to_thread(
                signing.sheet, self._keys, account, prepay_id=prepay_id, timestamp_s=timestamp_s, nonce=nonce
            )
            return wire.opened(request, "jsapi", data, self._clock.now())
        data = await asyncio.to_thread(
            signing.app_call, self._keys, account, prepay_id=prepay_id, timestamp_s=timestamp_s, nonce=nonce
        )
        return wire.opened(request, "app_sdk", data, self._clock.now())

    async def fetch_keys(self, unknown: str) -> Mapping[str, str] | Trouble:
        """The platform certificates, which come sealed under the APIv3 key; nothing in public-key mode."""
        if not self._keys.certified:
            return {}
        answer = await self._ask("fetch_keys", "GET", wire.CERTIFICATES, b"")
        if isinstance(answer, Trouble):
            return answer
        sealed = wire.read_certificates(answer.body) if answer.status == 200 else None
        if sealed is None:
            return PROTOCOL
        found: dict[str, str] = {}
        for serial, each in sealed.items():
            pem = signing.unseal(
                self._keys,
                nonce=each.nonce,
                ciphertext=each.ciphertext,
                associated_data=each.associated_data or "",
            )
            if pem is None:
                return UNVERIFIED
            found[serial] = pem.decode("ascii", "replace")
        _log.warning("platform_certificates_fetched", wanted=unknown[:64], serials=sorted(found))
        return found

    async def _exchange(self, operation: str, method: str, target: str, body: bytes) -> _Answer | Trouble:
        """One request; a success that is signed with a key we do not have proves nothing, and names that key."""
        answer = await self._ask(operation, method, target, body)
        if isinstance(answer, _Answer) and answer.unknown_key and answer.status < 300:
            return replace(UNVERIFIED, code=answer.unknown_key)
        return answer

    async def _ask(self, operation: str, method: str, target: str, body: bytes) -> _Answer | Trouble:
        headers = await self._headers(method, target, body)
        reply = await call.exchange(
            self._session,
            method,
            self._base_url + target,
            channel=wire.CHANNEL,
            headers=headers,
            data=body or None,
            deadline=self._timeout,
        )
        if isinstance(reply, Trouble):
            return reply
        fault = signing.fault(self._keys, reply.headers, reply.body, self._clock.real())
        verified = fault is None
        if not verified and reply.status < 300:
            _log.error("channel_reply_unverified", channel=wire.CHANNEL, operation=operation)
        return _Answer(
            status=reply.status,
            body=reply.body,
            verified=verified,
            retry_after_s=reply.retry_after_s,
            unknown_key=reply.headers["wechatpay-serial"] if fault == "unknown_serial" else "",
        )

    async def _headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        # The private key operation gives up the interpreter lock; the loop goes on meanwhile.
        authorization = await asyncio.to_thread(
            signing.authorization,
            self._keys,
            mchid=self.account.merchant_ref,
            method=method,
            target=target,
            body=body,
            timestamp_s=int(self._clock.real().timestamp()),
            nonce=secrets.token_hex(16),
        )
        headers = {
            "Authorization": authorization,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "defray",
            "Wechatpay-Serial": self._keys.newest,
        }
        if body:
            headers["Content-Type"] = "application/json"
        return headers


def _refund_said(answer: _Answer | Trouble, refund_no: str, attempt_no: str, *, definite: bool) -> RefundSaid:
    if isinstance(answer, Trouble):
        return answer
    if answer.status != 200:
        return _trouble(answer, definite=definite)
    if not answer.verified:
        return UNVERIFIED
    view = wire.read_refund(answer.body)
    about = None if view is None else (view.refund_no, view.attempt_no)
    return view if view is not None and about == (refund_no, attempt_no) else PROTOCOL


def _ended(answer: _Answer | Trouble, over: PaymentView, *, status: int) -> Said:
    """`over` when the channel has ended the order for certain."""
    if isinstance(answer, Trouble):
        return answer
    if answer.status == status:
        return over if answer.verified else UNVERIFIED
    return _trouble(answer, definite=False)


def _trouble(answer: _Answer, *, definite: bool) -> Trouble:
    found = wire.trouble(
        answer.status,
        answer.body,
        verified=answer.verified,
        definite=definite,
        retry_after_s=answer.retry_after_s,
    )
    if found.next in {Next.ALERT, Next.FAIL}:
        _log.error("channel_refuses", channel=wire.CHANNEL, kind=found.kind, code=found.code, status=answer.status)
    return found
