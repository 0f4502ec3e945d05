"""Keeps this process's lines to channels as the accounts' rows say: read again every few seconds, swapped whole."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import msgspec
import structlog

from defray_kernel.crypto import CannotOpen, Envelope
from defray_kernel.db import Database, is_transient
from defray_kernel.errors import ConfigInvalid
from defray_payment.channels.build import Builder
from defray_payment.channels.guard import Guard, Limits
from defray_payment.channels.line import Line
from defray_payment.channels.registry import Channels
from defray_payment.channels.spi import KeySource, Trouble
from defray_payment.commands import manage_accounts
from defray_payment.domain.channel_account import AccountStatus, HeldAccount
from defray_payment.store import channel_accounts

REFRESH_S: Final = 10.0
FETCH_S: Final = 60.0
_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class AccountRefresh:
    """One account that cannot be built does not start, or goes on as it was; the others are not touched by it."""

    database: Database
    envelope: Envelope
    builder: Builder
    channels: Channels
    limits: Limits = field(default_factory=Limits)
    every_s: float = REFRESH_S
    monotonic: Callable[[], float] = time.monotonic
    _known: dict[UUID, Line] = field(default_factory=dict)
    _failed: dict[UUID, int] = field(default_factory=dict)
    _fetched: dict[UUID, float] = field(default_factory=dict)

    async def refresh(self) -> None:
        """Read the accounts if any has changed, and swap the lines."""
        async with self.database.read() as conn:
            stamps = dict(await channel_accounts.stamps(conn))
            known = {account_id: line.version for account_id, line in self._known.items()} | self._failed
            if stamps == known:
                return
            held = await channel_accounts.read_all(conn)
        lines = {account.account_id: line for account in held if (line := self._line(account)) is not None}
        self._known = lines
        self.channels.replace(list(lines.values()))

    async def run(self, stopping: asyncio.Event) -> None:
        """Refresh until told to stop; a database that is away for a while changes nothing."""
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self.every_s)
                return
            try:
                await self.fetch_keys()
                await self.refresh()
            except Exception as error:
                if not is_transient(error):
                    raise
                _log.warning("accounts_not_read", error=type(error).__name__)

    async def fetch_keys(self) -> None:
        """Where a message named a key that we do not have, ask the channel for its keys, once a minute per account at
        most, and take them over beside ours when they prove themselves.
        """
        for account_id, line in self._known.items():
            unknown, line.unknown_key = line.unknown_key, ""
            last = self._fetched.get(account_id)
            if not unknown or (last is not None and self.monotonic() - last < FETCH_S):
                continue
            self._fetched[account_id] = self.monotonic()
            fetched = await line.channel.fetch_keys(unknown) if isinstance(line.channel, KeySource) else {}
            if not isinstance(fetched, Trouble) and unknown in fetched:
                await self._take_over(account_id, fetched)

    async def _take_over(self, account_id: UUID, fetched: Mapping[str, str]) -> None:
        async with self.database.transaction() as tx:
            held = next((h for h in await channel_accounts.read_all(tx) if h.account_id == account_id), None)
            if held is None:
                return
            secrets = manage_accounts.opened(held, self.envelope)
            secrets = msgspec.structs.replace(secrets, verify_keys={**secrets.verify_keys, **fetched})
            command = manage_accounts.RotateAccount(account_id=account_id, secrets=secrets, actor="channel")
            try:
                await manage_accounts.rotate(command, tx, self.builder.clock, envelope=self.envelope)
            except ConfigInvalid as error:
                _log.error("fetched_key_not_usable", account=str(account_id), error=str(error)[:200])

    def _line(self, held: HeldAccount) -> Line | None:
        before = self._known.get(held.account_id)
        if before is not None and before.version == held.version:
            return before
        try:
            channel = self.builder.build(held, manage_accounts.opened(held, self.envelope))
        except (ConfigInvalid, CannotOpen, msgspec.MsgspecError) as error:
            _log.error("account_not_usable", account=str(held.account_id), channel=held.channel, error=str(error)[:200])
            self._failed[held.account_id] = held.version
            return before
        self._failed.pop(held.account_id, None)
        return Line(
            channel,
            merchant_id=held.merchant_id,
            active=held.status is AccountStatus.ACTIVE,
            guard=Guard(str(held.account_id), self.limits) if before is None else before.guard,
            version=held.version,
        )
