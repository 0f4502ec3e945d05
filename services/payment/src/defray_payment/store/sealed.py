"""Everything this service keeps sealed: read in bounded pages, locked where stale, written in its new seal."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.sql import queries
from defray_payment.domain.seals import account_context, action_context, callback_context, payer_context

Q = queries(__file__)

Key: TypeAlias = tuple[str, str]
"""What names a row; the second part is empty where one column does."""
FIRST: Key = ("", "")


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One sealed column, and the place that its values are bound to."""

    name: str
    page: str
    lock: str
    write: str
    context: Callable[[Key], str]


KINDS: Sequence[Kind] = (
    Kind(
        name="callback.raw",
        page=Q.callback_page,
        lock=Q.callback_lock,
        write=Q.callback_write,
        context=lambda key: callback_context(*key),
    ),
    Kind(
        name="attempt.action",
        page=Q.action_page,
        lock=Q.action_lock,
        write=Q.action_write,
        context=lambda key: action_context(key[0]),
    ),
    Kind(
        name="attempt.payer",
        page=Q.payer_page,
        lock=Q.payer_lock,
        write=Q.payer_write,
        context=lambda key: payer_context(key[0]),
    ),
    Kind(
        name="channel_account.secrets",
        page=Q.account_page,
        lock=Q.account_lock,
        write=Q.account_write,
        context=lambda key: account_context(key[0]),
    ),
)


async def page(conn: ReadConn, kind: Kind, key_id: str, *, after: Key, limit: int) -> list[tuple[Key, bool]]:
    """The next rows in key order, each with whether it is sealed with another key than `key_id`."""
    rows = await conn.fetch(kind.page, key_id.encode(), *after, limit)
    return [((row["key_1"], row["key_2"]), bool(row["stale"])) for row in rows]


async def lock(tx: WriteTx, kind: Kind, key_id: str, keys: Sequence[Key]) -> list[tuple[Key, bytes]]:
    """Those of these rows that are still stale and that nobody holds, locked, with their values."""
    rows = await tx.fetch(kind.lock, key_id.encode(), [key[0] for key in keys], [key[1] for key in keys])
    return [((row["key_1"], row["key_2"]), row["sealed"]) for row in rows]


async def write(tx: WriteTx, kind: Kind, values: Sequence[tuple[Key, bytes]]) -> None:
    """Put new seals on locked rows."""
    await tx.execute(
        kind.write, [key[0] for key, _ in values], [key[1] for key, _ in values], [sealed for _, sealed in values]
    )
