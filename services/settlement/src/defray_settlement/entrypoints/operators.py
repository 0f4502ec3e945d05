"""The operators' API on the internal port: the merchant registry and the check of the books."""

import datetime as dt
import hashlib
import secrets
from typing import Annotated, Final, Literal

import msgspec
from pydantic import Field

from defray_kernel.clock import Clock
from defray_kernel.db import Database
from defray_kernel.fields import CurrencyCode, RequestModel, Text
from defray_kernel.group_commit import GroupCommit
from defray_kernel.http import Call, Edge, Reply
from defray_kernel.ids import MerchantId, parse, show, uuid7
from defray_kernel.problems import Problem, ProblemKind
from defray_settlement.commands.change_merchant import Changed, ChangeMerchant
from defray_settlement.commands.change_merchant import Outcome as ChangeOutcome
from defray_settlement.commands.register_merchant import NameTaken, Registered, RegisterMerchant
from defray_settlement.domain.merchant import (
    Act,
    Disable,
    IssueKey,
    Merchant,
    MerchantStatus,
    Refusal,
    Refused,
    Resume,
    RevokeKey,
    Suspend,
)
from defray_settlement.store import ledger, merchants
from defray_settlement.store.merchants import Registration

PROBLEMS: Final = (
    ProblemKind(code="name_taken", status=409, title="A merchant of other content has this name already"),
    ProblemKind(code="merchant_disabled", status=409, title="The merchant is disabled"),
    ProblemKind(code="too_many_keys", status=409, title="Two keys are live; revoke one first"),
)
_PAGE: Final = 100
_KEY_BYTES: Final = 24
_PREFIX_CHARACTERS: Final = 14

Scope = Annotated[str, Text(40, pattern=r"^[a-z][a-z_]{0,30}:(read|write|erase)$")]


class MerchantBody(RequestModel):
    """A new merchant; `fee_basis_points` is the share of each payment that the platform keeps, in 1/100 of a per cent."""

    name: Annotated[str, Text(200)]
    currencies: Annotated[tuple[CurrencyCode, ...], Field(min_length=1, max_length=32, strict=False)]
    fee_basis_points: Annotated[int, Field(ge=0, le=10_000)]
    mode: Literal["test", "live"]
    late_money: Literal["return", "reopen", "case"] = "return"


class KeyBody(RequestModel):
    """What a new API key may do, such as `orders:write`."""

    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=32, strict=False)]


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A live key; `api_key` is its whole text and stands only in the reply to its creation."""

    key_id: str
    prefix: str
    scopes: list[str]
    issued_at: dt.datetime
    api_key: str | None = None


class MerchantShown(msgspec.Struct, frozen=True, kw_only=True):
    """A registered merchant."""

    merchant_id: str
    name: str
    status: MerchantStatus
    mode: str
    currencies: list[str]
    late_money: str
    fee_basis_points: int
    version: int
    registered_at: dt.datetime
    changed_at: dt.datetime
    api_keys: list[KeyShown]


class MerchantsShown(msgspec.Struct, frozen=True, kw_only=True):
    """Merchants by registration, at most 100; ask again with `after` = the last merchant id for the next."""

    data: list[MerchantShown]


class CurrencyTotal(msgspec.Struct, frozen=True, kw_only=True):
    """One currency's books; `sum_minor` must be 0."""

    currency: str
    accounts: int
    debit_minor: int
    credit_minor: int
    sum_minor: int


