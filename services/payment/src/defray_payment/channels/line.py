"""One account's line to its channel: the adapter behind its guard, which every call of this service goes through."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from defray_kernel import metrics
from defray_kernel.ids import MerchantId
from defray_payment.channels.guard import Guard, Limits
from defray_payment.channels.spi import (
    Acknowledgement,
    CancelChannel,
    Capabilities,
    CreatePayment,
    Kind,
    Next,
    Notice,
    Outcome,
    PaymentChannel,
    PaymentView,
    RefundCall,
    RefundChannel,
    RefundSaid,
    RefundView,
    Said,
    Trouble,
    Unverified,
)
from defray_payment.domain.reports import ChannelAccount

_UNSUPPORTED: Final = Trouble(kind=Kind.UNSUPPORTED, outcome=Outcome.NOT_APPLIED, next=Next.FAIL)
_Heard = TypeVar("_Heard", PaymentView, RefundView)


class Line:
    """An adapter and its guard, with whose account it is and whether new payments go there."""

    def __init__(
        self,
        channel: PaymentChannel,
        *,
        merchant_id: MerchantId | None = None,
        active: bool = True,
        guard: Guard | None = None,
        version: int = 1,
    ) -> None:
        self.channel, self.merchant_id, self.active, self.version = channel, merchant_id, active, version
        name = str(channel.account.account_id or channel.capabilities.channel)
        self.guard = guard or Guard(name, Limits())
        self.unknown_key = ""

    @property
    def capabilities(self) -> Capabilities:
        """The adapter's."""
        return self.channel.capabilities

    @property
    def account(self) -> ChannelAccount:
        """The adapter's."""
        return self.channel.account

    async def create(self, request: CreatePayment) -> Said:
        """See PaymentChannel."""
        return await self._call(lambda: self.channel.create(request))

    async def query(self, attempt_no: str) -> Said:
        """See PaymentChannel."""
        return await self._call(lambda: self.channel.query(attempt_no))

    async def close(self, attempt_no: str) -> Said:
        """See PaymentChannel."""
        return await self._call(lambda: self.channel.close(attempt_no))

    async def cancel(self, attempt_no: str) -> Said:
        """See CancelChannel; UNSUPPORTED where the channel has none."""
        channel = self.channel
        return (
            await self._call(lambda: channel.cancel(attempt_no)) if isinstance(channel, CancelChannel) else _UNSUPPORTED
        )

    async def refund(self, request: RefundCall) -> RefundSaid:
        """See RefundChannel; UNSUPPORTED where the channel has none."""
        channel = self.channel
        return await self._call(lambda: channel.refund(request)) if isinstance(channel, RefundChannel) else _UNSUPPORTED

    async def query_refund(self, refund_no: str, attempt_no: str) -> RefundSaid:
        """See RefundChannel; UNSUPPORTED where the channel has none."""
        channel = self.channel
        if not isinstance(channel, RefundChannel):
            return _UNSUPPORTED
        return await self._call(lambda: channel.query_refund(refund_no, attempt_no))

    def verify(self, headers: Mapping[str, str], body: bytes, now: dt.datetime) -> Notice | Unverified:
        """See PaymentChannel; no call, so no guard. A key that we do not have is remembered for the refresh."""
        said = self.channel.verify(headers, body, now)
        if isinstance(said, Unverified) and said.unknown_key:
            self.unknown_key = said.unknown_key
        return said

    def acknowledge(self, *, accepted: bool) -> Acknowledgement:
        """See PaymentChannel."""
        return self.channel.acknowledge(accepted=accepted)

    async def _call(self, make: Callable[[], Awaitable[_Heard | Trouble]]) -> _Heard | Trouble:
        refused = self.guard.admit()
        if refused is not None:
            metrics.count("channel_calls", channel=self.capabilities.channel, outcome=refused.code)
            return refused
        said: _Heard | Trouble | None = None
        try:
            said = await make()
        finally:
            self.guard.heard(said)
        if isinstance(said, Trouble) and said.kind is Kind.UNVERIFIED and said.code:
            self.unknown_key = said.code
        return said
