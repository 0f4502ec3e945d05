"""The lines to channels by account; a channel that cannot verify callbacks is not among them, as it cannot be built."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from defray_kernel.ids import MerchantId
from defray_payment.channels.line import Line
from defray_payment.channels.spi import PaymentChannel


class Channels:
    """All accounts this process speaks with; replaced as a whole when they change, so readers never see half."""

    def __init__(self, lines: Sequence[Line | PaymentChannel] = ()) -> None:
        self._lines: tuple[Line, ...] = ()
        self.replace([line if isinstance(line, Line) else Line(line) for line in lines])

    @property
    def lines(self) -> tuple[Line, ...]:
        """All of them, oldest first."""
        return self._lines

    def replace(self, lines: Sequence[Line]) -> None:
        """Take these lines from now on. Raises ValueError when two share an account."""
        ids = [(line.capabilities.channel, line.account.account_id) for line in lines]
        if len(set(ids)) != len(ids):
            raise ValueError("two lines share an account")
        self._lines = tuple(lines)

    def find(self, channel: str, merchant_id: MerchantId | None = None) -> Line | None:
        """Where a new payment goes: the merchant's own active account, else the platform's; None when there is none."""
        active = [line for line in self._lines if line.active and line.capabilities.channel == channel]
        own = [line for line in active if merchant_id is not None and line.merchant_id == merchant_id]
        return next(iter(own or [line for line in active if line.merchant_id is None]), None)

    def of(self, channel: str, account_id: UUID | None) -> Line | None:
        """The account that an attempt was made at; without one, the channel's first. Retired ones are found too."""
        lines = [line for line in self._lines if line.capabilities.channel == channel]
        named = [line for line in lines if account_id is None or line.account.account_id in {account_id, None}]
        return next(iter(named), None)

    def hearers(self, channel: str, account_id: UUID | None) -> list[Line]:
        """Who may be meant by a callback: the account it was addressed to, else all of the channel."""
        lines = [line for line in self._lines if line.capabilities.channel == channel]
        return [line for line in lines if account_id is None or line.account.account_id in {account_id, None}]
