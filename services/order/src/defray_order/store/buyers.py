"""Buyers as they are kept: enciphered, each with a sealed key of its own, and digests to be found by."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from defray_kernel.db import ReadConn, WriteTx
from defray_kernel.ids import OrderId
from defray_kernel.sql import queries
from defray_order.domain.buyer import LookUp

Q = queries(__file__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBuyer:
    """A buyer that nobody can read without both keys; `key_sealed` is None and `erased_at` set once it is erased."""

    order_id: OrderId
    enciphered: bytes
    key_sealed: bytes | None
    digests: Mapping[LookUp, bytes]
    erased_at: dt.datetime | None = None


async def made_key(conn: ReadConn, name: str) -> bytes | None:
    """A key this service made for itself, sealed."""
    sealed: bytes | None = await conn.fetchval(Q.made_key, name)
    return sealed


async def make_key(tx: WriteTx, name: str, key_sealed: bytes) -> None:
    """Keep a key, unless another process was first."""
    await tx.execute(Q.make_key, name, key_sealed)


async def keep(tx: WriteTx, buyers: Sequence[SealedBuyer]) -> None:
    """Insert buyers of new orders."""
    digests = [(digest, b.order_id, kind) for b in buyers for kind, digest in b.digests.items()]
    await tx.execute(
        Q.keep,
        [b.order_id for b in buyers],
        [b.enciphered for b in buyers],
        [b.key_sealed for b in buyers],
        [digest for digest, _, _ in digests],
        [order_id for _, order_id, _ in digests],
        [kind for _, _, kind in digests],
    )


async def of_orders(conn: ReadConn, order_ids: Sequence[OrderId]) -> dict[OrderId, SealedBuyer]:
    """The buyers there are; without their digests, which only look-ups need."""
    return {
        OrderId(row["order_id"]): SealedBuyer(
            order_id=row["order_id"],
            enciphered=row["enciphered"],
            key_sealed=row["key_sealed"],
            digests={},
            erased_at=row["erased_at"],
        )
        for row in await conn.fetch(Q.of_orders, order_ids)
    }


async def found_by(conn: ReadConn, digest: bytes, *, limit: int) -> list[OrderId]:
    """Orders of the buyer with this digest, and of whom the merchant's own reference says is the same buyer."""
    return [OrderId(row["order_id"]) for row in await conn.fetch(Q.found_by, digest, limit)]


async def erase(tx: WriteTx, order_ids: Sequence[OrderId], at: dt.datetime) -> int:
    """Lose the keys and digests of these orders' buyers; returns how many were not erased before."""
    await tx.execute(Q.lock, order_ids)
    return len(await tx.fetch(Q.erase, order_ids, at))
