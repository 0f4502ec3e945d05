"""The operators' API of channel accounts: what is there, never its keys; add, rotate, retire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

import msgspec

from defray_kernel.clock import Clock
from defray_kernel.crypto import Envelope
from defray_kernel.db import Database
from defray_kernel.errors import ConfigInvalid
from defray_kernel.fields import RequestModel, Text
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import MerchantId, parse, show
from defray_kernel.problems import Problem, ProblemKind
from defray_payment.channels.build import Secrets
from defray_payment.commands import manage_accounts
from defray_payment.commands.manage_accounts import AccountRefusal, AddAccount, RetireAccount, RotateAccount
from defray_payment.domain.channel_account import HeldAccount
from defray_payment.store import channel_accounts

_PEM: Final = 16_384
_KEYS_MAX: Final = 16
PROBLEMS: Final = (
    ProblemKind(code=AccountRefusal.EXISTS, status=409, title="The account is there, or the merchant has another one"),
    ProblemKind(code=AccountRefusal.CHANGED_MEANWHILE, status=409, title="The account was changed meanwhile"),
    ProblemKind(
        code="account_unusable", status=422, title="With this the channel could not be spoken with or verified"
    ),
)
_KEYS_EXAMPLE: Final = {
    "private_key": "-----BEGIN PRIVATE KEY-----…",
    "verify_keys": [{"name": "PUB_KEY_ID_0114232134912410000000000000", "pem": "-----BEGIN PUBLIC KEY-----…"}],
    "serial": "5157F09EFDC096DE15EBE81A47057A7200000000",
    "seal_key": "0123456789abcdef0123456789abcdef",
}


class VerifyKey(RequestModel):
    """One key of the channel: its serial or public-key id (at Alipay any name), and the key or certificate as PEM."""

    name: Annotated[str, Text(64)]
    pem: str


class KeysRequest(RequestModel):
    """All keys of an account: two of the channel's are given while one replaces the other."""

    private_key: str
    verify_keys: list[VerifyKey]
    serial: Annotated[str, Text(64)] | None = None
    seal_key: Annotated[str, Text(32, 32)] | None = None
    certificate: str | None = None
    root: str | None = None

    def secrets(self) -> Secrets:
        """As they are sealed. Raises Problem for too much of them."""
        pems = [self.private_key, self.certificate or "", self.root or "", *(key.pem for key in self.verify_keys)]
        if len(self.verify_keys) > _KEYS_MAX or any(len(pem) > _PEM for pem in pems):
            raise Problem("invalid_field", field="verify_keys")
        return Secrets(
            private_key=self.private_key,
            verify_keys={key.name: key.pem for key in self.verify_keys},
            serial=self.serial or "",
            seal_key=self.seal_key or "",
            certificate=self.certificate,
            root=self.root,
        )


class AccountRequest(RequestModel):
    """A new account; without `merchant_id` it is the platform's. `merchant_ref` is the mchid or seller id."""

    channel: Annotated[str, Text(32)]
    merchant_id: Annotated[str, Text(64)] | None = None
    merchant_ref: Annotated[str, Text(64)]
    app_ref: Annotated[str, Text(64)]
    base_url: Annotated[str, Text(200)]
    keys: KeysRequest


class AccountBody(msgspec.Struct, frozen=True, kw_only=True):
    """An account without its keys; `verifies_with` names the channel's keys that are valid now."""

    account_id: str
    channel: str
    merchant_id: str | None
    merchant_ref: str
    app_ref: str
    base_url: str
    status: str
    version: int
    verifies_with: list[str]


