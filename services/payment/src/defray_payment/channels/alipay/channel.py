"""Calls to Alipay's gateway: one signed request each, one deadline, no retry, no state; and the judge of its notices."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

import aiohttp
import msgspec
import structlog
from msgspec.structs import replace

from defray_kernel.clock import Clock
from defray_kernel.money import MINOR_MAX
from defray_payment.channels import call
from defray_payment.channels.alipay import keys, refusals, signing, wire
from defray_payment.channels.alipay.keys import AlipayKeys
from defray_payment.channels.alipay.wire import Node
from defray_payment.channels.spi import (
    PROTOCOL,
    UNVERIFIED,
    Acknowledgement,
    Capabilities,
    CreatePayment,
    ExistsAfter,
    Kind,
    Next,
    Notice,
    Operation,
    Outcome,
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
from defray_payment.domain.reports import ChannelAccount, Report

_OPENED_LATER: Final = Product(exists_after=ExistsAfter.PAYER_OPENS)
CAPABILITIES: Final = Capabilities(
    channel=wire.CHANNEL,
    products={
        "page": _OPENED_LATER,
        "wap": _OPENED_LATER,
        "app": _OPENED_LATER,
        "precreate": _OPENED_LATER,
        "pay": Product(needs=frozenset({PayerField.AUTH_CODE}), ends_by=Operation.CANCEL, lives_s=60),
        "create": Product(needs=frozenset({PayerField.PAYER_ID})),
    },
    currencies=frozenset({wire.CURRENCY}),
    operations=frozenset(Operation),
    minor_min=1,
    minor_max=min(MINOR_MAX, 10**10),
    attempt_no_pattern=r"[0-9A-Za-z_]{1,64}",
    refund_no_pattern=r"[0-9A-Za-z_\-]{1,64}",
    refunds_max=1000,
    refund_window=dt.timedelta(days=365),
    refund_gap=dt.timedelta(seconds=3),
    description_max=256,
)
_ACCEPTED: Final = Acknowledgement(status=200, body=b"success", content_type="text/plain")
_REFUSED: Final = Acknowledgement(status=401, body=b"fail", content_type="text/plain")
# "Nothing is told of it": not there, or accepted and not done. The same number may be sent again in both cases.
_REFUND_NOT_TOLD: Final = Trouble(kind=Kind.NOT_FOUND, outcome=Outcome.UNKNOWN, next=Next.RETRY_SAME_NUMBER)
_LINKS: Final = frozenset({"page", "wap", "app"})
_log = structlog.get_logger()


class AlipayChannel:
    """One app at Alipay's gateway; notices come to `notify_url`. `account` holds seller id and app id."""

    capabilities: Final = CAPABILITIES

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        gateway_url: str,
        account: ChannelAccount,
        keys: AlipayKeys,
        notify_url: str,
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._session, self._gateway, self._keys = session, gateway_url, keys
        self.account: Final = account
        self._notify_url, self._clock = notify_url, clock
        self._timeout = call.timeout_of(timeout_s)

    async def create(self, request: CreatePayment) -> Said:
        """Open the trade, or make what the payer opens it with: a link leaves no trace at the channel."""
        if (refusal := unacceptable(CAPABILITIES, request)) is not None:
            return refusal
        method = wire.METHODS[request.product]
        content = wire.creation(request, self.account, self._notify_url, self._clock.now())
        if request.product in _LINKS:
            return_url = request.return_url if request.product != "app" else None
            signed = await self._signed(method, content, notify=True, return_url=return_url)
            return wire.link_action(request, urlencode(signed), self._gateway, self._clock.now())
        node = await self._exchange(Operation.CREATE, method, content, definite=not request.again, notify=True)
        if isinstance(node, Trouble):
            return node
        return wire.created(request, node, self.account, self._clock.now())

    async def query(self, attempt_no: str) -> Said:
        """Ask for the trade by our number; before the payer opens it, it is not there."""
        node = await self._exchange(Operation.QUERY, "alipay.trade.query", {"out_trade_no": attempt_no})
        return node if isinstance(node, Trouble) else wire.queried(node, attempt_no, self.account)

    async def close(self, attempt_no: str) -> Said:
        """Close the trade; that it is paid already comes back as a conflict, to be asked about."""
        node = await self._exchange(Operation.CLOSE, "alipay.trade.close", {"out_trade_no": attempt_no})
        return node if isinstance(node, Trouble) else PaymentView(attempt_no=attempt_no, report=Report.CLOSED)

    async def cancel(self, attempt_no: str) -> Said:
        """End the trade whatever has happened; what was paid goes back."""
        node = await self._exchange(Operation.CANCEL, "alipay.trade.cancel", {"out_trade_no": attempt_no})
        if isinstance(node, Trouble):
            return node
        if node.retry_flag == "Y":
            return Trouble(kind=Kind.UNAVAILABLE, outcome=Outcome.UNKNOWN, next=Next.QUERY)
        if node.action not in {"close", "refund"}:
            return Trouble(kind=Kind.NOT_FOUND, outcome=Outcome.NOT_APPLIED, next=Next.RETRY_SAME_NUMBER)
        report = Report.RETURNED if node.action == "refund" else Report.CLOSED
        return PaymentView(attempt_no=attempt_no, report=report, native_state=f"cancel_{node.action}")

    async def refund(self, request: RefundCall) -> RefundSaid:
        """Ask for a refund; the same number with the same amount is the same refund."""
        node = await self._exchange(
            Operation.REFUND, "alipay.trade.refund", wire.refund(request), definite=not request.again
        )
        return node if isinstance(node, Trouble) else wire.refunded(request, node, self.account)

    async def query_refund(self, refund_no: str, attempt_no: str) -> RefundSaid:
        """Ask for the refund by our number; one that has not succeeded is told like one that is not there."""
        content = {"out_trade_no": attempt_no, "out_request_no": refund_no, "query_options": ["gmt_refund_pay"]}
        node = await self._exchange(Operation.QUERY_REFUND, "alipay.trade.fastpay.refund.query", content)
        if isinstance(node, Trouble):
            return node
        return wire.refund_queried(node, refund_no, attempt_no, self.account) or _REFUND_NOT_TOLD

    def verify(self, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> Notice | Unverified:
        """Judge a notice by form, signature and age; no I/O, no clock but `now`. `headers` prove nothing here."""
        del headers
        parameters = signing.read_form(body)
        if parameters is None:
            return Unverified(reason="shape")
        fault = signing.notice_fault(self._keys, parameters)
        return wire.read_notice(parameters, now) if fault is None else Unverified(reason=fault)

    def acknowledge(self, *, accepted: bool) -> Acknowledgement:
        """Exactly `success`, in lower case with nothing around it; anything else is a refusal."""
        return _ACCEPTED if accepted else _REFUSED

    async def fetch_keys(self, unknown: str) -> Mapping[str, str] | Trouble:
        """The certificate of this number; it proves itself by its chain to the pinned root. Nothing in public-key mode."""
        if self._keys.app_cert_sn is None:
            return {}
        reply = await self._send("alipay.open.app.alipaycert.download", {"alipay_cert_sn": unknown})
        if isinstance(reply, Trouble):
            return reply
        # It may be signed with the very key that is asked for.
        told = signing.read_reply(self._keys, reply.body) if reply.status == 200 else None
        node = None if told is None else wire.read_node(told.node)
        pem = None if node is None else keys.named(node.alipay_cert_content or "", unknown)
        if pem is None:
            return PROTOCOL
        _log.warning("alipay_certificate_fetched", wanted=unknown)
        return {unknown: pem}

    async def _signed(
        self, method: str, content: Mapping[str, object], *, notify: bool = False, return_url: str | None = None
    ) -> dict[str, str]:
        """All parameters of a request, its signature last."""
        parameters = {
            "app_id": self.account.app_ref,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": signing.SIGN_TYPE,
            "timestamp": wire.time_text(self._clock.real()),
            "version": "1.0",
            "biz_content": msgspec.json.encode(content).decode(),
        }
        if notify:
            parameters["notify_url"] = self._notify_url
        if return_url is not None:
            parameters["return_url"] = return_url
        if self._keys.app_cert_sn is not None and self._keys.root_cert_sn is not None:
            parameters |= {"app_cert_sn": self._keys.app_cert_sn, "alipay_root_cert_sn": self._keys.root_cert_sn}
        # The private key operation gives up the interpreter lock; the loop goes on meanwhile.
        parameters["sign"] = await asyncio.to_thread(signing.sign, self._keys.app_private, parameters)
        return parameters

    async def _exchange(
        self,
        operation: Operation,
        method: str,
        content: Mapping[str, object],
        *,
        definite: bool = False,
        notify: bool = False,
    ) -> Node | Trouble:
        """One request; the node of a verified success (or of a payment that waits for the payer)."""
        reply = await self._send(method, content, notify=notify)
        return reply if isinstance(reply, Trouble) else self._judged(operation, method, reply, definite=definite)

    async def _send(self, method: str, content: Mapping[str, object], *, notify: bool = False) -> call.Reply | Trouble:
        parameters = await self._signed(method, content, notify=notify)
        body = urlencode({"biz_content": parameters.pop("biz_content")}).encode()
        return await call.exchange(
            self._session,
            "POST",
            f"{self._gateway}?{urlencode(parameters)}",
            channel=wire.CHANNEL,
            headers={
                "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
                "Accept-Encoding": "identity",
                "User-Agent": "defray",
            },
            data=body,
            deadline=self._timeout,
        )

    def _judged(self, operation: Operation, method: str, reply: call.Reply, *, definite: bool) -> Node | Trouble:
        if reply.status == 429:
            return Trouble(
                kind=Kind.RATE_LIMITED,
                outcome=Outcome.NOT_APPLIED,
                next=Next.RETRY_SAME_NUMBER,
                http_status=429,
                retry_after_s=reply.retry_after_s,
            )
        if reply.status != 200:
            kind = Kind.UNAVAILABLE if reply.status >= 500 else Kind.PROTOCOL
            return Trouble(kind=kind, outcome=Outcome.UNKNOWN, next=Next.QUERY, http_status=reply.status)
        told = signing.read_reply(self._keys, reply.body)
        if told is None:
            return PROTOCOL
        if not told.verified:
            _log.error("channel_reply_unverified", channel=wire.CHANNEL, operation=operation)
            return replace(UNVERIFIED, code=told.unknown_key)
        node = wire.read_node(told.node)
        if node is None or told.name != f"{method.replace('.', '_')}_response":
            return PROTOCOL
        if node.code == wire.SUCCESS or (node.code == wire.WAITING and operation is Operation.CREATE):
            return node
        found = refusals.trouble(node, operation, definite=definite)
        if found.next in {Next.ALERT, Next.FAIL}:
            _log.error("channel_refuses", channel=wire.CHANNEL, kind=found.kind, code=found.code)
        return found