class AccountFinding(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose balance is not the sum of its postings."""

    account_id: str
    balance_minor: int
    postings_minor: int


class TrialBalance(msgspec.Struct, frozen=True, kw_only=True):
    """The check of the books; at most 100 findings of a kind are shown."""

    balanced: bool
    currencies: list[CurrencyTotal]
    unexplained_accounts: list[AccountFinding]
    unbalanced_entries: list[str]


class RegistryApi:
    """Handlers of the internal port."""

    def __init__(
        self,
        database: Database,
        registering: GroupCommit[RegisterMerchant, Registered | NameTaken],
        changing: GroupCommit[ChangeMerchant, ChangeOutcome],
        clock: Clock,
    ) -> None:
        self._database, self._registering, self._changing, self._clock = database, registering, changing, clock

    def declare(self, edge: Edge) -> None:
        """Add the routes."""
        base = "/internal/v1/merchants"
        one = f"{base}/{{merchant_id}}"
        edge.route("POST", base, self.register, summary="Register a merchant", request=MerchantBody,
                   response=MerchantShown, status=201, auth="operator", scope="operator")  # fmt: skip
        edge.route("GET", base, self.page, summary="List merchants",
                   response=MerchantsShown, auth="operator", scope="viewer")  # fmt: skip
        edge.route("GET", one, self.get, summary="Show a merchant",
                   response=MerchantShown, auth="operator", scope="viewer")  # fmt: skip
        edge.route("POST", f"{one}/disable", self.disable, summary="Disable a merchant",
                   response=MerchantShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("POST", f"{one}/suspend", self.suspend, summary="Take no more orders of a merchant for a while",
                   response=MerchantShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("POST", f"{one}/resume", self.resume, summary="Take a suspended merchant's orders again",
                   response=MerchantShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("POST", f"{one}/api-keys", self.issue_key, summary="Issue an API key, shown once", request=KeyBody,
                   response=KeyShown, status=201, auth="operator", scope="operator")  # fmt: skip
        edge.route("POST", f"{one}/api-keys/{{key_id}}/revoke", self.revoke_key, summary="Revoke an API key",
                   response=MerchantShown, auth="operator", scope="operator")  # fmt: skip
        edge.route("GET", "/internal/v1/trial-balance", self.trial_balance, summary="Check the books",
                   response=TrialBalance, auth="operator", scope="viewer")  # fmt: skip

    async def register(self, call: Call[MerchantBody]) -> Reply:
        """Registering again with the same content answers 200 with the merchant that is there."""
        body = call.body
        wish = Registration(
            merchant_id=MerchantId(uuid7()),
            name=body.name,
            mode=body.mode,
            currencies=tuple(dict.fromkeys(body.currencies)),
            late_money=body.late_money,
            basis_points=body.fee_basis_points,
        )
        outcome = await self._registering.submit(
            RegisterMerchant(registration=wish, actor=_actor(call), cause=call.cause)
        )
        if not isinstance(outcome, Registered):
            raise Problem("name_taken", field="name")
        return Reply(content=await self._shown(outcome.merchant), status=200 if outcome.repeated else 201)

    async def page(self, call: Call[None]) -> Reply:
        """Page through the registry."""
        try:
            after = parse("mer", call.query["after"]) if "after" in call.query else None
        except ValueError:
            raise Problem("invalid_parameter", field="after") from None
        async with self._database.read() as conn:
            found = await merchants.page(conn, after, _PAGE)
            fees = await merchants.fee_basis_points(conn, [m.merchant_id for m in found], self._clock.now())
        return Reply(content=MerchantsShown(data=[_shown(m, fees[m.merchant_id]) for m in found]))

    async def get(self, call: Call[None]) -> Reply:
        """One merchant."""
        async with self._database.read() as conn:
            found = await merchants.get(conn, _merchant_id(call))
        if found is None:
            raise Problem("not_found")
        return Reply(content=await self._shown(found))

    async def disable(self, call: Call[None]) -> Reply:
        """Disabling again changes nothing."""
        return Reply(content=await self._shown((await self._change(call, Disable())).merchant))

    async def suspend(self, call: Call[None]) -> Reply:
        """Suspending again changes nothing."""
        return Reply(content=await self._shown((await self._change(call, Suspend())).merchant))

    async def resume(self, call: Call[None]) -> Reply:
        """Resuming again changes nothing."""
        return Reply(content=await self._shown((await self._change(call, Resume())).merchant))

    async def issue_key(self, call: Call[KeyBody]) -> Reply:
        """The key's text leaves here and is kept nowhere."""
        merchant_id = _merchant_id(call)
        async with self._database.read() as conn:
            found = await merchants.get(conn, merchant_id)
        if found is None:
            raise Problem("not_found")
        api_key = f"sk_{found.mode}_{secrets.token_hex(_KEY_BYTES)}"
        act = IssueKey(
            key_id=uuid7(),
            prefix=api_key[:_PREFIX_CHARACTERS],
            sha256=hashlib.sha256(api_key.encode()).digest(),
            scopes=tuple(sorted(set(call.body.scopes))),
        )
        changed = await self._change(call, act)
        key = next(key for key in _keys(changed.merchant) if key.key_id == show("key", act.key_id))
        return Reply(content=msgspec.structs.replace(key, api_key=api_key), headers={"Cache-Control": "no-store"})

    async def revoke_key(self, call: Call[None]) -> Reply:
        """Revoking again changes nothing."""
        try:
            act = RevokeKey(key_id=parse("key", call.path_params["key_id"]))
        except ValueError:
            raise Problem("not_found") from None
        return Reply(content=await self._shown((await self._change(call, act)).merchant))

    async def trial_balance(self, _call: Call[None]) -> Reply:
        """Check the books now."""
        async with self._database.read() as conn:
            books = await ledger.verify(conn)
        return Reply(content=_trial_balance(books))

    async def _change(self, call: Call[KeyBody] | Call[None], act: Act) -> Changed:
        outcome = await self._changing.submit(
            ChangeMerchant(merchant_id=_merchant_id(call), act=act, actor=_actor(call), cause=call.cause)
        )
        match outcome:
            case Changed():
                return outcome
            case Refused(reason=Refusal.KEY_UNKNOWN) | "unknown":
                raise Problem("not_found")
            case Refused(reason=reason):
                raise Problem(reason)

    async def _shown(self, merchant: Merchant) -> MerchantShown:
        async with self._database.read() as conn:
            fees = await merchants.fee_basis_points(conn, [merchant.merchant_id], self._clock.now())
        return _shown(merchant, fees[merchant.merchant_id])


def _actor(call: Call[MerchantBody] | Call[KeyBody] | Call[None]) -> str:
    assert call.operator is not None
    return call.operator.subject


def _merchant_id(call: Call[KeyBody] | Call[None]) -> MerchantId:
    try:
        return MerchantId(parse("mer", call.path_params["merchant_id"]))
    except ValueError:
        raise Problem("not_found") from None


def _shown(merchant: Merchant, fee_basis_points: int) -> MerchantShown:
    return MerchantShown(
        merchant_id=show("mer", merchant.merchant_id),
        name=merchant.name,
        status=merchant.status,
        mode=merchant.mode,
        currencies=list(merchant.currencies),
        late_money=merchant.late_money,
        fee_basis_points=fee_basis_points,
        version=merchant.version,
        registered_at=merchant.registered_at,
        changed_at=merchant.changed_at,
        api_keys=_keys(merchant),
    )


def _keys(merchant: Merchant) -> list[KeyShown]:
    return [
        KeyShown(key_id=show("key", k.key_id), prefix=k.prefix, scopes=list(k.scopes), issued_at=k.issued_at)
        for k in merchant.keys
    ]


def _trial_balance(books: ledger.Books) -> TrialBalance:
    return TrialBalance(
        balanced=books.balanced,
        currencies=[
            CurrencyTotal(
                currency=row["currency"],
                accounts=row["accounts"],
                debit_minor=row["debit_minor"],
                credit_minor=row["credit_minor"],
                sum_minor=row["debit_minor"] - row["credit_minor"],
            )
            for row in books.totals
        ],
        unexplained_accounts=[
            AccountFinding(
                account_id=row["account_id"], balance_minor=row["balance_minor"], postings_minor=row["postings_minor"]
            )
            for row in books.unexplained
        ],
        unbalanced_entries=[show("ent", entry_id) for entry_id in books.unbalanced],
    )
