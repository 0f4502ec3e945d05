"""Add, rotate and retire accounts at channels; each act and its audit row are one transaction, each change checked first."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from defray_kernel import audit
from defray_kernel.clock import Clock
from defray_kernel.crypto import Envelope
from defray_kernel.db import WriteTx
from defray_kernel.ids import MerchantId, uuid7
from defray_payment.channels import build
from defray_payment.channels.build import Secrets
from defray_payment.domain.channel_account import AccountStatus, HeldAccount
from defray_payment.store import channel_accounts

SEED_ACTOR: Final = "settings"


class AccountRefusal(StrEnum):
    """Why an account is not changed."""

    EXISTS = "account_exists"
    NOT_FOUND = "not_found"
    CHANGED_MEANWHILE = "account_changed_meanwhile"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAccount:
    """A new account; `merchant_id` None makes it the platform's."""

    channel: str
    merchant_id: MerchantId | None
    merchant_ref: str
    app_ref: str
    base_url: str
    secrets: Secrets
    actor: str
    seed_digest: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateAccount:
    """Other keys for an account, all of them: those that stay valid are given again beside the new ones."""

    account_id: UUID
    secrets: Secrets
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetireAccount:
    """No new payments to this account; what was begun there is ended there."""

    account_id: UUID
    actor: str


async def add(
    command: AddAccount, tx: WriteTx, clock: Clock, *, envelope: Envelope, tls_only: bool
) -> UUID | AccountRefusal:
    """Add an account. Raises ConfigInvalid, naming no content, for one that could not sign or verify."""
    held = HeldAccount(
        account_id=uuid7(),
        channel=command.channel,
        merchant_id=command.merchant_id,
        merchant_ref=command.merchant_ref,
        app_ref=command.app_ref,
        base_url=command.base_url,
        status=AccountStatus.ACTIVE,
        secrets_sealed=b"",
        seed_digest=command.seed_digest,
    )
    build.check(held, tls_only=tls_only)
    build.check_keys(held.channel, command.secrets)
    held = replace(held, secrets_sealed=_sealed(command.secrets, held, envelope))
    if not await channel_accounts.insert(tx, held, clock.now()):
        return AccountRefusal.EXISTS
    await _audit(tx, clock, "add", held, command.actor, command.secrets)
    return held.account_id


async def rotate(
    command: RotateAccount, tx: WriteTx, clock: Clock, *, envelope: Envelope
) -> HeldAccount | AccountRefusal:
    """Replace an account's keys. Raises ConfigInvalid, naming no content, for keys that could not sign or verify."""
    held = await _find(tx, command.account_id)
    if held is None:
        return AccountRefusal.NOT_FOUND
    build.check_keys(held.channel, command.secrets)
    after = replace(held, secrets_sealed=_sealed(command.secrets, held, envelope))
    return await _change(tx, clock, "rotate", after, command.actor, command.secrets)


async def retire(command: RetireAccount, tx: WriteTx, clock: Clock) -> HeldAccount | AccountRefusal:
    """Retire an account; one that is retired already stays so."""
    held = await _find(tx, command.account_id)
    if held is None:
        return AccountRefusal.NOT_FOUND
    if held.status is AccountStatus.RETIRED:
        return held
    return await _change(tx, clock, "retire", replace(held, status=AccountStatus.RETIRED), command.actor)


async def seed(command: AddAccount, tx: WriteTx, clock: Clock, *, envelope: Envelope, tls_only: bool) -> bool:
    """Make or refresh the account that the settings name; settings that were taken once are not taken again, so that
    an operator's later change stands. Returns whether anything changed. Raises ConfigInvalid as `add` does.
    """
    digest = hashlib.sha256(msgspec.json.encode([command.secrets, command.base_url], order="sorted")).digest()
    command = replace(command, seed_digest=digest)
    known = [
        held
        for held in await channel_accounts.read_all(tx)
        if (held.channel, held.merchant_ref, held.app_ref) == (command.channel, command.merchant_ref, command.app_ref)
    ]
    if not known:
        return isinstance(await add(command, tx, clock, envelope=envelope, tls_only=tls_only), UUID)
    held = known[0]
    if held.seed_digest == digest:
        return False
    build.check_keys(held.channel, command.secrets)
    after = replace(
        held,
        base_url=command.base_url,
        secrets_sealed=_sealed(command.secrets, held, envelope),
        seed_digest=digest,
    )
    return isinstance(await _change(tx, clock, "rotate", after, command.actor, command.secrets), HeldAccount)


def opened(held: HeldAccount, envelope: Envelope) -> Secrets:
    """The keys of an account. Raises CannotOpen or msgspec.DecodeError."""
    return msgspec.json.decode(envelope.open(held.secrets_sealed, held.context), type=Secrets)


def _sealed(secrets: Secrets, held: HeldAccount, envelope: Envelope) -> bytes:
    return envelope.seal(msgspec.json.encode(secrets), held.context)


async def _find(tx: WriteTx, account_id: UUID) -> HeldAccount | None:
    return next((held for held in await channel_accounts.read_all(tx) if held.account_id == account_id), None)


async def _change(
    tx: WriteTx, clock: Clock, act: str, after: HeldAccount, actor: str, secrets: Secrets | None = None
) -> HeldAccount | AccountRefusal:
    if not await channel_accounts.change(tx, after, clock.now()):
        return AccountRefusal.CHANGED_MEANWHILE
    await _audit(tx, clock, act, after, actor, secrets)
    return replace(after, version=after.version + 1)


async def _audit(
    tx: WriteTx, clock: Clock, act: str, held: HeldAccount, actor: str, secrets: Secrets | None = None
) -> None:
    """What was done, by whom, with the names of the channel's keys and never a key."""
    detail = {"channel": held.channel, "merchant_ref": held.merchant_ref, "app_ref": held.app_ref}
    if secrets is not None:
        detail["verifies_with"] = ", ".join(sorted(secrets.verify_keys))
    await audit.append(
        tx,
        actor=actor,
        action=f"channel_account.{act}",
        subject=str(held.account_id),
        clock=clock,
        detail=detail,
    )
