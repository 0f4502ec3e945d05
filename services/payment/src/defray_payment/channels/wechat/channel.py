"""Calls to WeChat Pay: one signed request each, one deadline, no retry, no state; and the judge of its callbacks."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog

from defray_kernel import metrics
from defray_kernel.clock import Clock
from defray_kernel.money import MINOR_MAX
from defray_payment.channels.spi import (
    Acknowledgement,
    Capabilities,
    CreatePayment,
    Next,
    Notice,
    PaymentView,
    Trouble,
    Unverified,
)
from defray_payment.channels.wechat import signing, wire
from defray_payment.channels.wechat.keys import WechatKeys
from defray_payment.domain.reports import ChannelAccount, Report

CAPABILITIES: Final = Capabilities(
    channel=wire.CHANNEL, products=frozenset({"native"}), currencies=frozenset({"CNY"}), minor_max=MINOR_MAX
)
REPLY_BYTES_MAX: Final = 64 * 1024
_CONNECT_TIMEOUT_S: Final = 2.0
_RETRY_AFTER_S_MAX: Final = 3600.0
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


class WechatChannel:
    """One merchant account at WeChat Pay, product Native; callbacks come to `notify_url`."""

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
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_TIMEOUT_S, timeout_s))

    async def create(self, request: CreatePayment) -> PaymentView | Trouble:
        """Open the order; the same number with the same data gives the same order and a fresh QR text."""
        body = wire.native_body(request, self.account, self._notify_url, self._clock.now())
        answer = await self._exchange("create", "POST", wire.NATIVE_PATH, body)
        if isinstance(answer, Trouble):
            return answer
        if answer.status == 200:
            return wire.read_created(request, answer.body, self._clock.now()) if answer.verified else wire.UNVERIFIED
        return _trouble(answer, definite=not request.again)

    async def query(self, attempt_no: str) -> PaymentView | Trouble:
        """Ask for the order by our number."""
        target = f"/v3/pay/transactions/out-trade-no/{attempt_no}?mchid={self.account.merchant_ref}"
        answer = await self._exchange("query", "GET", target, b"")
        if isinstance(answer, Trouble):
            return answer
        if answer.status != 200:
            return _trouble(answer, definite=False)
        if not answer.verified:
            return wire.UNVERIFIED
        view = wire.read_transaction(answer.body)
        return view if view is not None and view.attempt_no == attempt_no else wire.PROTOCOL

    async def close(self, attempt_no: str) -> PaymentView | Trouble:
        """Close the order; that it is paid already comes back as a conflict, to be asked about."""
        target = f"/v3/pay/transactions/out-trade-no/{attempt_no}/close"
        answer = await self._exchange("close", "POST", target, wire.close_body(self.account))
        if isinstance(answer, Trouble):
            return answer
        if answer.status == 204:
            return PaymentView(attempt_no=attempt_no, report=Report.CLOSED) if answer.verified else wire.UNVERIFIED
        return _trouble(answer, definite=False)

    def verify(self, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> Notice | Unverified:
        """Judge a callback by signature, freshness and seal; no I/O, no clock but `now`."""
        fault = signing.fault(self._keys, headers, body, now)
        if fault is not None:
            return Unverified(reason=fault)
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

    async def _exchange(self, operation: str, method: str, target: str, body: bytes) -> _Answer | Trouble:
        """One request. Nothing left this process: UNREACHED. Anything after that which is not a reply: TIMEOUT."""
        started = time.monotonic()
        result = await self._send(method, target, body)
        metrics.observe("channel_seconds", time.monotonic() - started, channel=wire.CHANNEL)
        outcome = result.kind.value if isinstance(result, Trouble) else str(result.status)
        metrics.count("channel_calls", channel=wire.CHANNEL, outcome=outcome)
        if isinstance(result, _Answer) and not result.verified and result.status < 300:
            _log.error("channel_reply_unverified", channel=wire.CHANNEL, operation=operation)
        return result

    async def _send(self, method: str, target: str, body: bytes) -> _Answer | Trouble:
        headers = await self._headers(method, target, body)
        try:
            async with self._session.request(
                method,
                self._base_url + target,
                data=body or None,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                reply = await _read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL):
            return wire.UNREACHED
        except (aiohttp.ClientError, TimeoutError, OSError):
            return wire.TIMEOUT
        if reply is None:
            return wire.PROTOCOL
        told = {name.lower(): value for name, value in response.headers.items()}
        fault = signing.fault(self._keys, told, reply, self._clock.real())
        return _Answer(
            status=response.status,
            body=reply,
            verified=fault is None,
            retry_after_s=_retry_after_s(told.get("retry-after", "")),
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


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body up to the limit; None when there is more."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > REPLY_BYTES_MAX:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _retry_after_s(text: str) -> float | None:
    return min(float(text), _RETRY_AFTER_S_MAX) if text.isascii() and text.isdigit() else None