class AccountListBody(msgspec.Struct, frozen=True, kw_only=True):
    """All accounts, oldest first."""

    data: list[AccountBody]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDesk:
    """What operators do with accounts, alike on the command line and on the internal port."""

    database: Database
    clock: Clock
    envelope: Envelope
    tls_only: bool

    async def list_all(self) -> list[AccountBody]:
        """All accounts, without keys."""
        async with self.database.read() as conn:
            held = await channel_accounts.read_all(conn)
        return [self.shown(account) for account in held]

    async def add(self, wish: AccountRequest, actor: str) -> UUID:
        """Add an account. Raises Problem."""
        merchant_id = None if wish.merchant_id is None else MerchantId(_id("mer", wish.merchant_id, "merchant_id"))
        command = AddAccount(
            channel=wish.channel,
            merchant_id=merchant_id,
            merchant_ref=wish.merchant_ref,
            app_ref=wish.app_ref,
            base_url=wish.base_url,
            secrets=wish.keys.secrets(),
            actor=actor,
        )
        async with self.database.transaction() as tx:
            try:
                added = await manage_accounts.add(
                    command, tx, self.clock, envelope=self.envelope, tls_only=self.tls_only
                )
            except ConfigInvalid as error:
                raise Problem("account_unusable", detail=str(error)) from None
        if isinstance(added, AccountRefusal):
            raise Problem(added)
        return added

    async def rotate(self, account_id: UUID, keys: KeysRequest, actor: str) -> AccountBody:
        """Replace an account's keys; running processes take them within 15 s. Raises Problem."""
        command = RotateAccount(account_id=account_id, secrets=keys.secrets(), actor=actor)
        async with self.database.transaction() as tx:
            try:
                changed = await manage_accounts.rotate(command, tx, self.clock, envelope=self.envelope)
            except ConfigInvalid as error:
                raise Problem("account_unusable", detail=str(error)) from None
        return self._told(changed)

    async def retire(self, account_id: UUID, actor: str) -> AccountBody:
        """Send no new payments to an account. Raises Problem."""
        async with self.database.transaction() as tx:
            changed = await manage_accounts.retire(RetireAccount(account_id=account_id, actor=actor), tx, self.clock)
        return self._told(changed)

    def shown(self, held: HeldAccount) -> AccountBody:
        """The account as operators see it."""
        return AccountBody(
            account_id=str(held.account_id),
            channel=held.channel,
            merchant_id=None if held.merchant_id is None else show("mer", held.merchant_id),
            merchant_ref=held.merchant_ref,
            app_ref=held.app_ref,
            base_url=held.base_url,
            status=held.status,
            version=held.version,
            verifies_with=sorted(manage_accounts.opened(held, self.envelope).verify_keys),
        )

    def _told(self, changed: HeldAccount | AccountRefusal) -> AccountBody:
        if isinstance(changed, AccountRefusal):
            raise Problem(changed)
        return self.shown(changed)


class AccountsApi:
    """Handlers of the internal port."""

    def __init__(self, desk: AccountDesk) -> None:
        self._desk = desk

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        base = "/internal/v1/channel-accounts"
        edge.route(
            "GET",
            base,
            self.list_all,
            summary="List accounts at channels",
            response=AccountListBody,
            auth="operator",
            scope="viewer",
        )
        edge.route(
            "POST",
            base,
            self.add,
            summary="Add an account at a channel",
            request=AccountRequest,
            response=AccountBody,
            status=201,
            auth="operator",
            scope="operator",
            example={
                "channel": "wechat",
                "merchant_ref": "1900000109",
                "app_ref": "wx8888888888888888",
                "base_url": "https://api.mch.weixin.qq.com",
                "keys": _KEYS_EXAMPLE,
            },
        )
        edge.route(
            "POST",
            f"{base}/{{account_id}}/rotate",
            self.rotate,
            summary="Replace the keys of an account",
            request=KeysRequest,
            response=AccountBody,
            auth="operator",
            scope="operator",
            example=_KEYS_EXAMPLE,
        )
        edge.route(
            "POST",
            f"{base}/{{account_id}}/retire",
            self.retire,
            summary="Send no new payments to an account",
            response=AccountBody,
            auth="operator",
            scope="operator",
        )

    async def list_all(self, _call: Call[None]) -> Reply:
        """All accounts."""
        return Reply(content=AccountListBody(data=await self._desk.list_all()))

    async def add(self, call: Call[AccountRequest]) -> Reply:
        """A new account."""
        assert call.operator is not None
        added = await self._desk.add(call.body, call.operator.subject)
        shown = next(each for each in await self._desk.list_all() if each.account_id == str(added))
        return Reply(status=201, content=shown)

    async def rotate(self, call: Call[KeysRequest]) -> Reply:
        """Other keys."""
        assert call.operator is not None
        account_id = _uuid(call.path_params["account_id"])
        return Reply(content=await self._desk.rotate(account_id, call.body, call.operator.subject))

    async def retire(self, call: Call[None]) -> Reply:
        """No new payments."""
        assert call.operator is not None
        account_id = _uuid(call.path_params["account_id"])
        return Reply(content=await self._desk.retire(account_id, call.operator.subject))


def _id(prefix: str, text: str, name: str) -> UUID:
    try:
        return parse(prefix, text)
    except ValueError:
        raise Problem("invalid_field", field=name) from None


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Problem("not_found") from None
